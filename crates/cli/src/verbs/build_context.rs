//! The build context as a tar: what is sent, and what is left out.

use std::fs::Metadata;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use wharf_spec::dockerfile::ignore::Ignore;
use wharf_spec::listing::Listed;

use crate::failure::{Failure, os_text};

/// Where further contexts are in the tar; the engine takes them out again.
pub(super) const CONTEXTS: &str = ".wharf-contexts";

/// A context of fewer files and less bytes is sent whole: to ask what the engine has would take longer.
const FEW: usize = 100;
const SMALL: u64 = 1 << 20;

/// Everything that goes into one upload.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// The directory; `None` sends no files.
    pub(super) dir: Option<PathBuf>,
    /// What is left out.
    pub(super) ignore: Ignore,
    /// Files beside: name in the tar and content.
    pub(super) extra: Vec<(String, Vec<u8>)>,
    /// Further directories: name in the tar.
    pub(super) further: Vec<(String, PathBuf)>,
}

/// The rules for the context `dir` of the Dockerfile `file`: those beside it, else those in the context.
pub(super) fn rules(dir: &Path, file: &Path) -> Result<Ignore, Failure> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".dockerignore");
    let text = std::fs::read_to_string(beside)
        .or_else(|_| std::fs::read_to_string(dir.join(".dockerignore")));
    match text {
        Ok(text) => Ignore::parse(&text)
            .map_err(|e| Failure::new(format!("failed to read .dockerignore: {e}"))),
        Err(_) => Ok(Ignore::default()),
    }
}

impl Context {
    /// What is to be sent of the directory. `always` are names that are sent although a rule leaves them out.
    pub(super) fn list(&self, always: &[&str]) -> Result<Vec<Listed>, Failure> {
        match &self.dir {
            Some(dir) => list(dir, &self.ignore, always),
            None => Ok(Vec::new()),
        }
    }

    /// A name for what the engine may keep of it; `None` if it is not worth keeping.
    pub(super) fn key(&self, list: &[Listed]) -> Option<String> {
        let bytes: u64 = list.iter().filter_map(|l| l.size).sum();
        if !self.further.is_empty() || (list.len() < FEW && bytes < SMALL) {
            return None;
        }
        let dir = self.dir.as_ref()?.canonicalize().ok()?;
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Some(format!("{}:{}", machine.trim(), dir.to_str()?))
    }

    /// Writes the tar: of the listed files those at `places`, or all, and everything else.
    pub(super) fn pack(
        &self,
        out: impl Write,
        listed: &[Listed],
        places: Option<&[usize]>,
    ) -> Result<(), Failure> {
        let mut tar = tar::Builder::new(out);
        tar.follow_symlinks(false);
        if let Some(dir) = &self.dir {
            match places {
                None => append_all(&mut tar, dir, "", listed)?,
                Some(places) => {
                    let some = places.iter().filter_map(|n| listed.get(*n));
                    append_all(&mut tar, dir, "", some)?;
                }
            }
        }
        for (name, dir) in &self.further {
            let under = format!("{CONTEXTS}/{name}/");
            let ignore = rules(dir, Path::new(""))?;
            append_all(&mut tar, dir, &under, &list(dir, &ignore, &[])?)?;
        }
        for (name, content) in &self.extra {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, &content[..]).map_err(|e| unsent(&e))?;
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(|e| unsent(&e))
    }
}

fn unsent(error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot send the build context: {}", os_text(error)))
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot read {}: {}", path.display(), os_text(error)))
}

fn list(top: &Path, ignore: &Ignore, always: &[&str]) -> Result<Vec<Listed>, Failure> {
    let mut walk = Walk { top, ignore, always, found: Vec::new() };
    walk.dir("")?;
    Ok(walk.found)
}

/// A look at what there is, parents before what is in them.
struct Walk<'a> {
    top: &'a Path,
    ignore: &'a Ignore,
    always: &'a [&'a str],
    found: Vec<Listed>,
}

