//! Files that are either whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much a write must survive before the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process: the bytes are in the kernel.
    Process,
    /// The loss of power: the bytes are on the disk.
    Power,
}

/// Replaces `path` by `bytes` in one step: a reader sees the old content or the new, never a mix.
///
/// The file gets `mode`. Nothing is left behind when it fails.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32, how: Durability) -> io::Result<()> {
    let temp = temp_beside(path);
    let result = write_temp(&temp, bytes, mode, how).and_then(|()| fs::rename(&temp, path));
    if let Err(e) = result {
        // The temporary name is ours alone; if it cannot be removed the caller's error matters more.
        drop(fs::remove_file(&temp));
        return Err(e);
    }
    if how == Durability::Power {
        sync_parent(path)?;
    }
    Ok(())
}

/// Makes a rename or creation in the directory of `path` durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Creates `dir` and its parents with mode 0700 where they are missing.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A name in the same directory that no other writer uses: pid and a counter.
pub fn temp_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp-{}-{n}", std::process::id()))
}

fn write_temp(temp: &Path, bytes: &[u8], mode: u32, how: Durability) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temp)?;
    file.write_all(bytes)?;
    match how {
        Durability::Process => Ok(()),
        Durability::Power => file.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_atomic(&path, b"one", 0o600, Durability::Process).unwrap();
        write_atomic(&path, b"two", 0o600, Durability::Power).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("child")).unwrap();
        write_atomic(&path, b"x", 0o600, Durability::Process).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
