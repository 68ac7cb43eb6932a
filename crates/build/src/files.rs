//! Files in and out of trees: what a copy selects, the digest of its content, and the copying itself.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use wharf_spec::digest::{Algorithm, Digest, Hasher};
use wharf_spec::dockerfile::ignore::{Ignore, Pattern, clean};
use wharf_sys::root::{Dir, Kind, Metadata, Root, set_file_mode, set_file_owner, set_file_times};

use crate::error::BuildError;

/// Bytes that are read at a time.
const BUFFER: usize = 128 << 10;
/// A file of so many bytes is not small.
const SMALL: u64 = 64 << 10;
/// Entries that one copy may have.
const MAX_ENTRIES: usize = 4_000_000;

/// One file, directory or link to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it is in its tree, relative and clean. The directory that holds it has no symlink in its path.
    pub(crate) from: PathBuf,
    /// Where it goes, relative to the destination; empty for the destination itself.
    pub(crate) to: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

/// What one source argument brings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Parents before children.
    pub(crate) entries: Vec<Entry>,
    /// It is a single file whose name is to be that of the destination, unless that is a directory.
    pub(crate) single_file: bool,
}

/// How sources are selected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Select {
    /// Left out everywhere: `.dockerignore`.
    pub(crate) ignore: Ignore,
    /// Left out of this copy: `--exclude`, relative to each source.
    pub(crate) exclude: Ignore,
    /// `--parents`
    pub(crate) parents: bool,
}

/// What becomes of owners and modes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `--chown`, resolved; `None` keeps those of the source.
    pub(crate) owner: Option<(u32, u32)>,
    /// `--chmod`
    pub(crate) mode: Option<Chmod>,
}

/// `--chmod`, for files and directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chmod {
    /// Octal.
    Exactly(u32),
    /// `u=rwX,go=rX`
    Symbolic(Vec<Clause>),
}

/// `go+rX`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clause {
    who: u32,
    op: char,
    read: bool,
    write: bool,
    exec: bool,
    /// `X`: execute for directories and for what somebody may execute already.
    cond_exec: bool,
    set_id: bool,
    sticky: bool,
}

impl Chmod {
    /// Reads octal digits or symbolic clauses.
    pub(crate) fn parse(text: &str) -> Option<Chmod> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).map(Chmod::Exactly);
        }
        text.split(',').map(clause).collect::<Option<Vec<_>>>().map(Chmod::Symbolic)
    }

    /// The mode of a file that has `mode` without it.
    pub(crate) fn for_file(&self, mode: u32) -> u32 {
        self.apply(mode, false)
    }

    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Chmod::Exactly(mode) => *mode,
            Chmod::Symbolic(clauses) => clauses.iter().fold(mode, |m, c| c.apply(m, is_dir)),
        }
    }
}

