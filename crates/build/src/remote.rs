//! What `ADD` takes from the network: files from web servers, directories of repositories.
//!
//! A source is known by its identity (the digest of a file, the commit of a repository) before it is here, and is brought
//! here only if nothing in the cache was made of it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use futures_util::StreamExt as _;
use tokio::sync::OnceCell;
use wharf_image::{WebAnswer, WebRequest, without_password};
use wharf_spec::digest::{Algorithm, Digest, Hasher};
use wharf_spec::dockerfile::instruction::Copy;

use crate::builder::Builder;
use crate::cache::Fetched;
use crate::context::Tree;
use crate::error::BuildError;
use crate::git::{self, Found, GitAddress, Repository};
use crate::inputs::Secrets;
use crate::job::Job;
use crate::material::Material;
use crate::scratch::Scratch;

/// One remote source.
pub(crate) struct Remote {
    /// What its content is, for the key of the step.
    pub(crate) identity: String,
    pub(crate) kind: Kind,
    here: OnceCell<Arc<Scratch>>,
}

/// What kind of source.
pub(crate) enum Kind {
    /// A file.
    File {
        address: String,
        authorization: Option<String>,
        /// What it must be.
        digest: Digest,
        /// The last part of its path.
        name: Option<String>,
        /// `--unpack`
        unpack: bool,
        /// When the server says it was changed last, in seconds since 1970.
        modified: OnceCell<i64>,
    },
    /// A directory of a repository.
    Directory {
        address: GitAddress,
        authorization: Option<String>,
        found: Found,
        /// With `.git`.
        keep: bool,
    },
}

/// Whether a source of ADD is remote.
pub(crate) fn is_remote(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://") || GitAddress::is_one(source)
}

impl Remote {
    /// Where it is, once it has been brought.
    pub(crate) fn here(&self) -> Result<&Arc<Scratch>, BuildError> {
        let missing = || BuildError::Invalid("a remote source was not brought here".into());
        self.here.get().ok_or_else(missing)
    }
}

impl Job {
    /// Finds out what a remote source of ADD is.
    pub(crate) async fn remote(
        &self,
        source: &str,
        copy: &Copy,
        no_cache: bool,
    ) -> Result<Remote, BuildError> {
        match GitAddress::is_one(source) {
            true => self.remote_directory(source, copy).await,
            false => self.remote_file(source, copy, no_cache).await,
        }
    }

    async fn remote_directory(&self, source: &str, copy: &Copy) -> Result<Remote, BuildError> {
        let address = GitAddress::parse(source)?;
        if copy.unpack.is_some() {
            return Err(BuildError::Invalid(
                "--unpack is for archives, not for repositories".into(),
            ));
        }
        let authorization = git_authorization(self.inputs.secrets.as_ref(), &address).await?;
        let store = self.builder.store();
        let repository =
            Repository { store, address: &address, authorization: authorization.clone() };
        let found = repository.find().await?;
        let commit = found.commit();
        if let Some(wanted) = &copy.checksum {
            let plain = wanted.strip_prefix("sha1:").unwrap_or(wanted);
            let digits = plain.len() >= 7 && plain.bytes().all(|b| b.is_ascii_hexdigit());
            if !digits || !commit.starts_with(&plain.to_ascii_lowercase()) {
                return Err(BuildError::Invalid(format!(
                    "checksum mismatch for {}: expected commit {wanted}, got {commit}",
                    address.shown()
                )));
            }
        }
        self.uses(Material::repository(&address.whole(), &commit));
        let keep = copy.keep_git_dir;
        // The kept directory names where it is from; what is copied without it depends on the commit alone.
        let origin = if keep { address.shown() } else { String::new() };
        let identity = format!("git {commit} {keep} {origin} {}", address.directory());
        let kind = Kind::Directory { address, authorization, found, keep };
        Ok(Remote { identity, kind, here: OnceCell::new() })
    }

