//! The log on disk: batches in frames with checksums, in numbered segments, behind a checkpoint.
//!
//! A segment is a header and then frames: `length of the batch, length of the file, check of both and of the
//! place, checksum of the batch, batch`. The file is extended with zeros ahead of the writer, so that a sync moves data
//! and no metadata. Each frame is durable before the next one is written, which is what makes damage tell from a crash:
//!
//! - A crash can only hurt the last frame of the last segment. It has a sector of zeros that never reached the
//!   disk, or ends where the file does. It was not acknowledged and is wiped out.
//! - Anything else is damage: a bad frame with a good one behind it, a bad frame in a segment that was finished, a
//!   full frame whose bytes differ, a file that is shorter than a frame in it says. It is named with its place, and
//!   the store does not open.

use std::io;

use crate::disk::{Disk, DiskFile};

const MAGIC: &[u8; 16] = b"wharf-etcd log 1";
/// Magic, segment number, checksum of both.
const HEADER: usize = 16 + 8 + 4;
/// Length of the batch, length of the file, check, checksum.
const FRAME: usize = 4 + 8 + 4 + 4;
/// How far zeros are written ahead of the frames. Simulated disks are copied often, so theirs are small.
const AHEAD: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };
/// What a disk writes at once or not at all.
const SECTOR: usize = 512;

/// What is wrong with a store's files.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{action} {file}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        file: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("the store is in use by another process")]
    Locked,
    /// What was acknowledged once is not there any more.
    #[error(
        "{file} is damaged at byte {at}: {what}; acknowledged writes are lost, restore the store from a snapshot"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        at: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A file that must be there is not.
    #[error("{file} is missing; acknowledged writes are lost, restore the store from a snapshot")]
    Missing {
        /// The file.
        file: String,
    },
}

/// The segment that batches are appended to.
pub(crate) struct Log {
    file: Box<dyn DiskFile>,
    number: u64,
    /// Where the next frame begins.
    end: u64,
    /// How far the file is filled.
    filled: u64,
}

/// What a segment held.
pub(crate) struct Replayed {
    /// Bytes of an unfinished frame at the end, which are cut off.
    pub(crate) torn: u64,
    end: u64,
    filled: u64,
}

/// The name of a segment.
pub(crate) fn segment(number: u64) -> String {
    format!("log-{number:016x}")
}

/// The number of a segment of that name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("log-")?, 16).ok().filter(|n| segment(*n) == name)
}

impl Log {
    /// Begins a segment; it is durable when this returns.
    pub(crate) fn create(disk: &dyn Disk, number: u64) -> Result<Log, LogError> {
        let name = segment(number);
        // Made under another name first: a segment that exists has a header.
        let temporary = format!("{name}.new");
        let failed = |action| io_error(action, &temporary);
        match disk.remove(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(e)),
            _ => (),
        }
        let mut file = disk.create(&temporary).map_err(failed("create"))?;
        let mut start = header(number).to_vec();
        start.resize(HEADER + AHEAD, 0);
        file.write_at(&start, 0).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        disk.rename(&temporary, &name).map_err(failed("rename"))?;
        disk.sync().map_err(failed("sync the directory of"))?;
        Ok(Log { file, number, end: HEADER as u64, filled: start.len() as u64 })
    }

    /// Reads a segment, giving each batch to `take`. Only the `last` one may end in an unfinished frame.
    pub(crate) fn replay(
        disk: &dyn Disk,
        number: u64,
        last: bool,
        mut take: impl FnMut(&[u8]) -> Result<(), ()>,
    ) -> Result<Replayed, LogError> {
        let name = segment(number);
        let file = disk.open(&name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LogError::Missing { file: name.clone() },
            _ => io_error("open", &name)(e),
        })?;
        let bytes = read_all(&*file).map_err(io_error("read", &name))?;
        let damaged =
            |at: usize, what| LogError::Damaged { file: name.clone(), at: at as u64, what };
        if bytes.get(..HEADER) != Some(&header(number)[..]) {
            return Err(damaged(0, "the header is not that of this segment"));
        }
        let (mut at, mut promised) = (HEADER, HEADER + AHEAD);
        loop {
            match frame(&bytes, number, at) {
                Frame::Whole { batch, file } => {
                    take(batch).map_err(|()| damaged(at, "the batch cannot be read"))?;
                    at += FRAME + batch.len();
                    promised = promised.max(file);
                }
                Frame::None => break,
                Frame::Unfinished if last && !frame_behind(&bytes, number, at) => break,
                Frame::Unfinished => return Err(damaged(at, "a part of the log is gone")),
                Frame::Wrong => return Err(damaged(at, "the checksum does not match")),
            }
        }
        if bytes.len() < promised {
            return Err(damaged(bytes.len(), "the end of the log is gone"));
        }
        let torn = bytes[at..].iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1);
        Ok(Replayed { torn, end: at as u64, filled: bytes.len() as u64 })
    }

    /// Goes on with a segment that was replayed, behind its last whole frame.
    pub(crate) fn resume(disk: &dyn Disk, number: u64, from: &Replayed) -> Result<Log, LogError> {
        let name = segment(number);
        let mut file = disk.open(&name).map_err(io_error("open", &name))?;
        // What is left of an unfinished frame must not be taken for one later.
        wipe(&mut *file, from.end, from.torn).map_err(io_error("wipe the end of", &name))?;
        Ok(Log { file, number, end: from.end, filled: from.filled })
    }

    /// Appends a batch; it is durable when this returns.
    ///
    /// An [`Append::Refused`] leaves the log as it was, and the same call may succeed later. After
    /// [`Append::Unknown`] nobody can tell what the disk holds; the log must not be written any more.
    pub(crate) fn append(&mut self, batch: &[u8]) -> Result<(), Append> {
        let end = self.end + (FRAME + batch.len()) as u64;
        let filled = if end > self.filled { end + AHEAD as u64 } else { self.filled };
        let frame = framed(batch, filled, self.number, self.end);
        self.write(&frame, filled).map_err(|e| self.give_up(e, frame.len() as u64))?;
        self.file.sync().map_err(Append::Unknown)?;
        (self.end, self.filled) = (end, filled);
        Ok(())
    }

    /// The number of the segment.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of frames in the segment.
    pub(crate) fn len(&self) -> u64 {
        self.end
    }

    fn write(&mut self, frame: &[u8], filled: u64) -> io::Result<()> {
        if filled > self.filled {
            self.file.write_at(&vec![0; AHEAD], filled - AHEAD as u64)?;
        }
        self.file.write_at(frame, self.end)
    }

    /// Takes a half written frame back, and the room that was made for it.
    fn give_up(&mut self, why: io::Error, len: u64) -> Append {
        let wiped = self.file.set_len(self.filled).and_then(|()| {
            let written = len.min(self.filled - self.end);
            wipe(&mut *self.file, self.end, written)
        });
        match wiped {
            Ok(()) => Append::Refused(why),
            Err(_) => Append::Unknown(why),
        }
    }
}