fn clause(text: &str) -> Option<Clause> {
    let op_at = text.find(['+', '-', '='])?;
    let mut who = 0;
    for c in text[..op_at].chars() {
        who |= match c {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let op = text[op_at..].chars().next()?;
    let mut out = Clause {
        who: if who == 0 { 0o7777 } else { who },
        op,
        read: false,
        write: false,
        exec: false,
        cond_exec: false,
        set_id: false,
        sticky: false,
    };
    for c in text[op_at + 1..].chars() {
        match c {
            'r' => out.read = true,
            'w' => out.write = true,
            'x' => out.exec = true,
            'X' => out.cond_exec = true,
            's' => out.set_id = true,
            't' => out.sticky = true,
            _ => return None,
        }
    }
    Some(out)
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let exec = self.exec || self.cond_exec && (is_dir || mode & 0o111 != 0);
        let mut bits = 0;
        bits |= if self.read { 0o444 } else { 0 };
        bits |= if self.write { 0o222 } else { 0 };
        bits |= if exec { 0o111 } else { 0 };
        bits |= if self.set_id { 0o6000 } else { 0 };
        bits |= if self.sticky { 0o1000 } else { 0 };
        bits &= self.who;
        match self.op {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !(self.who & 0o777) | bits,
        }
    }
}

/// What `source` (a path or pattern) selects in `tree`; nothing is an error unless it is a pattern.
pub(crate) fn select(
    tree: &Root,
    source: &str,
    how: &Select,
) -> Result<Vec<Selection>, BuildError> {
    let (pivot, clean) = split_pivot(source);
    let pattern = Pattern::new(&clean)
        .map_err(|e| BuildError::Invalid(format!("{e}: in the source path {source:?}")))?;
    let mut out = Vec::new();
    let mut walk = Walk { tree, how, count: 0 };
    if pattern.is_literal() || clean.is_empty() {
        let literal = unescape(&clean);
        let found = tree.stat(Path::new(&literal)).map_err(|_| missing(source, &literal, how))?;
        let inside = found.kind == Kind::Dir && how.ignore.may_include_below(&literal);
        if !literal.is_empty() && !inside && how.ignore.ignores(&literal) {
            return Err(missing(source, &literal, how));
        }
        out.push(walk.source(Path::new(&literal), pivot, found)?);
        return Ok(out);
    }
    for path in walk.matching(&pattern, &clean)? {
        let found =
            tree.stat(&path).map_err(BuildError::io(format!("look at {}", path.display())))?;
        out.push(walk.source(&path, pivot, found)?);
    }
    Ok(out)
}

fn missing(source: &str, literal: &str, how: &Select) -> BuildError {
    let hint = match how.ignore.rule(literal) {
        Some(rule) => format!(": it is excluded by the rule {rule:?} of .dockerignore"),
        None => String::new(),
    };
    BuildError::NotFound(format!(
        "failed to compute cache key: failed to calculate checksum of {source:?}: \"/{literal}\": not found{hint}"
    ))
}

/// `a/./b/c`: the part before `/./` is not kept by `--parents`. Returns how many components that is.
fn split_pivot(source: &str) -> (usize, String) {
    match source.find("/./") {
        Some(at) => {
            let before = clean(&source[..at]);
            let count = before.split('/').filter(|c| !c.is_empty()).count();
            (count, clean(source))
        }
        None => (0, clean(source)),
    }
}

fn unescape(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

struct Walk<'a> {
    tree: &'a Root,
    how: &'a Select,
    count: usize,
}

impl Walk<'_> {
    /// Paths that fit a pattern, sorted.
    fn matching(&mut self, pattern: &Pattern, text: &str) -> Result<Vec<PathBuf>, BuildError> {
        // Only what is below the part without wildcards can fit.
        let fixed = text.split(['*', '?', '[', '\\']).next().unwrap_or_default();
        let start = fixed.rfind('/').map_or("", |at| &fixed[..at]);
        let depth = (!text.contains("**")).then(|| text.split('/').count());
        let mut found = Vec::new();
        if self.tree.stat(Path::new(start)).is_ok_and(|m| m.kind == Kind::Dir) {
            self.look(Path::new(start), pattern, depth, &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    fn look(
        &mut self,
        dir: &Path,
        pattern: &Pattern,
        depth: Option<usize>,
        found: &mut Vec<PathBuf>,
    ) -> Result<(), BuildError> {
        let failed = || BuildError::io(format!("read directory {}", dir.display()));
        let open = self.tree.dir(dir).map_err(failed())?;
        for name in open.entries().map_err(failed())? {
            let path = dir.join(&name);
            let Some(text) = path.to_str() else { continue };
            let Ok(meta) = open.lstat(&name) else { continue };
            let ignored = self.how.ignore.ignores(text);
            let is_dir = meta.kind == Kind::Dir;
            if ignored && !(is_dir && self.how.ignore.may_include_below(text)) {
                continue;
            }
            if pattern.matches(text) && !ignored {
                found.push(path.clone());
                continue;
            }
            self.count()?;
            if is_dir && depth.is_none_or(|d| path.components().count() < d) {
                self.look(&path, pattern, depth, found)?;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), BuildError> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(BuildError::Invalid(format!("more than {MAX_ENTRIES} files in one copy")));
        }
        Ok(())
    }

    /// One source: a file under its name, or what is in a directory.
    fn source(
        &mut self,
        path: &Path,
        pivot: usize,
        found: Metadata,
    ) -> Result<Selection, BuildError> {
        let mut out = Selection::default();
        let kept: PathBuf = match self.how.parents {
            true => path.components().skip(pivot).collect(),
            false => PathBuf::new(),
        };
        // The source itself may be a link, which is followed inside its tree.
        if found.kind == Kind::Dir {
            if self.how.parents {
                self.parents(&kept, path, &mut out)?;
            }
            let entry = Entry {
                from: path.to_owned(),
                to: kept.clone(),
                kind: Kind::Dir,
                mode: found.mode,
                owner: (found.uid, found.gid),
            };
            out.entries.push(entry);
            self.children(path, path, &kept, &mut out)?;
            return Ok(out);
        }
        let name = path.file_name().unwrap_or_default();
        if self.how.exclude.ignores(&name.to_string_lossy()) {
            return Ok(out);
        }
        let to = if self.how.parents { kept.clone() } else { PathBuf::from(name) };
        if self.how.parents {
            self.parents(&kept, path, &mut out)?;
        }
        out.single_file = !self.how.parents;
        let (mode, owner) = (found.mode, (found.uid, found.gid));
        out.entries.push(Entry { from: path.to_owned(), to, kind: found.kind, mode, owner });
        Ok(out)
    }

    /// The directories above a source, for `--parents`.
    fn parents(&mut self, kept: &Path, path: &Path, out: &mut Selection) -> Result<(), BuildError> {
        let above = path.components().count() - kept.components().count();
        let parts: Vec<Component<'_>> = path.components().collect();
        for end in above + 1..parts.len() {
            let from: PathBuf = parts[..end].iter().collect();
            let to: PathBuf = parts[above..end].iter().collect();
            let meta = self
                .tree
                .stat(&from)
                .map_err(BuildError::io(format!("look at {}", from.display())))?;
            let (mode, owner) = (meta.mode, (meta.uid, meta.gid));
            out.entries.push(Entry { from, to, kind: Kind::Dir, mode, owner });
        }
        Ok(())
    }

    fn children(
        &mut self,
        top: &Path,
        dir: &Path,
        to: &Path,
        out: &mut Selection,
    ) -> Result<(), BuildError> {
        let failed = || BuildError::io(format!("read directory {}", dir.display()));
        let open = self.tree.dir(dir).map_err(failed())?;
        let mut names = open.entries().map_err(failed())?;
        names.sort();
        for name in names {
            self.count()?;
            let path = dir.join(&name);
            let text = path.to_string_lossy();
            let relative = path.strip_prefix(top).unwrap_or(&path).to_string_lossy();
            let meta = open.lstat(&name).map_err(BuildError::io(format!("look at {text}")))?;
            let out_by = |rules: &Ignore, path: &str| {
                (rules.ignores(path), meta.kind == Kind::Dir && rules.may_include_below(path))
            };
            let (ignored, enter) = out_by(&self.how.ignore, &text);
            let (excluded, enter_excluded) = out_by(&self.how.exclude, &relative);
            if ignored && !enter || excluded && !enter_excluded {
                continue;
            }
            let to = to.join(&name);
            let before = out.entries.len();
            let (mode, owner) = (meta.mode, (meta.uid, meta.gid));
            out.entries.push(Entry {
                from: path.clone(),
                to: to.clone(),
                kind: meta.kind,
                mode,
                owner,
            });
            if meta.kind == Kind::Dir {
                self.children(top, &path, &to, out)?;
                // A left-out directory is only there for what comes back below it.
                if (ignored || excluded) && out.entries.len() == before + 1 {
                    out.entries.pop();
                }
            }
        }
        Ok(())
    }
}

/// Where `path` is, opened without following anything but what the kernel confines to the tree, and its last name.
fn holder<'p>(tree: &Root, path: &'p Path) -> io::Result<(Dir, &'p OsStr)> {
    tree.parent(path)?.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Adds the content of `selection` to a digest: paths, kinds, modes, owners, link targets, capabilities and data, but
/// no times.
pub(crate) fn digest(
    tree: &Root,
    selection: &Selection,
    attributes: &Attributes,
    hasher: &mut Hasher,
) -> Result<(), BuildError> {
    let mut buffer = vec![0; BUFFER];
    let mut near = Near::to(tree);
    hasher.update(&[u8::from(selection.single_file)]);
    for entry in &selection.entries {
        let failed = || BuildError::io(format!("read {}", entry.from.display()));
        let mode = attributes.mode_of(entry);
        let (uid, gid) = attributes.owner.unwrap_or(entry.owner);
        let head = format!("{:?} {mode:o} {uid} {gid} {} ", entry.kind, entry.to.as_os_str().len());
        hasher.update(head.as_bytes());
        hasher.update(entry.to.as_os_str().as_bytes());
        if entry.from.as_os_str().is_empty() || entry.kind == Kind::Dir {
            continue;
        }
        match entry.kind {
            Kind::Symlink => {
                let (dir, name) = near.holder(&entry.from).map_err(failed())?;
                let target = dir.read_link(name).map_err(failed())?;
                hasher.update(&(target.len() as u64).to_be_bytes());
                hasher.update(target.as_bytes());
            }
            Kind::File => {
                let (dir, name) = near.holder(&entry.from).map_err(failed())?;
                // A source that is a link itself is followed inside its tree.
                let file = dir.read(name).or_else(|_| tree.read(&entry.from));
                let mut file = file.map_err(failed())?;
                let mut content = Hasher::new(Algorithm::Sha256);
                loop {
                    match file.read(&mut buffer).map_err(failed())? {
                        0 => break,
                        n => content.update(&buffer[..n]),
                    }
                }
                hasher.update(content.finish().hex().as_bytes());
                if let Ok(Some(capability)) = dir.xattr(name, OsStr::new("security.capability")) {
                    hasher.update(&capability);
                }
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let meta = tree.lstat(&entry.from).map_err(failed())?;
                hasher.update(&meta.rdev.to_be_bytes());
            }
            _ => {}
        }
    }
    Ok(())
}

/// The digest of selections by themselves.
pub(crate) fn digest_of(
    tree: &Root,
    selections: &[Selection],
    attributes: &Attributes,
) -> Result<Digest, BuildError> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for selection in selections {
        digest(tree, selection, attributes, &mut hasher)?;
    }
    Ok(hasher.finish())
}

impl Attributes {
    fn mode_of(&self, entry: &Entry) -> u32 {
        match &self.mode {
            Some(chmod) if entry.kind != Kind::Symlink => {
                chmod.apply(entry.mode, entry.kind == Kind::Dir)
            }
            _ => entry.mode,
        }
    }
}

/// Where a copy goes.
pub(crate) struct Target<'a> {
    /// The root file system.
    pub(crate) root: &'a Root,
    /// Absolute, in it.
    pub(crate) dest: PathBuf,
    /// It is a directory whatever is there: it ends in a slash, or there are several sources.
    pub(crate) is_dir: bool,
}

/// Copies a selection. Owners and modes are set; existing files are replaced, never written to.
pub(crate) fn copy(
    tree: &Root,
    selection: &Selection,
    target: &Target<'_>,
    attributes: &Attributes,
) -> Result<(), BuildError> {
    let owner = attributes.owner.unwrap_or((0, 0));
    let dest_is_dir =
        target.is_dir || target.root.stat(&target.dest).is_ok_and(|m| m.kind == Kind::Dir);
    if selection.single_file && !dest_is_dir {
        let Some(entry) = selection.entries.first() else { return Ok(()) };
        let parent = target.dest.parent().unwrap_or(Path::new("/"));
        make_dirs(target.root, parent, owner)?;
        let (mut from, mut to) = (Near::to(tree), Near::to(target.root));
        return one(&mut from, entry, &mut to, &target.dest, attributes);
    }
    if selection.entries.is_empty() {
        return Ok(());
    }
    make_dirs(target.root, &target.dest, owner)?;
    let mut times = Vec::new();
    let (mut from, mut to) = (Near::to(tree), Near::to(target.root));
    for entry in &selection.entries {
        if entry.to.as_os_str().is_empty() {
            continue;
        }
        let at = target.dest.join(&entry.to);
        one(&mut from, entry, &mut to, &at, attributes)?;
        if entry.kind == Kind::Dir
            && let Ok(meta) = tree.stat(&entry.from)
        {
            times.push((at, meta.mtime));
        }
    }
    // A directory's time last: what is put into it changes it.
    for (path, time) in times.iter().rev() {
        if let Ok((dir, name)) = to.holder(path) {
            drop(dir.set_times(name, *time));
        }
    }
    Ok(())
}

/// Makes missing directories with mode 0755 and this owner.
pub(crate) fn make_dirs(root: &Root, path: &Path, owner: (u32, u32)) -> Result<(), BuildError> {
    let failed = || BuildError::io(format!("create directory {}", path.display()));
    if root.stat(path).is_ok_and(|m| m.kind == Kind::Dir) {
        return Ok(());
    }
    let mut here = PathBuf::from("/");
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let parent = root.dir(&here).map_err(failed())?;
        here.push(name);
        match parent.make_dir(name, 0o755) {
            Ok(()) => {
                parent.set_owner(name, owner.0, owner.1).map_err(failed())?;
                parent.set_mode(name, 0o755).map_err(failed())?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed()(e)),
        }
    }
    // What exists must be, or lead to, a directory.
    root.dir(path).map(drop).map_err(failed())
}

