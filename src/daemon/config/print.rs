//! The configuration as a document: the one in force as a file that can be read back, and the
//! reference of all keys for the README.

use crate::daemon::config::Loaded;
use crate::daemon::config::meaning::Config;
use crate::daemon::config::rooms::ROOM_KEYS;
use crate::daemon::config::table::{FILE_DOC, FILE_FLAG, KEYS, Key, env_name};
use crate::daemon::host::Host;
use std::fmt::Write;
use std::sync::LazyLock;

/// The configuration in force as a TOML file: each key with what it is for, its default, its
/// environment name, its flag, and where its value comes from.
pub fn print_config(loaded: &Loaded) -> String {
    let mut text = String::from(
        "# The configuration of ArqonBus as it is in force. This is a configuration file itself:\n\
         # give it to `arqonbus serve --config`.\n",
    );
    let mut current_table = "";
    for key in KEYS {
        let (table, name) = key.place();
        if table != current_table {
            let _ = write!(text, "\n[{table}]\n");
            current_table = table;
        }
        let _ = write!(
            text,
            "\n# {}\n# Takes {}. Default: {}. Environment: {}. Flag: --{}. From: {}.\n",
            key.doc,
            key.field.accepts(),
            default_text(key),
            key.env(),
            key.flag,
            loaded.source(key.path).as_str(),
        );
        if let Some(value) = key.field.show(&loaded.config) {
            let _ = writeln!(text, "{name} = {value}");
        }
    }
    for room in &loaded.config.rooms {
        text.push_str("\n[[rooms]]\n");
        for key in ROOM_KEYS {
            if let Some(value) = key.field.show(room) {
                let _ = writeln!(text, "{} = {value}", key.name);
            }
        }
    }
    text
}

/// The reference of all keys, as Markdown tables.
pub fn markdown_table() -> String {
    let mut text = String::from(
        "| key in the file | flag | environment | takes | default | live | what it is for |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let _ = writeln!(
        text,
        "| | `--{FILE_FLAG}` | `{}` | a path | none | | {FILE_DOC} |",
        env_name(FILE_FLAG)
    );
    for key in KEYS {
        let _ = writeln!(
            text,
            "| `{}` | `--{}` | `{}` | {} | {} | {} | {} |",
            key.path,
            key.flag,
            key.env(),
            cell(&key.field.accepts()),
            cell(&default_text(key)),
            if key.is_live { "yes" } else { "" },
            cell(key.doc),
        );
    }
    text.push_str(
        "\nRooms that are there from the start, each in a `[[rooms]]` table of its own:\n\n\
         | key | takes | default | what it is for |\n\
         |---|---|---|---|\n",
    );
    for key in ROOM_KEYS {
        let takes = cell(&key.field.accepts());
        let _ = writeln!(text, "| `{}` | {takes} | {} | {} |", key.name, key.default, key.doc);
    }
    text
}

/// The default of a key, the same on every machine.
pub(super) fn default_text(key: &Key) -> String {
    static ANYWHERE: LazyLock<Config> = LazyLock::new(|| Config::defaults(&Host::anywhere()));
    match key.default {
        Some(words) => words.to_owned(),
        None => key.field.show(&ANYWHERE).unwrap_or_else(|| "none".to_owned()),
    }
}

/// Text in a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(" *", " \\*")
}
