//! Repositories as sources of files: the client side of git's protocol, version 2, over HTTP and over its own port.
//!
//! One commit is fetched, without its history, and written into a directory of ours. No program is started, so that no
//! address and no reference can be an option of one; nothing that a repository holds is executed, and no hook, filter
//! or attribute of it has a meaning. Objects are checked against their names, SHA-1 or SHA-256 as the repository has it.
//! Submodules come with their whole (`modules.rs`).

mod address;
mod checkout;
mod daemon;
mod modules;
mod object;
mod pack;
mod wire;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt as _;
use wharf_base::fs::{Durability, write_atomic};
use wharf_image::{ByteStream, ImageStore, RegistryError, WebRequest};
use wharf_sys::root::Root;

pub use address::GitAddress;
use modules::Module;
use object::{Format, Id};
use pack::Pack;

use crate::error::BuildError;
use crate::scratch::Scratch;

/// Bytes of an answer that is held in memory.
const MAX_ANSWER: usize = 64 << 20;
/// Bytes of a pack.
const MAX_PACK: u64 = 16 << 30;

/// Why a repository could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The server says no.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// The server sends what makes no sense, or what wharf does not read.
    #[error("the server sent {0}")]
    Protocol(String),
    /// Nothing has that name.
    #[error("{name:?} is no branch, tag or commit there{hint}")]
    NoReference {
        /// What was asked for.
        name: String,
        /// More about it, or empty.
        hint: &'static str,
    },
    /// The address is none.
    #[error("the address has {0}")]
    Address(String),
    /// The server of a `git://` address cannot be reached, or stops in the middle.
    #[error("cannot reach the server")]
    Unreached(#[source] io::Error),
    /// Nothing says where a submodule is.
    #[error("the submodule {} has no address in .gitmodules", .0.display())]
    ModulePlace(PathBuf),
    /// A submodule is where wharf does not fetch from.
    #[error("the submodule {} is at {url:?}: wharf fetches http, https and git addresses only; ADD it by itself", path.display())]
    ModuleAddress {
        /// Of the submodule.
        path: PathBuf,
        /// As it is written.
        url: String,
    },
    /// A submodule could not be had.
    #[error("the submodule {}, git repository {repository}", path.display())]
    Within {
        /// Of the submodule.
        path: PathBuf,
        /// Its address.
        repository: String,
        /// Why.
        source: Box<GitError>,
    },
    /// The directory of the address is not there.
    #[error("there is no directory {0:?}, or a link is in its path")]
    NoDirectory(String),
    /// The server cannot be reached, or answers with an error.
    #[error(transparent)]
    Web(#[from] RegistryError),
    /// This host failed.
    #[error("cannot store the repository")]
    Io(#[source] io::Error),
}

/// A repository at a server.
pub(crate) struct Repository<'a> {
    pub(crate) store: &'a ImageStore,
    pub(crate) address: &'a GitAddress,
    /// The header `Authorization`.
    pub(crate) authorization: Option<String>,
}

/// A commit, and by what name it was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    id: Id,
    /// The whole name of the branch or tag.
    name: Option<String>,
}

impl Found {
    /// The commit's id in hexadecimal digits.
    pub(crate) fn commit(&self) -> String {
        self.id.to_string()
    }
}