/// Directories of a tree. Entries come directory by directory, so the last one is mostly the next one as well.
struct Near<'a> {
    root: &'a Root,
    last: Option<(PathBuf, Dir)>,
}

impl<'a> Near<'a> {
    fn to(root: &'a Root) -> Near<'a> {
        Near { root, last: None }
    }

    /// The directory that holds `path`, and the name in it.
    fn holder<'p>(&mut self, path: &'p Path) -> io::Result<(&Dir, &'p OsStr)> {
        let none = || io::Error::from(io::ErrorKind::InvalidInput);
        let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(none)?;
        let dir = match self.last.take() {
            Some((last, dir)) if last == parent => dir,
            _ => self.root.dir(parent)?,
        };
        let (_, dir) = self.last.insert((parent.to_owned(), dir));
        Ok((dir, name))
    }
}

fn one(
    from: &mut Near<'_>,
    entry: &Entry,
    to: &mut Near<'_>,
    at: &Path,
    attributes: &Attributes,
) -> Result<(), BuildError> {
    let failed = || BuildError::io(format!("copy {} to {}", entry.from.display(), at.display()));
    let root = to.root;
    let (dir, name) = to.holder(at).map_err(failed())?;
    let (uid, gid) = attributes.owner.unwrap_or(entry.owner);
    let mode = attributes.mode_of(entry);
    let old = dir.lstat(name).ok();
    if entry.kind == Kind::Dir {
        // A link to a directory is followed, as when files are copied into it.
        let there = old.is_some() && root.stat(at).is_ok_and(|m| m.kind == Kind::Dir);
        if there && old.is_some_and(|m| m.kind == Kind::Symlink) {
            return Ok(());
        }
        if !there {
            if old.is_some() {
                return Err(BuildError::Invalid(format!(
                    "cannot copy directory {} over {}, which is not one",
                    entry.from.display(),
                    at.display()
                )));
            }
            dir.make_dir(name, 0o700).map_err(failed())?;
        }
        dir.set_owner(name, uid, gid).map_err(failed())?;
        return dir.set_mode(name, mode).map_err(failed());
    }
    match old {
        Some(m) if m.kind == Kind::Dir => {
            return Err(BuildError::Invalid(format!(
                "cannot copy {} over the directory {}",
                entry.from.display(),
                at.display()
            )));
        }
        Some(_) => dir.unlink(name).map_err(failed())?,
        None => {}
    }
    let tree = from.root;
    let (from, old) = from.holder(&entry.from).map_err(failed())?;
    match entry.kind {
        Kind::File => {
            // A source that is a link itself is followed inside its tree.
            let (file, meta) = match from.read(old) {
                Ok(file) => (file, from.lstat(old)),
                Err(_) => (tree.read(&entry.from).map_err(failed())?, tree.stat(&entry.from)),
            };
            let meta = meta.map_err(failed())?;
            let made = dir.create(name, 0o600).map_err(failed())?;
            copy_bytes(file, &made).map_err(failed())?;
            set_file_owner(&made, uid, gid).map_err(failed())?;
            set_file_mode(&made, mode).map_err(failed())?;
            copy_xattrs(from, old, dir, name).map_err(failed())?;
            set_file_times(&made, meta.mtime).map_err(failed())
        }
        Kind::Symlink => {
            let meta = from.lstat(old).map_err(failed())?;
            dir.symlink(name, &from.read_link(old).map_err(failed())?).map_err(failed())?;
            dir.set_owner(name, uid, gid).map_err(failed())?;
            dir.set_times(name, meta.mtime).map_err(failed())
        }
        Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
            let meta = tree.lstat(&entry.from).map_err(failed())?;
            dir.make_node(name, entry.kind, mode, meta.device()).map_err(failed())?;
            dir.set_owner(name, uid, gid).map_err(failed())?;
            dir.set_mode(name, mode).map_err(failed())
        }
        // A socket means nothing without the process that listens.
        Kind::Socket | Kind::Dir => Ok(()),
    }
}

