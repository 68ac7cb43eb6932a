//! The files of a commit, written into a directory of ours.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use wharf_sys::root::{Dir, Root, Time, set_file_mode, set_file_times};

use super::GitError;
use super::modules::Module;
use super::object::{self, Format, Id, Kind, Mode};
use super::pack::Pack;

/// Directories within directories.
const MAX_DEPTH: usize = 256;
/// Files and directories.
const MAX_FILES: usize = 4_000_000;
/// Bytes of all files together: a few kilobytes of deltas may say the same file a million times.
const MAX_BYTES: u64 = 64 << 30;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Path, mode, id and size of every file, in git's order.
    files: Vec<(PathBuf, u32, Id, u32)>,
    /// Directories that are still empty.
    pub(super) modules: Vec<Module>,
    /// The commit's.
    pub(super) time: Time,
    format: Format,
    count: usize,
    bytes: u64,
}

struct Work<'a> {
    pack: &'a mut Pack,
    time: Time,
    out: Written,
}

/// Writes the files of `commit` into `to`, which is empty. Times are the commit's, so that equal commits give equal
/// files. Blocks.
pub(super) fn write(pack: &mut Pack, commit: &Id, to: &Root) -> Result<Written, GitError> {
    let (tree, seconds) = object::commit(&whole(pack, commit, Kind::Commit)?)?;
    let time = Time { seconds, nanos: 0 };
    let format = pack.format();
    let mut work = Work { pack, time, out: Written { time, format, ..Written::default() } };
    let top = to.top().map_err(GitError::Io)?;
    work.tree(&tree, &top, Path::new(""), 0)?;
    Ok(work.out)
}

/// The commit that `id` is, or is a tag of.
pub(super) fn peel(pack: &mut Pack, id: Id) -> Result<Id, GitError> {
    let mut id = id;
    // A tag may be of a tag.
    for _ in 0..10 {
        let object = pack.object(&id)?;
        match object.kind {
            Kind::Commit => return Ok(id),
            Kind::Tag => id = object::tagged(&object.content)?,
            other => {
                return Err(GitError::Protocol(format!(
                    "a {} where a commit was asked for",
                    other.name()
                )));
            }
        }
    }
    Err(GitError::Protocol("a tag of a tag without end".into()))
}

fn whole(pack: &mut Pack, id: &Id, kind: Kind) -> Result<Vec<u8>, GitError> {
    let object = pack.object(id)?;
    match object.kind == kind {
        true => Ok(object.content.clone()),
        false => Err(GitError::Protocol(format!(
            "a {} where a {} belongs",
            object.kind.name(),
            kind.name()
        ))),
    }
}

