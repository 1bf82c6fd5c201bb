//! The configuration file: which key stands where, and with what. What the values mean is not
//! asked here.

use crate::daemon::config::field::{Raw, wrong_type};
use crate::daemon::config::mistake::{Mistake, Position, Source, nearest};
use crate::daemon::config::table;
use crate::daemon::config::typed::{Given, Typed};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest file that is read: far more than anybody types, far less than does harm.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A file that was read.
#[derive(Debug)]
pub(super) struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Document, Mistake> {
        let unreadable = |error| Mistake::about_file(path, format!("can't be read: {error}"));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Mistake::about_file(
                path,
                "is larger than 4 MiB; that is no configuration",
            ));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Document::of(path, text)),
            Err(error) => {
                let line = 1 + newlines(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
                Err(Mistake::about_file(path, format!("line {line} is not UTF-8 text")))
            }
        }
    }

    /// A file that says that.
    pub(super) fn of(path: &Path, text: String) -> Document {
        Document { path: path.to_owned(), text }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Collects what stands in the file.
    pub(super) fn collect<'t>(&'t self, typed: &mut Typed<'t>) {
        let (root, errors) = DeTable::parse_recoverable(&self.text);
        let mut broken_lines = Vec::new();
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let mistake = self.mistake(at, "syntax", error.message());
            // One slip often makes the parser stumble several times over the same line.
            if let Some((line, _)) = mistake.rank().1
                && !broken_lines.contains(&line)
            {
                broken_lines.push(line);
                typed.mistakes.push(mistake);
            }
        }
        if broken_lines.is_empty() {
            self.walk("", root.into_inner(), typed);
        }
    }

    /// A mistake at that byte of the file.
    pub(super) fn mistake(&self, at: usize, key: &str, sentence: impl Into<String>) -> Mistake {
        Mistake::new(self.source(at), key, sentence)
    }

    fn source(&self, at: usize) -> Source {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = 1 + before[line_start..].chars().count();
        let at = Some((1 + newlines(before.as_bytes()), column));
        Source::File(Position { file: self.path.clone(), at })
    }

    fn walk<'t>(&'t self, table: &str, entries: DeTable<'t>, typed: &mut Typed<'t>) {
        for (word, value) in entries {
            let path = match table {
                "" => word.get_ref().to_string(),
                _ => format!("{table}.{}", word.get_ref()),
            };
            let at = value.span().start;
            if let Some(key) = table::find(&path) {
                typed.given.push(Given { key, raw: Raw::Toml(value), source: self.source(at) });
            } else if path == "rooms" {
                self.collect_rooms(value, typed);
            } else if table::is_table(&path) {
                match value.into_inner() {
                    DeValue::Table(entries) => self.walk(&path, entries, typed),
                    other => {
                        let sentence = wrong_type("a table", &other).sentence;
                        typed.mistakes.push(self.mistake(at, &path, sentence));
                    }
                }
            } else {
                let sentence = match nearest(&path, table::known_paths()) {
                    Some(known) => format!("is no key; did you mean `{known}`?"),
                    None => "is no key; `arqonbus serve --print-config` lists them".to_owned(),
                };
                typed.mistakes.push(self.mistake(word.span().start, &path, sentence));
            }
        }
    }

    fn collect_rooms<'t>(&'t self, value: Spanned<DeValue<'t>>, typed: &mut Typed<'t>) {
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Array(rooms) => typed.rooms.extend(rooms),
            other => {
                let sentence = wrong_type("a list of tables, `[[rooms]]`", &other).sentence;
                typed.mistakes.push(self.mistake(at, "rooms", sentence));
            }
        }
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}
