//! The names of a log and its rotated files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a rotated file may have behind its number.
pub(crate) const SUFFIXES: [&str; 3] = ["", ".gz", ".zst"];

/// `path` with `ending` behind it.
pub(crate) fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// The rotated file number `n`, 1 being the youngest.
pub(crate) fn rotated(path: &Path, n: u32, suffix: &str) -> PathBuf {
    with(path, &format!(".{n}{suffix}"))
}