/// Small files in one piece, which is what most are; of large ones the kernel may share the blocks.
fn copy_bytes(mut from: File, mut to: &File) -> io::Result<()> {
    let mut small = Vec::new();
    (&mut from).take(SMALL).read_to_end(&mut small)?;
    to.write_all(&small)?;
    match small.len() as u64 == SMALL {
        true => io::copy(&mut from, &mut to).map(drop),
        false => Ok(()),
    }
}

/// Capabilities and the user's attributes belong to a file, others to its file system.
fn copy_xattrs(dir: &Dir, old: &OsStr, to: &Dir, name: &OsStr) -> io::Result<()> {
    for key in dir.xattr_keys(old)? {
        let bytes = key.as_bytes();
        let portable = bytes == b"security.capability"
            || bytes.starts_with(b"user.") && !bytes.starts_with(b"user.overlay.");
        if portable && let Some(value) = dir.xattr(old, &key)? {
            to.set_xattr(name, &key, &value)?;
        }
    }
    Ok(())
}

/// Writes one file at `at`, replacing what is there.
pub(crate) fn write(
    root: &Root,
    at: &Path,
    content: &[u8],
    owner: (u32, u32),
    mode: u32,
) -> Result<(), BuildError> {
    let failed = || BuildError::io(format!("write {}", at.display()));
    let (dir, name) = holder(root, at).map_err(failed())?;
    match dir.lstat(name) {
        Ok(m) if m.kind == Kind::Dir => {
            return Err(BuildError::Invalid(format!(
                "cannot write over the directory {}",
                at.display()
            )));
        }
        Ok(_) => dir.unlink(name).map_err(failed())?,
        Err(_) => {}
    }
    let mut file = dir.create(name, 0o600).map_err(failed())?;
    file.write_all(content).map_err(failed())?;
    set_file_owner(&file, owner.0, owner.1).map_err(failed())?;
    set_file_mode(&file, mode).map_err(failed())
}

