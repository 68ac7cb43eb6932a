//! The threads that create files: what the parser hands over in batches, in any order.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use wharf_base::sync::Mutex;
use wharf_sys::root::{self, Dir, Time};

use super::UnpackError;
use super::feed::Chunk;

/// Owner, mode, times and attributes, still to be set.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

/// A file to create. Its name is not taken, and nobody else touches it before the batch is done.
pub(crate) struct Job {
    pub(crate) dir: Arc<Dir>,
    pub(crate) name: OsString,
    /// For messages.
    pub(crate) path: PathBuf,
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
    /// Offset and length of each piece, and the real size; `None` for an ordinary file.
    pub(crate) sparse: Option<(Vec<(u64, u64)>, u64)>,
}

/// The bytes of a file.
pub(crate) enum Content {
    /// All of them.
    Whole(Vec<Chunk>),
    /// As they come; the file is complete when the count is reached.
    Stream(Receiver<Chunk>, u64),
}

/// Takes batches until there are no more, and tells of each how it went.
pub(crate) fn run(jobs: &Mutex<Receiver<Vec<Job>>>, done: &Sender<Result<(), UnpackError>>) {
    // Best effort: without it each file's mode is set explicitly.
    let exact_modes = root::clear_thread_umask().is_ok();
    loop {
        // One thread waits in recv, holding the lock; the others wait for the lock.
        let batch = jobs.lock().recv();
        let Ok(batch) = batch else { return };
        let result = batch.into_iter().try_for_each(|job| create(job, exact_modes));
        if done.send(result).is_err() {
            return;
        }
    }
}

fn create(job: Job, exact_modes: bool) -> Result<(), UnpackError> {
    let Job { dir, name, path, attributes, content, sparse } = job;
    make(&dir, &name, &attributes, content, sparse, exact_modes).map_err(|failure| match failure {
        Failure::Cut => UnpackError::Truncated(0),
        Failure::Io(action, source) => UnpackError::File { action, path, source },
    })
}

enum Failure {
    /// The stream ended early; the parser knows why and says so itself.
    Cut,
    Io(&'static str, io::Error),
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::Io(action, source)
}

fn make(
    dir: &Dir,
    name: &OsStr,
    attributes: &Attributes,
    content: Content,
    sparse: Option<(Vec<(u64, u64)>, u64)>,
    exact_modes: bool,
) -> Result<(), Failure> {
    let file = dir.create(name, attributes.mode & 0o777).map_err(failed("create"))?;
    match sparse {
        Some((pieces, real)) => write_pieces(&file, content, &pieces, real)?,
        None => write_all(&file, content)?,
    }
    set_attributes(&file, attributes, exact_modes)
}

fn set_attributes(file: &File, attributes: &Attributes, exact: bool) -> Result<(), Failure> {
    let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
    let is_own = *uid == 0 && *gid == 0;
    if !is_own {
        root::set_file_owner(file, *uid, *gid).map_err(failed("set the owner of"))?;
    }
    // Changing the owner clears set-id bits, so the mode comes after it.
    if !exact || mode & 0o7000 != 0 {
        root::set_file_mode(file, *mode).map_err(failed("set the mode of"))?;
    }
    // Changing the owner or writing clears security.capability, so attributes come after both.
    for (key, value) in xattrs.iter().filter(|(key, _)| super::apply::keeps_xattr(key)) {
        root::set_file_xattr(file, key, value).map_err(failed("set an attribute of"))?;
    }
    root::set_file_times(file, *mtime).map_err(failed("set the time of"))
}

fn write_all(mut file: &File, content: Content) -> Result<(), Failure> {
    for_each_chunk(content, |chunk| file.write_all(chunk).map_err(failed("write")))
}

/// Writes the pieces at their offsets; what lies between stays a hole.
fn write_pieces(
    file: &File,
    content: Content,
    pieces: &[(u64, u64)],
    real: u64,
) -> Result<(), Failure> {
    file.set_len(real).map_err(failed("size"))?;
    let mut pieces = pieces.iter().copied().filter(|(_, length)| *length > 0);
    let mut piece = pieces.next();
    for_each_chunk(content, |mut bytes| {
        while let (false, Some((offset, length))) = (bytes.is_empty(), piece) {
            let n = usize::try_from(length).map_or(bytes.len(), |l| l.min(bytes.len()));
            file.write_all_at(&bytes[..n], offset).map_err(failed("write"))?;
            bytes = &bytes[n..];
            let rest = length - n as u64;
            piece = if rest > 0 { Some((offset + n as u64, rest)) } else { pieces.next() };
        }
        Ok(())
    })
}

fn for_each_chunk(
    content: Content,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match content {
        Content::Whole(chunks) => chunks.iter().try_for_each(|chunk| write(chunk)),
        Content::Stream(chunks, mut left) => {
            while left > 0 {
                let chunk = chunks.recv().map_err(|_| Failure::Cut)?;
                left = left.saturating_sub(chunk.len() as u64);
                write(&chunk)?;
            }
            Ok(())
        }
    }
}
