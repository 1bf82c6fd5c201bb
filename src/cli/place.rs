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
    look(path).map_err(|error| refusal(path, &error, flag))
}

/// As [`check`], for a file whose directories will be made.
pub(super) fn check_with_directories(path: &Path, flag: &str) -> Result<(), Failure> {
    let missing = path
        .ancestors()
        .skip(1)
        .take_while(|directory| !directory.as_os_str().is_empty() && !directory.exists());
    match missing.last() {
        // No directory is made through a link.
        Some(link) if link.is_symlink() => {
            Err(refusal(link, &ErrorKind::NotADirectory.into(), flag))
        }
        // A directory that can be made is a place at which a file could be.
        Some(directory) => check(directory, flag),
        None => check(path, flag),
    }
}

fn refusal(path: &Path, error: &io::Error, flag: &str) -> Failure {
    let path = path.display();
    Failure::Usage(format!("{path} can't be written: {error}; give {flag} another file"))
}

fn look(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        // It is opened and not changed.
        Ok(there) if there.is_file() => OpenOptions::new().write(true).open(path).map(drop),
        Ok(there) if there.is_dir() => Err(ErrorKind::IsADirectory.into()),
        // To open a pipe and close it again would end whoever reads from it.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => match fs::read_link(path) {
            // A write makes what the link names. Links in a circle are another error.
            Ok(target) => look(&path.parent().unwrap_or(Path::new("")).join(target)),
            Err(_) => try_to_make(path),
        },
        Err(error) => Err(error),
    }
}

fn try_to_make(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => fs::remove_file(path),
        // Somebody has just made it, and it is theirs.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn places_are_tried_and_left_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("kept"), "kept").unwrap();
        let links = [
            ("link", at("new")),
            ("link-here", "new".into()),
            ("link-twice", "link".into()),
            ("link-kept", "kept".into()),
            ("link-far", at("none/new")),
            ("link-back", "link-back".into()),
        ];
        for (name, target) in &links {
            symlink(target, at(name)).unwrap();
        }
        for (name, is_fine, is_fine_with_directories) in [
            ("kept", true, true),
            ("new", true, true),
            ("none/new", false, true),
            ("none/none/new", false, true),
            ("kept/new", false, false),
            ("", false, false),
            ("link", true, true),
            ("link-here", true, true),
            ("link-twice", true, true),
            ("link-kept", true, true),
            ("link-far", false, false),
            ("link-back", false, false),
            ("link/new", false, false),
            ("link-here/none/new", false, false),
        ] {
            assert_eq!(check(&at(name), "--json").is_ok(), is_fine, "{name}");
            let answer = check_with_directories(&at(name), "--out");
            assert_eq!(answer.is_ok(), is_fine_with_directories, "{name}");
        }
        assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1 + links.len());
        assert!(check(Path::new("/dev/null"), "--json").is_ok());
    }
}