impl Work<'_> {
    fn tree(&mut self, id: &Id, dir: &Dir, path: &Path, depth: usize) -> Result<(), GitError> {
        if depth > MAX_DEPTH {
            return Err(GitError::Protocol(format!(
                "more than {MAX_DEPTH} directories within each other"
            )));
        }
        let content = whole(self.pack, id, Kind::Tree)?;
        for entry in object::tree(self.pack.format(), &content)? {
            self.out.count += 1;
            if self.out.count > MAX_FILES {
                return Err(GitError::Protocol(format!("more than {MAX_FILES} files")));
            }
            let name = OsStr::from_bytes(entry.name);
            let path = path.join(name);
            let failed = |e: std::io::Error| match e.kind() {
                // A name that is there twice would lead through what it was the first time.
                std::io::ErrorKind::AlreadyExists => {
                    GitError::Protocol(format!("a tree with {} twice", path.display()))
                }
                _ => GitError::Io(e),
            };
            match entry.mode {
                Mode::Directory => {
                    dir.make_dir(name, 0o755).map_err(failed)?;
                    let below = dir.dir(name).map_err(failed)?;
                    self.tree(&entry.id, &below, &path, depth + 1)?;
                    dir.set_times(name, self.time).map_err(failed)?;
                }
                Mode::File => {
                    self.file(dir, name, &path, &entry.id, 0o644).map_err(|e| e.or(failed))?
                }
                Mode::Program => {
                    self.file(dir, name, &path, &entry.id, 0o755).map_err(|e| e.or(failed))?
                }
                Mode::Link => {
                    let target = whole(self.pack, &entry.id, Kind::Blob)?;
                    dir.symlink(name, OsStr::from_bytes(&target)).map_err(failed)?;
                    dir.set_times(name, self.time).map_err(failed)?;
                    self.note(path.clone(), 0o120_000, entry.id, target.len())?;
                }
                Mode::Module => {
                    dir.make_dir(name, 0o755).map_err(failed)?;
                    dir.set_times(name, self.time).map_err(failed)?;
                    self.note(path.clone(), 0o160_000, entry.id, 0)?;
                    self.out.modules.push(Module { path, commit: entry.id });
                }
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        id: &Id,
        mode: u32,
    ) -> Result<(), FileError> {
        let object = self.pack.object(id).map_err(FileError::Git)?;
        if object.kind != Kind::Blob {
            let text = format!("a {} where a file belongs", object.kind.name());
            return Err(FileError::Git(GitError::Protocol(text)));
        }
        let write = || {
            let mut file = dir.create(name, 0o600)?;
            file.write_all(&object.content)?;
            set_file_mode(&file, mode)?;
            set_file_times(&file, self.time)
        };
        write().map_err(FileError::Io)?;
        self.note(path.to_owned(), 0o100_000 | mode, *id, object.content.len())
            .map_err(FileError::Git)
    }

    fn note(&mut self, path: PathBuf, mode: u32, id: Id, size: usize) -> Result<(), GitError> {
        self.out.bytes += size as u64;
        if self.out.bytes > MAX_BYTES {
            return Err(GitError::Protocol(format!("more than {MAX_BYTES} bytes of files")));
        }
        // As git keeps it: modulo 2^32.
        self.out.files.push((path, mode, id, u32::try_from(size & 0xffff_ffff).unwrap_or(0)));
        Ok(())
    }
}

enum FileError {
    Git(GitError),
    Io(std::io::Error),
}

impl FileError {
    fn or(self, failed: impl FnOnce(std::io::Error) -> GitError) -> GitError {
        match self {
            FileError::Git(e) => e,
            FileError::Io(e) => failed(e),
        }
    }
}

impl Written {
    /// Git's index of these files, version 2 (gitformat-index(5)). What it says of times and inodes is nothing: git
    /// looks again.
    pub(super) fn index(mut self) -> Vec<u8> {
        self.files.sort();
        let mut out = b"DIRC\0\0\0\x02".to_vec();
        out.extend_from_slice(&u32::try_from(self.files.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (path, mode, id, size) in &self.files {
            let begin = out.len();
            out.extend_from_slice(&[0; 24]);
            out.extend_from_slice(&mode.to_be_bytes());
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(id.bytes());
            let name = path.as_os_str().as_bytes();
            let length = u16::try_from(name.len().min(0xfff)).unwrap_or(0xfff);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(name);
            // One to eight zeros, to a multiple of eight.
            let padded = (out.len() - begin + 8) / 8 * 8;
            out.resize(begin + padded, 0);
        }
        out.extend_from_slice(&self.format.sum(&out));
        out
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures")]
mod tests {
    use super::super::pack::tests::{opened, pack};
    use super::*;

    fn entry(mode: &str, name: &str, id: Id) -> Vec<u8> {
        [format!("{mode} {name}\0").as_bytes(), id.bytes()].concat()
    }

    fn commit(tree: Id) -> Vec<u8> {
        format!("tree {tree}\nauthor a <a> 5 +0000\ncommitter a <a> 1000000000 +0000\n\nx\n").into()
    }

    /// Checks a tree out into an empty directory beside a file that must stay as it is.
    fn checked_out(tree: &[u8], blobs: &[&[u8]]) -> (tempfile::TempDir, Result<Written, GitError>) {
        let id = Id::of(Format::Sha1, Kind::Tree, tree);
        let commit = commit(id);
        let mut objects: Vec<(u8, &[u8], &[u8])> = vec![(1, b"", &commit), (2, b"", tree)];
        objects.extend(blobs.iter().map(|b| (3, &b""[..], *b)));
        let mut pack = opened(&pack(&objects)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("victim"), "safe").unwrap();
        let root = Root::open(&dir.path().join("in")).unwrap();
        let written = write(&mut pack, &Id::of(Format::Sha1, Kind::Commit, &commit), &root);
        (dir, written)
    }

    #[test]
    fn files_links_and_programs_are_written() {
        let blob = Id::of(Format::Sha1, Kind::Blob, b"#!/bin/sh\n");
        let link = Id::of(Format::Sha1, Kind::Blob, b"run");
        let tree = [entry("120000", "link", link), entry("100755", "run", blob)].concat();
        let (dir, written) = checked_out(&tree, &[b"#!/bin/sh\n", b"run"]);
        let index = written.unwrap().index();
        assert_eq!(&index[..12], b"DIRC\0\0\0\x02\0\0\0\x02");
        assert_eq!(std::fs::read(dir.path().join("in/link")).unwrap(), b"#!/bin/sh\n");
        let meta = std::fs::metadata(dir.path().join("in/run")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mtime(&meta), 1_000_000_000);
    }

    /// CVE-2024-32002 and its kin: a name that is a link first and a directory then.
    #[test]
    fn nothing_is_written_through_a_link() {
        let outside = Id::of(Format::Sha1, Kind::Blob, b"../victim");
        let evil = Id::of(Format::Sha1, Kind::Blob, b"evil");
        for second in
            [entry("100644", "a", evil), entry("40000", "a", Id::of(Format::Sha1, Kind::Tree, b""))]
        {
            let tree = [entry("120000", "a", outside), second].concat();
            let (dir, written) = checked_out(&tree, &[b"../victim", b"evil"]);
            assert!(written.unwrap_err().to_string().contains("twice"));
            assert_eq!(std::fs::read(dir.path().join("victim")).unwrap(), b"safe");
        }
        let module = entry("160000", "sub", evil);
        let (dir, written) = checked_out(&module, &[]);
        let modules = written.unwrap().modules;
        assert_eq!(modules, [Module { path: "sub".into(), commit: evil }]);
        assert_eq!(std::fs::read_dir(dir.path().join("in/sub")).unwrap().count(), 0);
        let missing = entry("100644", "x", evil);
        assert!(checked_out(&missing, &[]).1.is_err());
    }
}