    async fn remote_file(
        &self,
        address: &str,
        copy: &Copy,
        no_cache: bool,
    ) -> Result<Remote, BuildError> {
        if copy.keep_git_dir {
            return Err(BuildError::Invalid(format!(
                "--keep-git-dir is for repositories: {} is none (its path does not end in .git)",
                without_password(address)
            )));
        }
        let authorization = web_authorization(self.inputs.secrets.as_ref(), address).await?;
        let name = file_name(address);
        let unpack = copy.unpack == Some(true);
        let shown = without_password(address);
        let made = |digest: Digest, modified: Option<i64>, here: Option<Scratch>| Remote {
            identity: digest.to_string(),
            kind: Kind::File {
                address: address.to_owned(),
                authorization: authorization.clone(),
                digest,
                name: name.clone(),
                unpack,
                modified: OnceCell::new_with(modified),
            },
            here: OnceCell::new_with(here.map(Arc::new)),
        };
        let file = |digest: Digest, modified, here| {
            self.uses(Material::file(&shown, &digest));
            made(digest, modified, here)
        };
        if let Some(text) = &copy.checksum {
            let wrong = || BuildError::Invalid(format!("invalid checksum {text:?}: use sha256:…"));
            return Ok(file(text.parse().map_err(|_| wrong())?, None, None));
        }
        let known = self.builder.cache().fetched(&shown).filter(|_| !no_cache);
        let answer = self.ask(address, authorization.clone(), known.as_ref()).await?;
        if let (true, Some(known)) = (answer.unchanged, known) {
            return Ok(file(known.digest, known.modified, None));
        }
        let modified = modified(&answer);
        let tag = answer.header("etag").map(str::to_owned);
        let date = answer.header("last-modified").map(str::to_owned);
        let scratch = Scratch::new(self.builder.store())?;
        let digest = store(answer, &scratch, &shown, Algorithm::Sha256).await?;
        let fetched =
            Fetched { address: shown.clone(), tag, date, digest: digest.clone(), modified };
        self.builder.cache().remember_fetched(&fetched)?;
        Ok(file(digest, modified, Some(scratch)))
    }

    /// Brings a source here, unless it is.
    pub(crate) async fn bring(&self, remote: &Remote) -> Result<(), BuildError> {
        remote.here.get_or_try_init(|| self.fetch_remote(&remote.kind)).await.map(drop)
    }

    async fn fetch_remote(&self, kind: &Kind) -> Result<Arc<Scratch>, BuildError> {
        let store_of = self.builder.store();
        match kind {
            Kind::Directory { address, authorization, found, keep } => {
                let authorization = authorization.clone();
                let repository = Repository { store: store_of, address, authorization };
                Ok(Arc::new(repository.fetch(found, *keep).await?))
            }
            Kind::File { address, authorization, digest, modified: time, .. } => {
                let answer = self.ask(address, authorization.clone(), None).await?;
                if let Some(seconds) = modified(&answer) {
                    // It may be known from an earlier answer.
                    let _known = time.set(seconds);
                }
                let scratch = Scratch::new(store_of)?;
                let shown = without_password(address);
                let found = store(answer, &scratch, &shown, digest.algorithm()).await?;
                match found == *digest {
                    true => Ok(Arc::new(scratch)),
                    false => Err(BuildError::Invalid(format!(
                        "digest mismatch for {shown}: expected {digest}, got {found}"
                    ))),
                }
            }
        }
    }

    async fn ask(
        &self,
        address: &str,
        authorization: Option<String>,
        known: Option<&Fetched>,
    ) -> Result<WebAnswer, BuildError> {
        let mut headers = Vec::new();
        if let Some(known) = known {
            headers.extend(known.tag.clone().map(|t| ("if-none-match", t)));
            headers.extend(known.date.clone().map(|d| ("if-modified-since", d)));
        }
        let request =
            WebRequest { address: address.to_owned(), headers, authorization, body: None };
        self.builder.store().web(request).await.map_err(|e| {
            let shown = without_password(address);
            BuildError::NotFound(format!("cannot fetch {shown}: {}", wharf_base::error::chain(&e)))
        })
    }
}

impl Builder {
    /// A repository as a build context: the directory that the address names, with `.git` if `keep`. `secrets` may
    /// hold `GIT_AUTH_TOKEN` or `GIT_AUTH_HEADER`, also with `.HOST` behind it.
    pub async fn repository(
        &self,
        address: &GitAddress,
        keep: bool,
        secrets: &dyn Secrets,
    ) -> Result<Tree, BuildError> {
        let authorization = git_authorization(secrets, address).await?;
        let repository = Repository { store: self.store(), address, authorization };
        let found = repository.find().await?;
        let scratch = repository.fetch(&found, keep).await?;
        let root = git::directory(&scratch, address)?;
        let path = scratch.upper().join(address.directory());
        Ok(Tree::opened(path, root, scratch))
    }
}

