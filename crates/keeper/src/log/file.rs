//! The file being written and its rotation.
//!
//! Rotation renames: `log` becomes `log.1`, `log.1` becomes `log.2`, and so on; a reader that holds a file open
//! keeps it whatever its name. Compression runs in a forked child at the lowest priority and never holds up the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use wharf_sys::child;

use crate::log::names::{SUFFIXES, rotated, with};
use crate::log::{LogConfig, LogFormat, local};

/// A log file that rotates.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    format: LogFormat,
    max_size: u64,
    max_files: u32,
    compress: bool,
    file: File,
    size: u64,
    squeeze: Option<Squeeze>,
}

/// A running compression.
#[derive(Debug)]
struct Squeeze {
    pid: i32,
    /// Which rotated file it reads; rotation moves it on.
    index: u32,
}

impl LogFile {
    /// Opens or creates the file, without what a crash left torn at its end.
    pub(crate) fn open(config: &LogConfig) -> io::Result<LogFile> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&config.path)?;
        let whole = whole_len(&file, config.format)?;
        if whole != file.metadata()?.len() {
            file.set_len(whole)?;
        }
        for leftover in [".new", ".squeeze"] {
            drop(fs::remove_file(with(&config.path, leftover))); // Usually absent.
        }
        Ok(LogFile {
            path: config.path.clone(),
            format: config.format,
            max_size: if config.max_size == 0 { u64::MAX } else { config.max_size },
            max_files: config.max_files.max(1),
            compress: config.compress,
            file,
            size: whole,
            squeeze: None,
        })
    }

    /// Whether a file with `more` bytes in it is due to be rotated before the next record.
    pub(crate) fn is_full(&self, more: usize) -> bool {
        self.size + more as u64 >= self.max_size
    }

    /// Appends whole records: all of `bytes`, or nothing.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                Ok(())
            }
            Err(e) => {
                // A torn record would spoil the one that follows it once there is room again. If even
                // that fails, readers pass over it; the first error says more.
                drop(self.file.set_len(self.size));
                Err(e)
            }
        }
    }

    /// Starts a new file. If that fails, the old one goes on growing.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        let new = with(&self.path, ".new");
        let file =
            OpenOptions::new().read(true).append(true).create_new(true).mode(0o640).open(&new)?;
        self.shift()?;
        fs::rename(&new, &self.path)?;
        (self.file, self.size) = (file, 0);
        if let Some(squeeze) = &mut self.squeeze {
            squeeze.index += 1;
        } else {
            self.squeeze_next();
        }
        Ok(())
    }

    /// Makes room for a new number 1 and moves the written file there.
    fn shift(&self) -> io::Result<()> {
        let oldest = self.max_files - 1;
        for suffix in SUFFIXES {
            absent_is_fine(fs::remove_file(rotated(&self.path, oldest, suffix)))?;
        }
        for n in (1..oldest).rev() {
            for suffix in SUFFIXES {
                let to = rotated(&self.path, n + 1, suffix);
                absent_is_fine(fs::rename(rotated(&self.path, n, suffix), to))?;
            }
        }
        // With one file only there is no number 1; the rename of the new file replaces the old.
        if oldest > 0 { fs::rename(&self.path, rotated(&self.path, 1, "")) } else { Ok(()) }
    }

    /// Compresses the youngest rotated file that is not yet, if one should be.
    ///
    /// Failing is no loss: the file stays as it is.
    fn squeeze_next(&mut self) {
        if !self.compress {
            return;
        }
        let index = (1..self.max_files).find(|&n| rotated(&self.path, n, "").exists());
        let Some(index) = index else { return };
        self.squeeze = self.squeeze_start(index).ok().map(|pid| Squeeze { pid, index });
    }

    fn squeeze_start(&self, index: u32) -> io::Result<i32> {
        let from = File::open(rotated(&self.path, index, ""))?;
        let to = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(with(&self.path, ".squeeze"))?;
        child::detached(&[from.as_fd(), to.as_fd()], || {
            // Without the low priority it would still be right.
            drop(child::be_nice());
            i32::from(squeeze(&from, &to, self.format).is_err())
        })
    }

    /// Takes note that child `pid` ended. `true` if it was this log's.
    pub(crate) fn child_ended(&mut self, pid: i32, well: bool) -> bool {
        let Some(squeeze) = self.squeeze.take_if(|s| s.pid == pid) else { return false };
        let temp = with(&self.path, ".squeeze");
        if well && squeeze.index < self.max_files {
            let packed = rotated(&self.path, squeeze.index, suffix(self.format));
            let plain = rotated(&self.path, squeeze.index, "");
            // In this order a reader always finds one of the two.
            if fs::rename(&temp, packed).and_then(|()| fs::remove_file(plain)).is_ok() {
                self.squeeze_next();
            }
        } else {
            drop(fs::remove_file(temp)); // Also removed by the next open.
        }
        true
    }
}

