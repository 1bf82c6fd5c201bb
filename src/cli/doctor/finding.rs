//! What a check finds.

use serde::Serialize;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// It is as it should be.
    Ok,
    /// It may be as it is, but it is good to know.
    Note,
    /// It will hurt under load.
    Warning,
    /// The daemon can't run as it is configured, or clients will fail.
    Problem,
}

impl Severity {
    /// All of them, the mildest first.
    pub(super) const ALL: [Severity; 4] =
        [Severity::Ok, Severity::Note, Severity::Warning, Severity::Problem];

    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Severity::Ok => "\x1b[32m",
            Severity::Note => "\x1b[36m",
            Severity::Warning => "\x1b[33m",
            Severity::Problem => "\x1b[31m",
        }
    }
}

/// What one check says of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How bad it is.
    pub(super) severity: Severity,
    /// What was found.
    pub(super) found: String,
    /// What mends it: a command or a setting; none if nothing has to be.
    pub(super) fix: Option<String>,
}

impl Verdict {
    /// All is well.
    pub(super) fn ok(found: impl Into<String>) -> Verdict {
        Verdict { severity: Severity::Ok, found: found.into(), fix: None }
    }

    /// Good to know.
    pub(super) fn note(found: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict { severity: Severity::Note, found: found.into(), fix: Some(fix.into()) }
    }

    /// It will hurt under load.
    pub(super) fn warning(found: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict { severity: Severity::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    /// It does not work.
    pub(super) fn problem(found: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict { severity: Severity::Problem, found: found.into(), fix: Some(fix.into()) }
    }
}

/// What a check found, why it matters and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) severity: Severity,
    /// What was found.
    pub(super) found: String,
    /// Why it matters.
    pub(super) why: &'static str,
    /// What mends it.
    pub(super) fix: Option<String>,
}

impl Finding {
    /// The finding for a person: a line if all is well, three otherwise.
    pub(super) fn lines(&self, is_terminal: bool) -> Vec<String> {
        let [colour, plain] =
            if is_terminal { [self.severity.colour(), "\x1b[0m"] } else { [""; 2] };
        let word = self.severity.as_str();
        let mut lines = vec![format!("{colour}{word:<7}{plain}  {}: {}", self.check, self.found)];
        if self.severity != Severity::Ok {
            lines.push(format!("{:9}why: {}", "", self.why));
        }
        lines.extend(self.fix.as_ref().map(|fix| format!("{:9}fix: {fix}", "")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_well_takes_more_than_a_line() {
        let finding = |severity, fix: Option<&str>| Finding {
            check: "clock",
            severity,
            found: "hpet".to_owned(),
            why: "Reading it is slow.",
            fix: fix.map(str::to_owned),
        };
        assert_eq!(finding(Severity::Ok, None).lines(false), ["ok       clock: hpet"]);
        assert_eq!(
            finding(Severity::Warning, Some("do it")).lines(false),
            ["warning  clock: hpet", "         why: Reading it is slow.", "         fix: do it"]
        );
        assert!(finding(Severity::Problem, None).lines(true)[0].starts_with("\x1b[31mproblem\x1b"));
    }

    #[test]
    fn severities_are_in_order() {
        assert!(Severity::ALL.is_sorted());
        for severity in Severity::ALL {
            let json = serde_json::to_string(&severity).unwrap();
            assert_eq!(json, format!("\"{}\"", severity.as_str()));
        }
    }
}
