//! A file or directory of a confined tree as a tar.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use wharf_sys::root::{Dir, Kind, Metadata, Root};

/// Writes what is at `path`, named after its last component, as `docker cp` expects it. A path that ends
/// in `/.` gives the directory's entries under `.`, the root gives them under `/`.
pub(crate) fn write(root: &Root, path: &Path, out: &mut impl Write) -> io::Result<()> {
    let text = path.to_string_lossy();
    let dotted = text.ends_with("/.");
    let follows = dotted || text.ends_with('/');
    let base = match path.file_name() {
        _ if dotted => PathBuf::from("."),
        Some(name) => PathBuf::from(name),
        None => PathBuf::from("/"),
    };
    let mut tar = Tar { out: Builder::new(out), seen: HashMap::new(), extended: Vec::new() };
    let meta = if follows { root.stat(path)? } else { root.lstat(path)? };
    if meta.kind == Kind::Dir {
        tar.tree(&root.dir(path)?, &meta, &base)?;
    } else if let Some((dir, name)) = root.parent(path)? {
        tar.entry(&dir, name, &meta, &base)?;
    }
    tar.out.finish()
}

struct Tar<'a, W: Write> {
    out: Builder<&'a mut W>,
    /// First place of each file that has several names.
    seen: HashMap<(u64, u64), PathBuf>,
    /// Extended attributes of the next entry.
    extended: Vec<(&'static str, Vec<u8>)>,
}

impl<W: Write> Tar<'_, W> {
    fn tree(&mut self, dir: &Dir, meta: &Metadata, here: &Path) -> io::Result<()> {
        self.append(header(meta, EntryType::Directory), &here.join(""), None, io::empty())?;
        let mut names = dir.entries()?;
        names.sort_unstable();
        for name in names {
            // What vanishes while it is copied is not in the copy.
            let Ok(meta) = dir.lstat(&name) else { continue };
            self.entry(dir, &name, &meta, &here.join(&name))?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Dir, name: &OsStr, meta: &Metadata, at: &Path) -> io::Result<()> {
        if meta.kind == Kind::Dir {
            return self.tree(&dir.dir(name)?, meta, at);
        }
        if meta.nlink > 1 {
            if let Some(first) = self.seen.get(&(meta.dev, meta.ino)) {
                let first = first.clone();
                return self.append(header(meta, EntryType::Link), at, Some(&first), io::empty());
            }
            self.seen.insert((meta.dev, meta.ino), at.to_owned());
        }
        match meta.kind {
            Kind::File => self.file(dir, name, meta, at),
            Kind::Symlink => {
                let target = PathBuf::from(dir.read_link(name)?);
                self.append(header(meta, EntryType::Symlink), at, Some(&target), io::empty())
            }
            Kind::CharDevice => self.node(meta, EntryType::Char, at),
            Kind::BlockDevice => self.node(meta, EntryType::Block, at),
            Kind::Fifo => self.node(meta, EntryType::Fifo, at),
            // A socket means nothing without its listener.
            Kind::Socket | Kind::Dir => Ok(()),
        }
    }

    fn file(&mut self, dir: &Dir, name: &OsStr, meta: &Metadata, at: &Path) -> io::Result<()> {
        let file = dir.read(name)?;
        let key = OsStr::new("security.capability");
        if let Some(value) = dir.xattr(name, key)? {
            self.extended.push(("SCHILY.xattr.security.capability", value));
        }
        let mut header = header(meta, EntryType::Regular);
        header.set_size(meta.size);
        // A file that grows meanwhile is cut, one that shrinks is filled up: the header has been sent.
        let content = file.take(meta.size).chain(io::repeat(0)).take(meta.size);
        self.append(header, at, None, content)
    }

    fn node(&mut self, meta: &Metadata, kind: EntryType, at: &Path) -> io::Result<()> {
        let mut header = header(meta, kind);
        let (major, minor) = meta.device();
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.append(header, at, None, io::empty())
    }

    /// Names stay as they are: `./a` must not become `a`, because clients replace that first component
    /// by the name of the copy. What does not fit into the header goes before it.
    fn append(
        &mut self,
        mut header: Header,
        at: &Path,
        target: Option<&Path>,
        content: impl io::Read,
    ) -> io::Result<()> {
        let mut extended = std::mem::take(&mut self.extended);
        let at = at.as_os_str().as_bytes();
        if !fits(&mut header.as_old_mut().name, at) {
            extended.push(("path", at.to_vec()));
        }
        if let Some(target) = target.map(|t| t.as_os_str().as_bytes())
            && !fits(&mut header.as_old_mut().linkname, target)
        {
            extended.push(("linkpath", target.to_vec()));
        }
        if !extended.is_empty() {
            let records = extended.iter().map(|(key, value)| (*key, value.as_slice()));
            self.out.append_pax_extensions(records)?;
        }
        header.set_cksum();
        self.out.append(&header, content)
    }
}

/// Puts as much of `text` into a header's field as there is room for.
fn fits(field: &mut [u8], text: &[u8]) -> bool {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
    len == text.len()
}

fn header(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(u64::from(meta.uid));
    header.set_gid(u64::from(meta.gid));
    header.set_mtime(u64::try_from(meta.mtime.seconds).unwrap_or(0));
    header.set_size(0);
    header
}
