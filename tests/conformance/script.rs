//! A transcript as data: comments, steps, and what follows each step.

use std::fmt;

/// A whole transcript.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script(pub(crate) Vec<Item>);

/// One part of a transcript.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// A comment or an empty line, as it stands.
    Prose(String),
    /// Something that is done, and the lines that come of it.
    Step { line: String, sent: Vec<Sent> },
}

/// A line that the daemon sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    /// The name of the connection.
    pub(crate) to: String,
    /// What came.
    pub(crate) text: String,
}

impl Script {
    /// Reads a transcript.
    pub(crate) fn parse(text: &str) -> Result<Script, String> {
        let mut items = Vec::new();
        for line in text.lines() {
            if line.is_empty() || line.starts_with('#') {
                items.push(Item::Prose(line.to_owned()));
            } else if let Some((to, text)) = line.split_once(" <- ") {
                let Some(Item::Step { sent, .. }) = items.last_mut() else {
                    return Err(format!("no step is right before {line:?}"));
                };
                sent.push(Sent { to: to.to_owned(), text: text.to_owned() });
            } else {
                items.push(Item::Step { line: line.to_owned(), sent: Vec::new() });
            }
        }
        Ok(Script(items))
    }

    /// The first step in which `played` differs, for a person.
    pub(crate) fn difference(&self, played: &Script) -> Option<String> {
        let (expected, got) =
            self.0.iter().zip(&played.0).find(|(expected, got)| expected != got)?;
        let text = |item: &Item| Script(vec![item.clone()]).to_string();
        Some(format!("\n--- expected\n{}--- got\n{}", text(expected), text(got)))
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.0 {
            match item {
                Item::Prose(line) => writeln!(f, "{line}")?,
                Item::Step { line, sent } => {
                    writeln!(f, "{line}")?;
                    for Sent { to, text } in sent {
                        writeln!(f, "{to} <- {text}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
