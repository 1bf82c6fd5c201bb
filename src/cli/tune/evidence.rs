//! The configuration that came out, with everything it rests on, as one file.
//!
//! *Invariant*: the file is a configuration that `check-config` accepts; whatever is not
//! configuration is a comment.

use crate::cli::failure::Failure;
use crate::cli::tune::setting::Setting;
use crate::daemon::config::check_file;
use std::fs;
use std::path::Path;

/// What a file is made of.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// The setting.
    pub(super) setting: Setting,
    /// What would hold without it.
    pub(super) default: Setting,
    /// What it rests on: a heading and lines for each part.
    pub(super) parts: Vec<(&'static str, Vec<String>)>,
}

impl Evidence {
    /// The file.
    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "# A configuration of ArqonBus that was measured on this kind of machine, and what it \
             rests on.\n# Written by `arqonbus tune`; take it with `arqonbus serve --config`, or copy \
             its keys.\n",
        );
        for (heading, lines) in &self.parts {
            text += &format!("#\n# {heading}\n");
            for line in lines {
                text += &format!("#   {}\n", line.replace(['\n', '\r'], " "));
            }
        }
        let mut table = "";
        text.push('\n');
        for (line, default) in self.setting.lines().into_iter().zip(self.default.lines()) {
            if line.table != table {
                table = line.table;
                text += &format!("\n[{table}]\n");
            }
            text += &match line == default {
                true => format!("# {} = {} is the default\n", line.key, line.value),
                false => format!("{} = {}\n", line.key, line.value),
            };
        }
        text
    }

    /// Writes the file and checks it as `check-config` does.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let refused = |error: &dyn std::fmt::Display| {
            Failure::Refused(format!("{}: {error}", path.display()))
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| refused(&error))?;
        }
        fs::write(path, self.text()).map_err(|error| refused(&error))?;
        check_file(path).map(drop).map_err(|mistakes| {
            let text: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            refused(&format!("the file that was written is refused: {}", text.join("; ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Pin;
    use crate::daemon::host::Cores;

    #[test]
    fn what_is_written_is_a_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/down/host.toml");
        let default = Setting::default_on(Cores { affinity: 2, quota: None });
        let mut setting = Setting { shards: 1, pin: Pin::Off, ..default };
        setting.turn.busy_poll_us = 20;
        let parts = vec![("Host", vec!["two\nlines".to_owned(), "[odd] = x".to_owned()])];
        let evidence = Evidence { setting, default, parts };
        evidence.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["shards"].as_integer(), Some(1));
        assert_eq!(table["pin"].as_str(), Some("off"));
        assert_eq!(table["turn"]["busy_poll_us"].as_integer(), Some(20));
        assert_eq!(table["turn"].get("lane_budget"), None, "defaults are comments");
        let summary = check_file(&path).unwrap();
        assert!(summary.differences.iter().any(|it| it.key == "turn.busy_poll_us"));

        Evidence { setting: default, ..evidence }.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.parse::<toml::Table>().unwrap()["turn"].as_table().unwrap().is_empty());
    }
}
