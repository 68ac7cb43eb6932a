//! What a keeper leaves behind: its exit file, or, if it was killed, a container to end.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use wharf_base::clock::Clock;
use wharf_runtime::cgroup::{Cgroup, CgroupError};

use crate::protocol::{EXIT_FILE, Exit, RECORD_FILE, Record};
use crate::{record, remains};

/// A container without a keeper could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum BuryError {
    /// A file of its directory could not be used.
    #[error("use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer, or what is wrong with the content.
        source: io::Error,
    },
    /// Its processes could not be killed, or its cgroup not removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The exit status that the keeper of `dir` wrote, if the container has ended under a living keeper.
pub fn exit_on_file(dir: &Path) -> Result<Option<Exit>, BuryError> {
    read(dir.join(EXIT_FILE))
}

/// Ends the container in `dir` whose keeper does not answer, and returns its exit status.
///
/// Whatever is left in its cgroup is killed and the cgroup removed. If the keeper did not write an exit file before
/// it died, the status is 137, as of a container that was killed. `None` means that no container ever ran there.
/// Blocks, for as long as the kernel needs to kill; may be called again after an error.
///
/// This is the only bond between a keeper's life and its container's: a parent-death signal would be lost when a
/// container changes its user, and would race with the keeper's own orderly end.
pub fn bury(dir: &Path, clock: &Clock) -> Result<Option<Exit>, BuryError> {
    let Some(record) = read::<Record>(dir.join(RECORD_FILE))? else {
        return exit_on_file(dir);
    };
    let oom = record.cgroup.oom_kills().unwrap_or(0) > 0;
    remains::end(&record.cgroup)?;
    if let Some(exit) = exit_on_file(dir)? {
        return Ok(Some(exit));
    }
    let exit = Exit { code: 137, signal: Some(9), oom, at: clock.unix_nanos() };
    let path = dir.join(EXIT_FILE);
    match record::write(&path, &exit) {
        Ok(()) => Ok(Some(exit)),
        Err(source) => Err(BuryError::File { path, source }),
    }
}

/// Ends what is in `cgroup` and removes it: for a container whose keeper died before it wrote down what there is to
/// [`bury`]. Blocks as that does; may be called again after an error, and for a cgroup that never was.
pub fn bury_unborn(cgroup: &Cgroup) -> Result<(), BuryError> {
    Ok(remains::end(cgroup)?)
}

fn read<T: DeserializeOwned>(path: PathBuf) -> Result<Option<T>, BuryError> {
    record::read(&path).map_err(|source| BuryError::File { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_file_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(exit_on_file(dir.path()).unwrap(), None);
        let exit = Exit { code: 143, signal: Some(15), oom: false, at: 5 };
        record::write(&dir.path().join(EXIT_FILE), &exit).unwrap();
        assert_eq!(exit_on_file(dir.path()).unwrap(), Some(exit));
        assert_eq!(bury(dir.path(), &Clock::system()).unwrap(), Some(exit));
    }

    #[test]
    fn a_broken_exit_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EXIT_FILE);
        std::fs::File::create(&path).unwrap();
        let e = exit_on_file(dir.path()).unwrap_err();
        assert_eq!(e.to_string(), format!("use {}", path.display()));
    }
}
