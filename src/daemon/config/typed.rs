//! What was typed: the flags, the environment and the file, collected but not yet understood.
//!
//! *Invariants*: values stand in the order of precedence, the weakest first, so that whoever reads
//! them one after the other ends with the one that holds. An empty environment variable is as good
//! as none.

use crate::daemon::config::field::Raw;
use crate::daemon::config::file::Document;
use crate::daemon::config::mistake::{Mistake, Source};
use crate::daemon::config::print::default_text;
use crate::daemon::config::table::{FILE_DOC, FILE_FLAG, KEYS, Key, env_name};
use clap::builder::PossibleValuesParser;
use clap::error::Result as ClapResult;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeValue;

/// The flags of `serve`: one for each key, as it was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeArgs {
    /// `--config`: the file to read.
    pub config: Option<PathBuf>,
    /// `--print-config`: write the configuration in force to standard output, and stop.
    pub print_config: bool,
    flags: BTreeMap<&'static str, String>,
}

/// One value that was typed.
#[derive(Debug)]
pub(super) struct Given<'t> {
    pub key: &'static Key,
    pub raw: Raw<'t>,
    pub source: Source,
}

/// All that was typed.
#[derive(Debug)]
pub(super) struct Typed<'t> {
    /// The file, if there is one.
    pub document: Option<&'t Document>,
    /// The values, the weakest first.
    pub given: Vec<Given<'t>>,
    /// The `[[rooms]]` of the file.
    pub rooms: Vec<Spanned<DeValue<'t>>>,
    /// What could not even be collected.
    pub mistakes: Vec<Mistake>,
}

impl<'t> Typed<'t> {
    /// Collects the three layers.
    pub(super) fn collect(
        args: &ServeArgs,
        env: impl Fn(&str) -> Option<String>,
        document: Option<&'t Document>,
    ) -> Typed<'t> {
        let mut typed =
            Typed { document, given: Vec::new(), rooms: Vec::new(), mistakes: Vec::new() };
        if let Some(document) = document {
            document.collect(&mut typed);
        }
        for key in KEYS {
            let name = key.env();
            if let Some(text) = env(&name).filter(|text| !text.is_empty()) {
                let source = Source::Environment(name);
                typed.given.push(Given { key, raw: Raw::Text(text), source });
            }
        }
        for key in KEYS {
            if let Some(text) = args.flags.get(key.flag) {
                let source = Source::Flag(key.flag);
                typed.given.push(Given { key, raw: Raw::Text(text.clone()), source });
            }
        }
        typed
    }
}

impl ServeArgs {
    /// Only a file.
    pub fn of_file(path: &Path) -> ServeArgs {
        ServeArgs { config: Some(path.to_owned()), ..ServeArgs::default() }
    }

    /// The file to read, from the flag or from the environment.
    pub(super) fn file(&self, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        self.config.clone().or_else(|| {
            env(&env_name(FILE_FLAG)).filter(|path| !path.is_empty()).map(PathBuf::from)
        })
    }
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE_FLAG)
            .long(FILE_FLAG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!("{FILE_DOC} [env: {}]", env_name(FILE_FLAG)));
        let print = Arg::new("print-config")
            .long("print-config")
            .action(ArgAction::SetTrue)
            .help("Print the configuration in force as a TOML file, and stop.");
        KEYS.iter().fold(command.arg(file).arg(print), |command, key| command.arg(flag(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        ServeArgs::augment_args(command)
    }
}

fn flag(key: &'static Key) -> Arg {
    let options = key.field.options();
    let default = default_text(key);
    let mut help = key.doc.to_owned();
    if options.is_empty() {
        let _ = write!(help, " Takes {}.", key.field.accepts());
    }
    let _ = write!(help, " [default: {}] [env: {}]", default.trim_matches('"'), key.env());
    let mut arg = Arg::new(key.flag)
        .long(key.flag)
        .value_name(key.field.value_name())
        .allow_negative_numbers(true)
        .help(help);
    if !options.is_empty() {
        arg = arg.value_parser(PossibleValuesParser::new(options));
    }
    if key.field.is_list() {
        arg = arg.action(ArgAction::Append);
    }
    match key.place().0 {
        "" => arg,
        "limits" => arg.help_heading("Limits"),
        "turn" => arg.help_heading("Turns"),
        "persistence" => arg.help_heading("Persistence"),
        _ => arg.help_heading("Policy"),
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> ClapResult<ServeArgs> {
        let mut args = ServeArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> ClapResult<()> {
        if let Some(path) = matches.get_one::<PathBuf>(FILE_FLAG) {
            self.config = Some(path.clone());
        }
        self.print_config |= matches.get_flag("print-config");
        for key in KEYS {
            if let Some(values) = matches.get_many::<String>(key.flag) {
                let values: Vec<&str> = values.map(String::as_str).collect();
                self.flags.insert(key.flag, values.join(","));
            }
        }
        Ok(())
    }
}
