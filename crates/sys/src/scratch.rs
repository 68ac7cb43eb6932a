//! Working memory outside the heap that can be given back to the kernel between uses.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A fixed span of zeroed memory. Pages cost nothing until they are touched.
#[derive(Debug)]
pub struct Scratch {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private to this value, like the memory of a Box.
unsafe impl Send for Scratch {}

impl Scratch {
    /// `len` bytes, rounded up to whole pages, at least one.
    pub fn new(len: usize) -> io::Result<Scratch> {
        let len = len.max(1).next_multiple_of(4096);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Scratch { start, len })
    }

    /// Gives all pages back to the kernel; the content becomes zero.
    pub fn release(&mut self) {
        // SAFETY: the range is exactly this value's mapping, no slice of it is borrowed while
        // `self` is, and anonymous memory reads as zero afterwards, which is valid for bytes.
        let done = unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontNeed)
        };
        // Advice on an own anonymous mapping cannot fail; if it did, the pages would merely stay.
        debug_assert!(done.is_ok());
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is readable, initialised (zero) and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this value's mapping and nothing borrows it any more.
        let done = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(done.is_ok());
    }
}

/// Lets go of this program's own code pages; what is needed again is found in the page cache.
///
/// For a process that has done its big work and will mostly sleep.
pub fn forget_code() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    // Only the addresses of the two symbols, which the linker defines, are taken.
    let (start, end) = (&raw const __executable_start, &raw const etext);
    let (start, end) = (start.addr() & !4095, end.addr() & !4095);
    let range = std::ptr::without_provenance_mut(start);
    // SAFETY: from the program's start to the end of its code, mappings are private, read-only and
    // never written, not even by relocation; a dropped page is read from the file again.
    let done = unsafe { rustix::mm::madvise(range, end - start, Advice::LinuxDontNeed) };
    // Where the linker left a gap between segments the pages before it are dropped all the same.
    done.unwrap_or_default();
}

/// An unnamed file in memory that holds `bytes`, with its position at the start.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek as _, Write as _};
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a whole file, at most `limit` bytes, into memory outside the heap.
///
/// # Errors
/// `FileTooLarge` beyond the limit, `UnexpectedEof` if the file shrinks meanwhile.
pub fn read_file(file: OwnedFd, limit: usize) -> io::Result<(Scratch, usize)> {
    let mut file = File::from(file);
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut scratch = Scratch::new(len)?;
    file.read_exact(&mut scratch[..len])?;
    Ok((scratch, len))
}

/// Makes room for `bytes` in a pipe; returns the size it has now.
pub fn grow_pipe(pipe: impl AsFd, bytes: usize) -> io::Result<usize> {
    rustix::pipe::fcntl_setpipe_size(&pipe, bytes)
        .or_else(|_| rustix::pipe::fcntl_getpipe_size(&pipe))
        .map_err(io::Error::from)
}

/// A close-on-exec pipe: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_memory_is_zero_and_usable() {
        let mut s = Scratch::new(10_000).unwrap();
        assert_eq!(s.len(), 12_288);
        s.fill(7);
        s.release();
        assert!(s.iter().all(|&b| b == 0));
        s[12_287] = 1;
    }

    #[test]
    fn forgotten_code_still_runs() {
        let text = String::from("kept");
        forget_code();
        assert_eq!(format!("{text}!"), "kept!");
    }

    #[test]
    fn memory_files_come_back_whole_and_bounded() {
        let bytes = vec![3; 100_000];
        let (read, len) = read_file(memory_file("t", &bytes).unwrap(), 100_000).unwrap();
        assert_eq!(&read[..len], &bytes[..]);
        let e = read_file(memory_file("t", &bytes).unwrap(), 99_999).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::FileTooLarge);
    }
}
