//! Submodules: repositories within a repository, each at the commit that the whole names.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use wharf_sys::root::Root;

use super::object::Id;
use super::pack::Pack;
use super::{GitAddress, GitError, Repository, checkout};
use crate::scratch::Scratch;

/// Repositories within repositories.
const MAX_DEPTH: usize = 16;
/// The largest file `.gitmodules`.
const MAX_LIST: u64 = 4 << 20;

/// One submodule: where its files belong in its repository, and its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) path: PathBuf,
    pub(super) commit: Id,
}

impl Repository<'_> {
    /// Fetches `modules` of the repository whose files are at `under`, and theirs, and writes their files. Where they are
    /// is said by the repository itself, so nothing but HTTP and git's own protocol is followed.
    pub(super) fn bring<'a>(
        &'a self,
        scratch: &'a Scratch,
        under: PathBuf,
        modules: Vec<Module>,
        depth: usize,
    ) -> BoxFuture<'a, Result<(), GitError>> {
        Box::pin(async move {
            if modules.is_empty() {
                return Ok(());
            }
            if depth >= MAX_DEPTH {
                let text = format!("more than {MAX_DEPTH} submodules within each other");
                return Err(GitError::Protocol(text));
            }
            let places = places(scratch, &under)?;
            for Module { path, commit } in modules {
                let named = path.to_str().and_then(|p| places.get(p));
                let url = named.ok_or_else(|| GitError::ModulePlace(path.clone()))?;
                let url = resolved(&self.address.url, url).ok_or_else(|| {
                    GitError::ModuleAddress { path: path.clone(), url: url.clone() }
                })?;
                let same = host(&url) == host(&self.address.url);
                let address = GitAddress { url, reference: None, directory: String::new() };
                let authorization = self.authorization.clone().filter(|_| same);
                let module = Repository { store: self.store, address: &address, authorization };
                let at = under.join(&path);
                let failed = |source| GitError::Within {
                    path: at.clone(),
                    repository: address.shown(),
                    source: Box::new(source),
                };
                let below = module.written(scratch, &at, commit).await.map_err(failed)?;
                module.bring(scratch, at, below, depth + 1).await?;
            }
            Ok(())
        })
    }

    /// Writes the files of `commit` to `at`, which is there and empty; gives the submodules in it.
    async fn written(
        &self,
        scratch: &Scratch,
        at: &Path,
        commit: Id,
    ) -> Result<Vec<Module>, GitError> {
        self.download(&commit, &scratch.file()).await?;
        let (file, top, at) = (scratch.file(), scratch.upper().to_owned(), at.to_owned());
        let work = move || {
            let mut pack = Pack::open(&file, commit.format)?;
            let commit = checkout::peel(&mut pack, commit)?;
            let root = Root::open(&top).map_err(GitError::Io)?;
            let dir = root.dir_without_symlinks(&at).map_err(GitError::Io)?;
            let dir = Root::from_fd(dir.into());
            let written = checkout::write(&mut pack, &commit, &dir)?;
            if let (Some(parent), Some(name)) = (at.parent(), at.file_name()) {
                let parent = root.dir_without_symlinks(parent).map_err(GitError::Io)?;
                parent.set_times(name, written.time).map_err(GitError::Io)?;
            }
            std::fs::remove_file(file).map_err(GitError::Io)?;
            Ok(written.modules)
        };
        let died = |_| GitError::Io(io::Error::other("the task died"));
        tokio::task::spawn_blocking(work).await.map_err(died)?
    }
}

/// Addresses of submodules by their paths, as the repository at `under` says. Blocks, for one small file.
fn places(scratch: &Scratch, under: &Path) -> Result<BTreeMap<String, String>, GitError> {
    let read = || -> io::Result<String> {
        let root = Root::open(scratch.upper())?;
        let dir = root.dir_without_symlinks(under)?;
        let mut text = String::new();
        dir.read(".gitmodules".as_ref())?.take(MAX_LIST).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(parse(&text)),
        // Each of them is then told to have no address.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(GitError::Io(e)),
    }
}

/// Reads `.gitmodules`: git's configuration (git-config(1)) with a section for each submodule.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let (mut path, mut url) = (None, None);
    // One line more, so that the last section ends, too.
    for line in text.lines().map(str::trim).chain(["["]) {
        if line.starts_with('[') {
            if let (Some(path), Some(url)) = (path.take(), url.take()) {
                out.insert(path, url);
            }
        } else if let Some((key, value)) = line.split_once('=') {
            let value = Some(unquoted(value));
            match key.trim().to_ascii_lowercase().as_str() {
                "path" => path = value,
                "url" => url = value,
                _ => {}
            }
        }
    }
    out
}

/// A value without its quotes and without a comment behind it.
fn unquoted(value: &str) -> String {
    let (mut out, mut quoted) = (String::new(), false);
    let mut chars = value.trim().chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' => out.extend(chars.next()),
            '#' | ';' if !quoted => break,
            c => out.push(c),
        }
    }
    out.trim_end().to_owned()
}

/// What an address means in the repository at `base`. `None` if it is of no server that is fetched from.
fn resolved(base: &str, url: &str) -> Option<String> {
    if !(url.starts_with("./") || url.starts_with("../")) {
        let fetched = ["https://", "http://", "git://"].iter().any(|s| url.starts_with(s));
        return fetched.then(|| url.to_owned());
    }
    let (host, path) = base.split_at(host(base).len());
    let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    for part in url.split('/').filter(|p| !p.is_empty()) {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(format!("{host}/{}", parts.join("/")))
}

/// Scheme and host of a web address, with a password that may be there.
fn host(url: &str) -> &str {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find('/').map_or(url.len(), |at| begin + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_say_where_submodules_are() {
        let text = "# x\n[submodule \"a b\"]\n\tpath = lib/a\n\turl = ../a.git ; comment\n\tbranch = main\n\
            [submodule \"c\"]\nurl=\"https://h/c#d\"\npath=c\n[submodule \"none\"]\npath = none\n";
        let own = |p: &str, u: &str| (p.to_owned(), u.to_owned());
        let expected = [own("c", "https://h/c#d"), own("lib/a", "../a.git")];
        assert_eq!(parse(text).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn addresses_are_relative_to_the_repository() {
        let at = |url: &str| resolved("https://u:p@h:1/team/app.git", url);
        assert_eq!(at("../lib.git").unwrap(), "https://u:p@h:1/team/lib.git");
        assert_eq!(at("../../x").unwrap(), "https://u:p@h:1/x");
        assert_eq!(at("./in").unwrap(), "https://u:p@h:1/team/app.git/in");
        assert_eq!(at("https://o/x").unwrap(), "https://o/x");
        assert_eq!(at("git://o/x").unwrap(), "git://o/x");
        for none in ["../../../x", "/etc", "ssh://h/x", "git@h:x", "file:///etc", "-x", "ext::sh"] {
            assert_eq!(at(none), None, "{none}");
        }
        assert_eq!(host("https://h"), "https://h");
    }
}