/// A name as the last part of a path; `None` for the root.
pub(crate) fn base_name(path: &str) -> Option<OsString> {
    Path::new(path).file_name().map(OsStr::to_owned)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures")]
mod tests {
    use super::*;
    use std::fs;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("a.txt", "a"), ("b.txt", "b"), ("d/x", "x"), ("d/e/y", "y"), ("d/e/z.o", "z")]
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("d/out")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[track_caller]
    fn selected(source: &str, how: &Select, expected: &[&str]) {
        let (_dir, root) = tree();
        let got: Vec<String> = select(&root, source, how)
            .unwrap()
            .into_iter()
            .flat_map(|s| s.entries)
            .map(|e| e.to.display().to_string())
            .collect();
        assert_eq!(got, expected, "{source}");
    }

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(text).unwrap()
    }

    #[test]
    fn sources_select_files_and_the_content_of_directories() {
        let plain = Select::default();
        selected("a.txt", &plain, &["a.txt"]);
        selected("*.txt", &plain, &["a.txt", "b.txt"]);
        selected("/d/../d/e", &plain, &["", "y", "z.o"]);
        selected("../../d/e/y", &plain, &["y"]);
        selected("*.none", &plain, &[]);
        let ignoring = Select { ignore: ignore("d/e\n!d/e/y\n*.txt"), ..Select::default() };
        selected(".", &ignoring, &["", "d", "d/e", "d/e/y", "d/out", "d/x"]);
        let excluding = Select { exclude: ignore("**/*.o\nx"), ..Select::default() };
        selected("d", &excluding, &["", "e", "e/y", "out"]);
        let parents = Select { parents: true, ..Select::default() };
        selected("d/e/y", &parents, &["d", "d/e", "d/e/y"]);
        selected("d/./e/y", &parents, &["e", "e/y"]);
        selected("**/y", &parents, &["d", "d/e", "d/e/y"]);
    }

    #[test]
    fn what_is_missing_or_ignored_is_said() {
        let (_dir, root) = tree();
        let error = |how: &Select, s: &str| select(&root, s, how).unwrap_err().to_string();
        assert!(error(&Select::default(), "nope").contains("\"/nope\": not found"));
        let ignoring = Select { ignore: ignore("*.txt"), ..Select::default() };
        assert!(error(&ignoring, "a.txt").contains("excluded by the rule \"*.txt\""));
    }

    #[test]
    fn digests_see_content_and_not_time() {
        let (dir, root) = tree();
        let digest = |attributes: &Attributes| {
            let all = select(&root, "d", &Select::default()).unwrap();
            digest_of(&root, &all, attributes).unwrap()
        };
        let before = digest(&Attributes::default());
        let file = fs::File::options().write(true).open(dir.path().join("d/x")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(digest(&Attributes::default()), before);
        fs::write(dir.path().join("d/x"), "X").unwrap();
        assert_ne!(digest(&Attributes::default()), before);
        let owned = Attributes { owner: Some((5, 5)), ..Attributes::default() };
        assert_ne!(digest(&owned), digest(&Attributes::default()));
    }

    #[test]
    fn copies_stay_inside_their_target() {
        let (_dir, root) = tree();
        let to = tempfile::tempdir().unwrap();
        let inside = to.path().join("root");
        fs::create_dir_all(inside.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("../../outside", inside.join("evil")).unwrap();
        let target_root = Root::open(&inside).unwrap();
        let put = |source: &str, dest: &str, is_dir: bool| {
            let target = Target { root: &target_root, dest: dest.into(), is_dir };
            for s in select(&root, source, &Select::default()).unwrap() {
                copy(&root, &s, &target, &Attributes::default()).unwrap();
            }
        };
        put("a.txt", "/link/", true);
        assert_eq!(fs::read(inside.join("real/a.txt")).unwrap(), b"a");
        put("a.txt", "/new/name", false);
        assert_eq!(fs::read(inside.join("new/name")).unwrap(), b"a");
        put("d", "/deep/er", false);
        assert_eq!(fs::read_link(inside.join("deep/er/out")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read(inside.join("deep/er/e/y")).unwrap(), b"y");
        put("a.txt", "/evil", false);
        assert!(!to.path().join("outside").exists());
    }

    #[test]
    fn modes_are_octal_or_symbolic() {
        let on = |text: &str, mode, dir| Chmod::parse(text).unwrap().apply(mode, dir);
        assert_eq!(on("0750", 0o644, false), 0o750);
        assert_eq!(on("u=rwX,go=rX", 0o600, true), 0o755);
        assert_eq!(on("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(on("a+x,g-r", 0o644, false), 0o715);
        assert_eq!(on("+s", 0o755, false), 0o6755);
        assert!(
            Chmod::parse("9").is_none()
                && Chmod::parse("u~r").is_none()
                && Chmod::parse("").is_none()
        );
    }
}