/// A line as it may be shown: addresses in it without their passwords.
pub(crate) fn redacted(line: &str) -> String {
    line.split_inclusive(char::is_whitespace).map(without_password).collect()
}

/// Stores a body; gives its digest.
async fn store(
    answer: WebAnswer,
    scratch: &Scratch,
    shown: &str,
    algorithm: Algorithm,
) -> Result<Digest, BuildError> {
    let failed = || BuildError::io(format!("store what {shown} gives"));
    let mut file = std::fs::File::create(scratch.file()).map_err(failed())?;
    let mut hasher = Hasher::new(algorithm);
    let mut body = answer.body;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(failed())?;
        hasher.update(&chunk);
        file.write_all(&chunk).map_err(failed())?;
    }
    Ok(hasher.finish())
}

/// The content of a file that was brought.
pub(crate) fn read(scratch: &Scratch) -> Result<Vec<u8>, BuildError> {
    let failed = || BuildError::io("read a fetched file");
    let mut content = Vec::new();
    let mut file = std::fs::File::open(scratch.file()).map_err(failed())?;
    file.read_to_end(&mut content).map_err(failed())?;
    Ok(content)
}

fn modified(answer: &WebAnswer) -> Option<i64> {
    let zoned = jiff::fmt::rfc2822::parse(answer.header("last-modified")?).ok()?;
    Some(zoned.timestamp().as_second())
}

/// The last part of the path of an address.
fn file_name(address: &str) -> Option<String> {
    let plain = address.split(['?', '#']).next()?;
    let (_, rest) = plain.split_once("://")?;
    let name = rest.split_once('/')?.1.rsplit('/').next()?;
    Some(name.to_owned()).filter(|n| !n.is_empty() && n != "." && n != "..")
}

fn host(address: &str) -> String {
    let shown = without_password(address);
    let rest = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
}

async fn text(secrets: &dyn Secrets, id: &str) -> Result<Option<String>, BuildError> {
    let Some(bytes) = secrets.secret(id).await.map_err(BuildError::Client)? else {
        return Ok(None);
    };
    let wrong = |_| BuildError::Invalid(format!("secret {id} is not text and cannot be a header"));
    String::from_utf8(bytes).map(|t| Some(t.trim().to_owned())).map_err(wrong)
}

/// BuildKit's names of secrets: a whole header before a token, one for the host before one for all.
async fn git_authorization(
    secrets: &dyn Secrets,
    address: &GitAddress,
) -> Result<Option<String>, BuildError> {
    let host = address.host();
    for id in [format!("GIT_AUTH_HEADER.{host}"), "GIT_AUTH_HEADER".into()] {
        if let Some(header) = text(secrets, &id).await? {
            return Ok(Some(header));
        }
    }
    for id in [format!("GIT_AUTH_TOKEN.{host}"), "GIT_AUTH_TOKEN".into()] {
        if let Some(token) = text(secrets, &id).await? {
            let pair = format!("x-access-token:{token}");
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            return Ok(Some(format!("Basic {encoded}")));
        }
    }
    Ok(None)
}

async fn web_authorization(
    secrets: &dyn Secrets,
    address: &str,
) -> Result<Option<String>, BuildError> {
    let host = host(address);
    if let Some(header) = text(secrets, &format!("HTTP_AUTH_HEADER_{host}")).await? {
        return Ok(Some(header));
    }
    let token = text(secrets, &format!("HTTP_AUTH_TOKEN_{host}")).await?;
    Ok(token.map(|t| format!("Bearer {t}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_without_passwords() {
        let line = "ADD --chown=1:2 [\"https://me:secret@h/x\", \"http://h/y@z\", \"/\"]";
        let shown = redacted(line);
        assert_eq!(shown, line.replace("me:secret@", ""));
    }

    #[test]
    fn addresses_tell_a_file_and_a_host() {
        assert_eq!(file_name("https://u:p@h:1/a/b.tar?x=/y").as_deref(), Some("b.tar"));
        assert_eq!(file_name("https://h/a/").as_deref(), None);
        assert_eq!(file_name("https://h").as_deref(), None);
        assert_eq!(file_name("https://h/a/..").as_deref(), None);
        assert_eq!(host("https://u:p@h:1/a@b"), "h:1");
    }
}
