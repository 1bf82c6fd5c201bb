//! The variables of the environment: reading one, and finding those that look as if they were meant for
//! the daemon and are not read by it.
//!
//! An unknown key of the file is a mistake; an unknown variable is only warned of, for the environment
//! is shared: Kubernetes sets variables for every service, and those of one called `arqonbus` begin
//! as the daemon's own do.
//!
//! *Invariant*: the value of a variable is never repeated; it may be a secret.

use crate::daemon::config::mistake::nearest;
use crate::daemon::config::table::{FILE_FLAG, KEYS, env_name};

/// What the names of all variables begin with.
const PREFIX: &str = "ARQONBUS_";
/// Variables that this program's other commands and its tests read.
const OTHERS: [&str; 2] = ["ARQONBUS_URL", "ARQONBUS_TOKEN"];
const TEST_PREFIXES: [&str; 2] = ["ARQONBUS_TEST_", "ARQONBUS_WRITE_"];

/// A variable of this process's environment. Text that is not UTF-8 becomes text that no key takes.
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// A warning for each variable of this process's environment that nothing reads.
pub fn unread_variables() -> Vec<String> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let mut warnings: Vec<String> =
        all.filter_map(|(name, value)| warning(&name, &value)).collect();
    warnings.sort_unstable();
    warnings
}

/// What is to be said of a variable, if it looks as if it should be read and is not.
fn warning(name: &str, value: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    let known: Vec<String> =
        KEYS.iter().map(|key| key.env()).chain([env_name(FILE_FLAG)]).collect();
    let is_read = known.iter().any(|known| known == name) || OTHERS.contains(&name);
    let is_for_tests = TEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if is_read || is_for_tests || is_service_link(rest, value) {
        return None;
    }
    let rests = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
    let advice = match nearest(rest, rests) {
        Some(meant) => format!("did you mean {PREFIX}{meant}?"),
        None => "`arqonbus serve --help` lists all variables".to_owned(),
    };
    Some(format!("the environment variable {name} is not read; {advice}"))
}

/// Whether Kubernetes or Docker set it: `…SERVICE_HOST`, `…SERVICE_PORT`, `…SERVICE_PORT_NAME`,
/// `…PORT` with a URL as its value, `…PORT_9100_TCP` and what begins with that.
fn is_service_link(rest: &str, value: &str) -> bool {
    let is_protocol = |text: &str| ["TCP", "UDP", "SCTP"].contains(&text);
    let words: Vec<&str> = rest.split('_').collect();
    let is_service = words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]));
    let is_port = words.windows(3).any(|three| {
        let [port, number, protocol] = three else { return false };
        *port == "PORT" && number.parse::<u16>().is_ok() && is_protocol(protocol)
    });
    let is_url = words.last() == Some(&"PORT")
        && value
            .split_once("://")
            .is_some_and(|(scheme, _)| is_protocol(&scheme.to_ascii_uppercase()));
    is_service || is_port || is_url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_warned_of_with_what_was_meant() {
        for (name, meant) in [
            ("ARQONBUS_LISTNE", "did you mean ARQONBUS_LISTEN?"),
            ("ARQONBUS_MAX_CONNECTION", "did you mean ARQONBUS_MAX_CONNECTIONS?"),
            ("ARQONBUS_HTTP_PORT", "--help"),
            ("ARQONBUS_PORT", "--help"),
            ("ARQONBUS_CONFIGS", "did you mean ARQONBUS_CONFIG?"),
            ("ARQONBUS_limits", "--help"),
        ] {
            let said = warning(name, "s3cret").unwrap_or_else(|| panic!("{name} is not warned of"));
            assert!(said.contains(name) && said.contains(meant), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn what_is_read_and_what_others_set_is_not_warned_of() {
        let own = KEYS.iter().map(|key| key.env());
        let names = own.chain(
            [
                "PATH",
                "ARQONBUS_CONFIG",
                "ARQONBUS_URL",
                "ARQONBUS_TOKEN",
                "ARQONBUS_TEST_CLIENTS",
                "ARQONBUS_SERVICE_HOST",
                "ARQONBUS_SERVICE_PORT",
                "ARQONBUS_SERVICE_PORT_BUS",
                "ARQONBUS_PORT",
                "ARQONBUS_PORT_9100_TCP",
                "ARQONBUS_PORT_9100_TCP_ADDR",
                "ARQONBUS_PORT_9100_TCP_PORT",
                "ARQONBUS_PORT_9100_TCP_PROTO",
                "ARQONBUS_HEADLESS_SERVICE_HOST",
                "ARQONBUS_METRICS_PORT_9102_TCP",
                "ARQONBUS_METRICS_PORT",
            ]
            .map(str::to_owned),
        );
        for name in names {
            assert_eq!(warning(&name, "tcp://10.0.0.1:9100"), None, "{name}");
        }
    }
}