/// gzip where people read the files with other tools, zstd where only wharf does.
fn suffix(format: LogFormat) -> &'static str {
    if format == LogFormat::Local { ".zst" } else { ".gz" }
}

/// Compresses all of `from` into `to`, which gets its modification time.
fn squeeze(mut from: &File, to: &File, format: LogFormat) -> io::Result<()> {
    if format == LogFormat::Local {
        let mut packer = zstd::stream::Encoder::new(to, 1)?;
        io::copy(&mut from, &mut packer)?;
        packer.finish()?;
    } else {
        let mut packer = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
        io::copy(&mut from, &mut packer)?;
        packer.finish()?;
    }
    to.set_modified(from.metadata()?.modified()?)
}

/// How much of `file` is whole records.
fn whole_len(file: &File, format: LogFormat) -> io::Result<u64> {
    let len = file.metadata()?.len();
    match format {
        LogFormat::JsonFile => last_line_end(file, len),
        LogFormat::Local if ends_in_frame(file, len)? => Ok(len),
        LogFormat::Local => whole_frames(file),
        LogFormat::None => Ok(len),
    }
}

/// The offset behind the last newline before `end`.
pub(crate) fn last_line_end(file: &File, mut end: u64) -> io::Result<u64> {
    let mut block = [0; 4096];
    while end > 0 {
        let len = end.min(block.len() as u64);
        let part = &mut block[..usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(part, end - len)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return Ok(end - len + at as u64 + 1);
        }
        end -= len;
    }
    Ok(0)
}

/// Whether the length at the end agrees with the one where the record starts.
fn ends_in_frame(file: &File, len: u64) -> io::Result<bool> {
    Ok(len == 0 || frame_before(file, len)?.is_some())
}

/// The offset of the record that ends at `end`, if one does.
pub(crate) fn frame_before(file: &File, end: u64) -> io::Result<Option<u64>> {
    const LENGTH: u64 = local::LENGTH as u64;
    let Some(tail) = end.checked_sub(LENGTH) else { return Ok(None) };
    let mut length = [0; local::LENGTH];
    file.read_exact_at(&mut length, tail)?;
    let inner = u64::from(u32::from_be_bytes(length));
    let Some(start) = tail.checked_sub(inner + LENGTH) else { return Ok(None) };
    let mut again = [0; local::LENGTH];
    file.read_exact_at(&mut again, start)?;
    Ok((again == length && inner > 0).then_some(start))
}

/// Walks the records from the start, which only a torn file needs.
fn whole_frames(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut whole = 0;
    while let local::Frame::Whole(_, len) = local::frame(&bytes[whole..]) {
        whole += len;
    }
    Ok(whole as u64)
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Compresses rotated file `n` in this process: for tests, whose process has threads and cannot fork.
#[cfg(test)]
pub(crate) fn squeeze_for_test(path: &Path, n: u32, format: LogFormat) {
    let from = rotated(path, n, "");
    let to = File::create(rotated(path, n, suffix(format))).unwrap();
    squeeze(&File::open(&from).unwrap(), &to, format).unwrap();
    fs::remove_file(from).unwrap();
}
