//! Errors of the environment of a run, such as a full disk. They say nothing about the cache.

use std::io::{self, ErrorKind};

use anyhow::anyhow;

/// The number of the system's error if this process has too many descriptors open.
const EMFILE: i32 = 24;

/// The same for the whole system.
const ENFILE: i32 = 23;

/// The exit status of a child that the environment ended.
pub(super) const EXIT: u8 = 3;

/// Returns the problem and what to do, if the environment is at fault for an error at an own file.
pub(super) fn problem(error: &io::Error) -> Option<String> {
    let what = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!(
            "the disk with the temporary files ({}) is full: set TMPDIR to a directory with more \
             room",
            std::env::temp_dir().display()
        ),
        // An own file is short.
        ErrorKind::FileTooLarge => {
            "the limit of the size of a file is too small: raise `ulimit -f`".to_owned()
        }
        _ => match folio_cache::raw_os_error(error)? {
            EMFILE => "too few descriptors: raise `ulimit -n`".to_owned(),
            ENFILE => "the system has no free descriptor".to_owned(),
            _ => return None,
        },
    };
    Some(format!("{what}: {error}"))
}

/// Returns the problem and what to do, if the environment is at fault that no process was started.
pub(super) fn problem_of_start(error: &io::Error) -> Option<String> {
    let is_limit = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory);
    let limit = || {
        format!("no process can be started: raise `ulimit -u`, or the limit of the group: {error}")
    };
    is_limit.then(limit).or_else(|| problem(error))
}

/// Returns the error of a run that the environment ended.
pub(super) fn error(problem: &str) -> anyhow::Error {
    anyhow!("the run was ended, and no fault of the cache was found: {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_environment_is_named() {
        for (number, name) in
            [(28, "TMPDIR"), (122, "TMPDIR"), (27, "ulimit -f"), (24, "ulimit -n"), (23, "system")]
        {
            let text = problem(&io::Error::from_raw_os_error(number)).unwrap_or_default();
            assert!(text.contains(name), "{number}: {text}");
        }
        let again = io::Error::from_raw_os_error(11);
        assert!(problem_of_start(&again).unwrap_or_default().contains("ulimit -u"));
        for number in [5, 2, 11] {
            assert_eq!(problem(&io::Error::from_raw_os_error(number)), None, "{number}");
        }
    }
}