impl Repository<'_> {
    /// Which commit the address means now.
    pub(crate) async fn find(&self) -> Result<Found, BuildError> {
        self.look().await.map_err(|e| self.failed(e))
    }

    async fn look(&self) -> Result<Found, GitError> {
        let wanted = self.address.reference.as_deref();
        let names = candidates(wanted);
        let answer = self.references(&names).await?;
        let all = wire::references(&whole(answer).await?)?;
        for name in &names {
            if let Some(found) = all.iter().find(|r| r.name == *name) {
                let name = found.target.clone().unwrap_or_else(|| found.name.clone());
                return Ok(Found { id: found.commit, name: Some(name) });
            }
        }
        let name = wanted.unwrap_or("HEAD");
        if let Some(id) = Id::parse(name) {
            return Ok(Found { id, name: None });
        }
        let hex = name.len() >= 4 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let hint = if hex { ": a commit needs all of its digits" } else { "" };
        Err(GitError::NoReference { name: name.to_owned(), hint })
    }

    /// The server's answer to the question which commits `names` are.
    async fn references(&self, names: &[String]) -> Result<ByteStream, GitError> {
        if self.is_daemon() {
            let line = daemon::Line::open(&self.address.url).await?;
            let question = wire::ask_references(line.format, names);
            return line.ask(question).await;
        }
        let mut request = self.request("info/refs?service=git-upload-pack");
        request.headers.push(("accept", "application/x-git-upload-pack-advertisement".into()));
        let greeting = whole(self.store.web(request).await?.body).await?;
        let format: Format = wire::Greeting::parse(&greeting)?;
        self.ask(wire::ask_references(format, names)).await
    }

    fn is_daemon(&self) -> bool {
        self.address.url.starts_with("git://")
    }

    /// Fetches a commit with its submodules and writes its files into the upper directory of what is returned; with
    /// `keep`, its `.git` as well, but none of submodules.
    pub(crate) async fn fetch(&self, found: &Found, keep: bool) -> Result<Scratch, BuildError> {
        let scratch = Scratch::new(self.store)?;
        let done = async {
            self.download(&found.id, &scratch.file()).await?;
            let (found, url) = (found.clone(), self.address.shown());
            let work = move || {
                let modules = write_files(&scratch, &found, keep.then_some(url.as_str()))?;
                // The pack is needed no more, and may be large.
                std::fs::remove_file(scratch.file()).map_err(GitError::Io)?;
                Ok::<_, GitError>((scratch, modules))
            };
            let died = |_| GitError::Io(io::Error::other("the task died"));
            let (scratch, modules) = tokio::task::spawn_blocking(work).await.map_err(died)??;
            self.bring(&scratch, PathBuf::new(), modules, 0).await?;
            Ok(scratch)
        };
        done.await.map_err(|e| self.failed(e))
    }

    async fn download(&self, id: &Id, to: &Path) -> Result<(), GitError> {
        let mut answer = self.ask(wire::ask_objects(id)).await?;
        let mut file = File::create(to).map_err(GitError::Io)?;
        let (mut unwrap, mut size) = (wire::Unwrap::default(), 0);
        while let Some(bytes) = answer.next().await {
            for part in unwrap.feed(&bytes.map_err(broken)?)? {
                size += part.len() as u64;
                if size > MAX_PACK {
                    return Err(GitError::Protocol(format!("more than {MAX_PACK} bytes")));
                }
                file.write_all(&part).map_err(GitError::Io)?;
            }
        }
        Ok(())
    }

    async fn ask(&self, body: Vec<u8>) -> Result<ByteStream, GitError> {
        if self.is_daemon() {
            return daemon::Line::open(&self.address.url).await?.ask(body).await;
        }
        let mut request = self.request("git-upload-pack");
        request.headers.push(("content-type", "application/x-git-upload-pack-request".into()));
        request.headers.push(("accept", "application/x-git-upload-pack-result".into()));
        request.body = Some(Bytes::from(body));
        Ok(self.store.web(request).await?.body)
    }

    fn request(&self, service: &str) -> WebRequest {
        WebRequest {
            address: format!("{}/{service}", self.address.url.trim_end_matches('/')),
            headers: vec![("git-protocol", "version=2".into())],
            authorization: self.authorization.clone(),
            body: None,
        }
    }

    fn failed(&self, source: GitError) -> BuildError {
        BuildError::Git { repository: self.address.shown(), source }
    }
}

