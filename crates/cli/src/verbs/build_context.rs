//! The build context as a tar: what is sent, and what is left out.

use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use wharf_spec::dockerfile::ignore::Ignore;

use crate::failure::{Failure, os_text};

/// Where further contexts are in the tar; the engine takes them out again.
pub(super) const CONTEXTS: &str = ".wharf-contexts";

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
    /// Writes the tar. `always` are names that are sent although a rule leaves them out.
    pub(super) fn pack(&self, out: impl Write, always: &[&str]) -> Result<(), Failure> {
        let mut tar = tar::Builder::new(out);
        tar.follow_symlinks(false);
        if let Some(dir) = &self.dir {
            let mut walk =
                Walk { tar: &mut tar, top: dir, ignore: &self.ignore, always, under: "" };
            walk.dir("")?;
        }
        for (name, dir) in &self.further {
            let under = format!("{CONTEXTS}/{name}/");
            let ignore = rules(dir, Path::new(""))?;
            let mut walk =
                Walk { tar: &mut tar, top: dir, ignore: &ignore, always: &[], under: &under };
            walk.dir("")?;
        }
        let failed = |e: std::io::Error| {
            Failure::new(format!("cannot send the build context: {}", os_text(&e)))
        };
        for (name, content) in &self.extra {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, &content[..]).map_err(failed)?;
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(failed)
    }
}

struct Walk<'a, W: Write> {
    tar: &'a mut tar::Builder<W>,
    top: &'a Path,
    ignore: &'a Ignore,
    always: &'a [&'a str],
    under: &'a str,
}

impl<W: Write> Walk<'_, W> {
    fn dir(&mut self, inside: &str) -> Result<(), Failure> {
        let path = self.top.join(inside);
        let failed = |e: std::io::Error| {
            Failure::new(format!("cannot read {}: {}", path.display(), os_text(&e)))
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
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
        let failed = |e: std::io::Error| {
            Failure::new(format!("cannot read {}: {}", path.display(), os_text(&e)))
        };
        let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
        let ignored = self.ignore.ignores(inside) && !self.always.contains(&inside);
        if meta.is_dir() {
            let within = format!("{inside}/");
            let wanted = self.always.iter().any(|a| a.starts_with(&within));
            if ignored && !wanted && !self.ignore.may_include_below(inside) {
                return Ok(());
            }
            if !ignored {
                self.append(&path, inside, &meta).map_err(failed)?;
            }
            return self.dir(inside);
        }
        if ignored {
            return Ok(());
        }
        self.append(&path, inside, &meta).map_err(failed)
    }

    fn append(
        &mut self,
        path: &Path,
        inside: &str,
        meta: &std::fs::Metadata,
    ) -> std::io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_metadata(meta);
        // Whoever builds, root owns it there.
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        let name = format!("{}{inside}", self.under);
        if meta.is_symlink() {
            let target = std::fs::read_link(path)?;
            debug_assert!(!target.as_os_str().as_bytes().is_empty());
            return self.tar.append_link(&mut header, name, target);
        }
        if meta.is_file() {
            use std::io::Read as _;
            // A file that grows meanwhile must not break the archive, nor one that shrinks.
            let file = std::fs::File::open(path)?.chain(std::io::repeat(0)).take(meta.len());
            return self.tar.append_data(&mut header, name, file);
        }
        if meta.is_dir() {
            return self.tar.append_data(&mut header, name, std::io::empty());
        }
        // Sockets, pipes and devices are no part of a context.
        Ok(())
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
        let mut out = Vec::new();
        context.pack(&mut out, &["Dockerfile"]).unwrap();
        let mut archive = tar::Archive::new(&out[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, [".dockerignore", "Dockerfile", "a", "d/c.log", "x"]);
    }
}
