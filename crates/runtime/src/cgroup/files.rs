//! Control files: read, written, walked and removed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use super::CgroupError;

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io { doing, path: path.to_owned(), source }
}

/// Writes a value in one `write`, as control files demand; the file must exist.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let attempt = || OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes());
    attempt().map_err(|source| CgroupError::Write {
        value: value.to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// The content of a file; `None` when it or its controller is not there.
pub(super) fn read(path: &Path) -> Result<Option<String>, CgroupError> {
    let mut text = String::new();
    match fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(e) if gone(&e) || e.raw_os_error() == Some(wharf_sys::errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// A single number; `None` when the file is not there, `u64::MAX` for `max`.
pub(super) fn number(path: &Path) -> Result<Option<u64>, CgroupError> {
    Ok(read(path)?.map(|text| parse(text.trim())))
}

/// A number, or the word for none.
pub(super) fn parse(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

/// Lines of `key value`.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// The processes directly in a directory.
pub(super) fn pids(dir: &Path, into: &mut Vec<i32>) -> Result<(), CgroupError> {
    if let Some(text) = read(&dir.join("cgroup.procs"))? {
        into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    Ok(())
}

/// Calls `each` for a directory and all below it, children first.
pub(super) fn visit(
    dir: &Path,
    each: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if gone(&e) => return Ok(()),
        other => other.map_err(failed("list", dir))?,
    };
    for entry in entries {
        // A cgroup may vanish while it is listed.
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), each)?;
        }
    }
    each(dir)
}

/// Removes a cgroup; one that has children, children first.
pub(super) fn remove(dir: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(dir) {
        Err(e) if gone(&e) => Ok(()),
        Err(e) if e.raw_os_error() == Some(wharf_sys::errno::BUSY) => {
            visit(dir, &mut |each| match fs::remove_dir(each) {
                Err(e) if !gone(&e) => Err(failed("remove", each)(e)),
                _ => Ok(()),
            })
        }
        other => other.map_err(failed("remove", dir)),
    }
}

fn gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(wharf_sys::errno::NODEV)
}