/// The directory of the address in what was fetched, opened without following a link (CVE-2026-33748).
pub(crate) fn directory(scratch: &Scratch, address: &GitAddress) -> Result<Root, BuildError> {
    let open = Root::open(scratch.upper()).and_then(|root| match address.directory.as_str() {
        "" => Ok(root),
        path => root.dir_without_symlinks(Path::new(path)).map(|d| Root::from_fd(d.into())),
    });
    open.map_err(|_| BuildError::Git {
        repository: address.shown(),
        source: GitError::NoDirectory(address.directory.clone()),
    })
}

/// The whole names that a short one can mean, in git's order.
fn candidates(name: Option<&str>) -> Vec<String> {
    match name {
        None => vec!["HEAD".to_owned()],
        Some(name) if name.starts_with("refs/") || name == "HEAD" => vec![name.to_owned()],
        Some(name) => {
            vec![format!("refs/tags/{name}"), format!("refs/heads/{name}"), format!("refs/{name}")]
        }
    }
}

async fn whole(mut body: ByteStream) -> Result<Vec<u8>, GitError> {
    let mut out = Vec::new();
    while let Some(bytes) = body.next().await {
        out.extend_from_slice(&bytes.map_err(broken)?);
        if out.len() > MAX_ANSWER {
            return Err(GitError::Protocol(format!("more than {MAX_ANSWER} bytes of references")));
        }
    }
    Ok(out)
}

fn broken(e: io::Error) -> GitError {
    GitError::Protocol(format!("an answer that broke off ({e})"))
}

/// Blocks.
fn write_files(
    scratch: &Scratch,
    found: &Found,
    keep: Option<&str>,
) -> Result<Vec<Module>, GitError> {
    let mut pack = Pack::open(&scratch.file(), found.id.format)?;
    let commit = checkout::peel(&mut pack, found.id)?;
    let root = Root::open(scratch.upper()).map_err(GitError::Io)?;
    let mut written = checkout::write(&mut pack, &commit, &root)?;
    let modules = std::mem::take(&mut written.modules);
    let Some(url) = keep else { return Ok(modules) };
    let dir = scratch.upper().join(".git");
    let name = format!("objects/pack/pack-{}", pack.name());
    let branch = found.name.as_deref().and_then(|n| n.strip_prefix("refs/heads/"));
    let head = match branch {
        Some(branch) => format!("ref: refs/heads/{branch}\n"),
        None => format!("{commit}\n"),
    };
    let (version, extension) = match found.id.format {
        Format::Sha1 => (0, String::new()),
        other => (1, format!("[extensions]\n\tobjectformat = {}\n", other.name())),
    };
    let config = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n{extension}[remote \"origin\"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    );
    let mut files = vec![
        ("HEAD".to_owned(), head.into_bytes()),
        ("config".to_owned(), config.into_bytes()),
        ("shallow".to_owned(), format!("{commit}\n").into_bytes()),
        ("index".to_owned(), written.index()),
        (format!("{name}.idx"), pack.index()),
    ];
    if let Some(name) = found.name.as_deref().filter(|n| n.starts_with("refs/")) {
        files.push((name.to_owned(), format!("{commit}\n").into_bytes()));
    }
    for sub in ["objects/pack", "refs/heads", "refs/tags"] {
        std::fs::create_dir_all(dir.join(sub)).map_err(GitError::Io)?;
    }
    for (name, content) in files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(GitError::Io)?;
        }
        write_atomic(&path, &content, 0o644, Durability::Process).map_err(GitError::Io)?;
    }
    std::fs::copy(scratch.file(), dir.join(format!("{name}.pack"))).map_err(GitError::Io)?;
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_tags_before_branches() {
        assert_eq!(candidates(None), ["HEAD"]);
        assert_eq!(candidates(Some("refs/pull/1/head")), ["refs/pull/1/head"]);
        assert_eq!(candidates(Some("v1")), ["refs/tags/v1", "refs/heads/v1", "refs/v1"]);
    }
}
