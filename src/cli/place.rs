//! Whether a file can be written where a person wants it: looked at before the work whose result it
//! will hold.
//!
//! *Invariant*: what is there stays as it is, and nothing new is left behind.

use crate::cli::failure::Failure;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Fails if no file can be written there.
pub(super) fn check(path: &Path, flag: &str) -> Result<(), Failure> {
    look(path).map_err(|error| {
        let path = path.display();
        Failure::Usage(format!("{path} can't be written: {error}; give {flag} another file"))
    })
}

/// As [`check`], for a file whose directories will be made.
pub(super) fn check_with_directories(path: &Path, flag: &str) -> Result<(), Failure> {
    let missing = path
        .ancestors()
        .skip(1)
        .take_while(|directory| !directory.as_os_str().is_empty() && !directory.exists());
    // A directory that can be made is a place at which a file could be.
    check(missing.last().unwrap_or(path), flag)
}

fn look(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        // It is opened and not changed.
        Ok(there) if there.is_file() => OpenOptions::new().write(true).open(path).map(drop),
        Ok(there) if there.is_dir() => Err(ErrorKind::IsADirectory.into()),
        // To open a pipe and close it again would end whoever reads from it.
        Ok(_) => Ok(()),
        Err(_) => match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => fs::remove_file(path),
            // A link to a file that is not there yet.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_tried_and_left_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("kept"), "kept").unwrap();
        for (name, is_fine, is_fine_with_directories) in [
            ("kept", true, true),
            ("new", true, true),
            ("none/new", false, true),
            ("none/none/new", false, true),
            ("kept/new", false, false),
            ("", false, false),
        ] {
            assert_eq!(check(&at(name), "--json").is_ok(), is_fine, "{name}");
            let answer = check_with_directories(&at(name), "--out");
            assert_eq!(answer.is_ok(), is_fine_with_directories, "{name}");
        }
        assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(check(Path::new("/dev/null"), "--json").is_ok());
    }
}