impl Walk<'_> {
    fn dir(&mut self, inside: &str) -> Result<(), Failure> {
        let path = self.top.join(inside);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(|e| unread(&path, &e))? {
            names.push(entry.map_err(|e| unread(&path, &e))?.file_name());
        }
        names.sort();
        for name in names {
            // The engine, too, knows names as text.
            let Some(name) = name.to_str() else {
                return Err(Failure::new(format!(
                    "{}: the name is not UTF-8",
                    path.join(&name).display()
                )));
            };
            let inside =
                if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
            self.entry(&inside)?;
        }
        Ok(())
    }

    fn entry(&mut self, inside: &str) -> Result<(), Failure> {
        let path = self.top.join(inside);
        let meta = std::fs::symlink_metadata(&path).map_err(|e| unread(&path, &e))?;
        let ignored = self.ignore.ignores(inside) && !self.always.contains(&inside);
        if meta.is_dir() {
            let within = format!("{inside}/");
            let wanted = self.always.iter().any(|a| a.starts_with(&within));
            if ignored && !wanted && !self.ignore.may_include_below(inside) {
                return Ok(());
            }
            if !ignored {
                self.add(&path, inside, &meta)?;
            }
            return self.dir(inside);
        }
        if ignored {
            return Ok(());
        }
        self.add(&path, inside, &meta)
    }

    fn add(&mut self, path: &Path, inside: &str, meta: &Metadata) -> Result<(), Failure> {
        let (mut size, mut target) = (None, None);
        if meta.is_symlink() {
            let found = std::fs::read_link(path).map_err(|e| unread(path, &e))?;
            let Some(text) = found.to_str() else {
                return Err(Failure::new(format!("{}: the target is not UTF-8", path.display())));
            };
            target = Some(text.to_owned());
        } else if meta.is_file() {
            size = Some(meta.len());
        } else if !meta.is_dir() {
            // Sockets, pipes and devices are no part of a context.
            return Ok(());
        }
        let nanos = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        let mode = meta.mode() & 0o7777;
        self.found.push(Listed { path: inside.to_owned(), mode, mtime: nanos, size, target });
        Ok(())
    }
}

fn append_all<'a, W: Write>(
    tar: &mut tar::Builder<W>,
    top: &Path,
    under: &str,
    listed: impl IntoIterator<Item = &'a Listed>,
) -> Result<(), Failure> {
    for one in listed {
        let path = top.join(&one.path);
        append(tar, &path, &format!("{under}{}", one.path), one).map_err(|e| unread(&path, &e))?;
    }
    Ok(())
}

/// One entry, as it was listed. Whoever builds, root owns it there.
fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    name: &str,
    listed: &Listed,
) -> std::io::Result<()> {
    use std::io::Read as _;
    let mut header = tar::Header::new_gnu();
    header.set_mode(listed.mode);
    header.set_mtime(u64::try_from(listed.mtime / 1_000_000_000).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match (listed.size, &listed.target) {
        (Some(size), _) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(size);
            // A file that grows meanwhile must not break the archive, nor one that shrinks.
            let file = std::fs::File::open(path)?.chain(std::io::repeat(0)).take(size);
            tar.append_data(&mut header, name, file)
        }
        (None, Some(target)) => {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, name, target)
        }
        (None, None) => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, name, std::io::empty())
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures")]
mod tests {
    use super::*;

    #[test]
    fn rules_decide_and_what_is_needed_comes_along() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a", "a"),
            ("b.log", "b"),
            ("d/c.log", "c"),
            ("Dockerfile", "FROM x"),
            (".dockerignore", "*.log\nDockerfile\nd\n!d/c.log\n"),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let ignore = rules(dir.path(), &dir.path().join("Dockerfile")).unwrap();
        let context = Context {
            dir: Some(dir.path().into()),
            ignore,
            extra: vec![("x".into(), b"y".to_vec())],
            further: Vec::new(),
        };
        let list = context.list(&["Dockerfile"]).unwrap();
        let names = |places: Option<&[usize]>| -> Vec<String> {
            let mut out = Vec::new();
            context.pack(&mut out, &list, places).unwrap();
            let mut archive = tar::Archive::new(&out[..]);
            let entries = archive.entries().unwrap();
            entries.map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
        };
        assert_eq!(names(None), [".dockerignore", "Dockerfile", "a", "d/c.log", "x"]);
        assert_eq!(names(Some(&[1, 3])), ["Dockerfile", "d/c.log", "x"]);
        assert_eq!(context.key(&list), None);
        let many = vec![Listed::default(); FEW];
        let large = [Listed { size: Some(SMALL), ..Listed::default() }];
        let key = context.key(&many).unwrap();
        assert!(key.ends_with(dir.path().canonicalize().unwrap().to_str().unwrap()), "{key}");
        assert_eq!(context.key(&large), Some(key));
    }
}