/// Writes zeros over `len` bytes at `at`, durably.
fn wipe(file: &mut dyn DiskFile, at: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    file.write_at(&vec![0; len], at)?;
    file.sync()
}

/// Why a batch was not appended.
#[derive(Debug)]
pub(crate) enum Append {
    Refused(io::Error),
    Unknown(io::Error),
}

enum Frame<'a> {
    Whole {
        batch: &'a [u8],
        file: usize,
    },
    /// Zeros, or the end of the file.
    None,
    /// As a crash leaves it.
    Unfinished,
    /// As no crash leaves it.
    Wrong,
}

/// Reads the frame at `at`.
fn frame(bytes: &[u8], number: u64, at: usize) -> Frame<'_> {
    let Some(head) = bytes.get(at..at + FRAME) else {
        let rest = bytes.get(at..).unwrap_or_default();
        return if rest.iter().all(|b| *b == 0) { Frame::None } else { Frame::Unfinished };
    };
    if head.iter().all(|b| *b == 0) {
        let rest = &bytes[at..];
        return if rest.iter().all(|b| *b == 0) { Frame::None } else { Frame::Unfinished };
    }
    let [length, check, sum] = [0, 12, 16].map(|i| word(&head[i..]));
    if check != head_check(&head[..12], number, at as u64) {
        // A head lies in one sector, or its first half is zero because the sector before it was lost.
        let split = SECTOR - at % SECTOR;
        let lost = split < FRAME && (zero(&head[..split]) || zero(&head[split..]));
        return if lost { Frame::Unfinished } else { Frame::Wrong };
    }
    let from = at + FRAME;
    let Some(batch) = bytes.get(from..from + length as usize) else { return Frame::Unfinished };
    if crc32c::crc32c(batch) == sum {
        let file = u64::from(word(&head[4..])) | u64::from(word(&head[8..])) << 32;
        return Frame::Whole { batch, file: usize::try_from(file).unwrap_or(usize::MAX) };
    }
    match lost_sector(bytes, from, from + batch.len()) {
        true => Frame::Unfinished,
        false => Frame::Wrong,
    }
}

/// Whether a sector, or the part of one, that belongs to `from..to` is all zero.
fn lost_sector(bytes: &[u8], from: usize, to: usize) -> bool {
    let mut at = from;
    while at < to {
        let next = (at - at % SECTOR + SECTOR).min(to);
        if zero(&bytes[at..next]) {
            return true;
        }
        at = next;
    }
    false
}

/// Whether a whole frame begins anywhere behind `at`: then what is at `at` was durable once.
fn frame_behind(bytes: &[u8], number: u64, at: usize) -> bool {
    (at + 1..bytes.len()).any(|next| {
        bytes.get(next..next + FRAME).is_some_and(|head| {
            !zero(head)
                && word(&head[12..]) == head_check(&head[..12], number, next as u64)
                && matches!(frame(bytes, number, next), Frame::Whole { .. })
        })
    })
}

fn framed(batch: &[u8], filled: u64, number: u64, at: u64) -> Vec<u8> {
    // Batches are bounded far below 4 GiB.
    let length = u32::try_from(batch.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(FRAME + batch.len());
    frame.extend(length.to_le_bytes());
    frame.extend(filled.to_le_bytes());
    frame.extend(head_check(&frame, number, at).to_le_bytes());
    frame.extend(crc32c::crc32c(batch).to_le_bytes());
    frame.extend_from_slice(batch);
    frame
}

/// Ties the lengths to their place, so that neither stale nor moved bytes pass for a frame.
fn head_check(lengths: &[u8], number: u64, at: u64) -> u32 {
    let mut sum = crc32c::crc32c(lengths);
    sum = crc32c::crc32c_append(sum, &number.to_le_bytes());
    crc32c::crc32c_append(sum, &at.to_le_bytes())
}

fn header(number: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..24].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c::crc32c(&header[..24]);
    header[24..].copy_from_slice(&sum.to_le_bytes());
    header
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// The whole content of a file.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

pub(crate) fn io_error(action: &'static str, file: &str) -> impl Fn(io::Error) -> LogError {
    move |source| LogError::Io { action, file: file.to_owned(), source }
}
