//! Why a command did not do what it was asked to do, and the exit code that scripts see.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done; or whoever read standard output has closed it |
//! | 1 | the bus refused something, something failed on the way, or `doctor` found a problem |
//! | 2 | the command line or the configuration is wrong |
//! | 3 | no bus can be reached at the URL |
//! | 130, 143 | stopped by SIGINT, SIGTERM (128 and the signal's number) |

use std::io;

/// The table above, for `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0         done, or the reader of standard output is gone
  1         refused by the bus, failed on the way, or a problem found by doctor
  2         wrong usage, or a wrong configuration
  3         cannot connect
  130, 143  stopped by SIGINT, SIGTERM";

/// Why a command ended early. What is a sentence still has to be told to the person; what is not
/// needs no words, or has had them.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// The command line asks for something that can't be.
    Usage(String),
    /// Nothing that speaks the protocol answers at the URL.
    Unreachable(String),
    /// The bus said no, or something failed on the way.
    Refused(String),
    /// The configuration is wrong, and the person was told where.
    Misconfigured,
    /// Some of it failed, and the person was told what.
    Incomplete,
    /// A signal asked the program to end.
    Stopped(i32),
    /// Nobody reads standard output any more.
    OutputClosed,
}

impl Failure {
    /// The exit code, by the table of this module.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Incomplete => 1,
            Failure::Usage(_) | Failure::Misconfigured => 2,
            Failure::Unreachable(_) => 3,
            Failure::Stopped(signal) => u8::try_from(128 + signal).unwrap_or(1),
            Failure::OutputClosed => 0,
        }
    }

    /// What the person still has to be told.
    pub(super) fn sentence(&self) -> Option<&str> {
        match self {
            Failure::Usage(text) | Failure::Unreachable(text) | Failure::Refused(text) => {
                Some(text)
            }
            Failure::Misconfigured
            | Failure::Incomplete
            | Failure::Stopped(_)
            | Failure::OutputClosed => None,
        }
    }

    /// What a failed write to standard output means: a pipe whose reader left is no failure.
    pub(super) fn of_output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Refused(format!("cannot write to standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_table() {
        let text = || "why".to_owned();
        for (failure, code, is_told) in [
            (Failure::Refused(text()), 1, true),
            (Failure::Incomplete, 1, false),
            (Failure::Usage(text()), 2, true),
            (Failure::Unreachable(text()), 3, true),
            (Failure::Stopped(2), 130, false),
            (Failure::Stopped(15), 143, false),
            (Failure::OutputClosed, 0, false),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
            assert_eq!(failure.sentence().is_some(), is_told, "{failure:?}");
        }
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::of_output(&closed), Failure::OutputClosed);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::of_output(&full).exit_code(), 1);
    }
}
