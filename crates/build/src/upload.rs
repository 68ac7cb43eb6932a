//! A context that came as an archive, or is at an address.

use std::path::Path;
use std::pin::Pin;

use futures_util::StreamExt as _;
use wharf_base::error::chain;
use wharf_base::fs::{Durability, write_atomic};
use wharf_image::{ByteStream, ImageStore, without_password};
use wharf_sys::root::Root;

use crate::builder::Builder;
use crate::context::{ContextError, Tree};
use crate::copy::is_archive;
use crate::error::BuildError;
use crate::scratch::Scratch;

/// A file larger than this is no Dockerfile.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// What was at an address.
#[derive(Debug)]
pub enum Fetched {
    /// Files.
    Archive(Tree),
    /// One file, named `Dockerfile` whatever it was called there.
    Dockerfile(Tree),
}

impl Fetched {
    /// The files, whatever they were.
    pub fn tree(self) -> Tree {
        match self {
            Fetched::Archive(tree) | Fetched::Dockerfile(tree) => tree,
        }
    }
}

impl Builder {
    /// Fetches what is at a web address: an archive, plain or compressed, or a Dockerfile.
    pub async fn fetch(&self, address: &str) -> Result<Fetched, BuildError> {
        let shown = without_password(address);
        let body =
            self.store().download(address).await.map_err(|e| {
                BuildError::NotFound(format!("cannot fetch {shown}: {}", chain(&e)))
            })?;
        let mut body = body.peekable();
        let first = Pin::new(&mut body).peek().await;
        if matches!(first, Some(Ok(bytes)) if is_archive(bytes)) {
            return Ok(Fetched::Archive(self.unpack(body.boxed()).await?));
        }
        let mut whole = Vec::new();
        while let Some(bytes) = body.next().await {
            let bytes = bytes
                .map_err(|e| BuildError::Invalid(format!("cannot read {shown}: {}", chain(&e))))?;
            whole.extend_from_slice(&bytes);
            if whole.len() as u64 > MAX_DOCKERFILE {
                let text = format!("{shown} is neither an archive nor a Dockerfile");
                return Err(BuildError::Invalid(text));
            }
        }
        Ok(Fetched::Dockerfile(self.single_file(whole).await?))
    }

    /// Unpacks an uploaded context, plain or compressed. The files go when the last clone of the tree does; names that
    /// lead out of it are refused.
    pub async fn unpack(&self, body: ByteStream) -> Result<Tree, ContextError> {
        let store = self.store().clone();
        let unpacked = wharf_image::read_blocking(body, move |reader| unpack(&store, reader)).await;
        unpacked.unwrap_or_else(|| Err(ContextError::Source("the upload was interrupted".into())))
    }

    /// Takes the directory `name` out of an unpacked upload, which nobody uses yet. `None` if it is not there.
    pub fn take_out(&self, from: &Tree, name: &str) -> Result<Option<Tree>, ContextError> {
        let failed = |source| ContextError::Io { action: "move", path: name.into(), source };
        let top = from.root().top().map_err(failed)?;
        match top.lstat(name.as_ref()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let scratch = scratch(self.store())?;
        let to = Root::open(scratch.upper()).and_then(|r| r.top()).map_err(failed)?;
        top.rename(name.as_ref(), &to, "out".as_ref()).map_err(failed)?;
        tree(scratch)?.sub("out").map(Some)
    }

    /// A context of one file, `Dockerfile`.
    async fn single_file(&self, content: Vec<u8>) -> Result<Tree, ContextError> {
        let failed =
            |source| ContextError::Io { action: "store", path: "Dockerfile".into(), source };
        let scratch = scratch(self.store())?;
        let path = scratch.upper().join("Dockerfile");
        write_atomic(&path, &content, 0o644, Durability::Process).map_err(failed)?;
        tree(scratch)
    }
}

/// A small file of a tree; `None` if it is not there.
pub fn read_small(tree: &Tree, path: &str) -> Result<Option<Vec<u8>>, ContextError> {
    use std::io::Read as _;
    let failed = |source| ContextError::Io { action: "read", path: path.into(), source };
    let file = match tree.root().read(Path::new(path)) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ContextError::Source(format!("{path} is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(ContextError::Source(format!("{path} is larger than {MAX_DOCKERFILE} bytes")));
    }
    Ok(Some(bytes))
}

fn unpack(
    store: &ImageStore,
    reader: &mut (dyn std::io::Read + Send),
) -> Result<Tree, ContextError> {
    let scratch = scratch(store)?;
    let tree = tree(scratch)?;
    wharf_engine::tar_in::unpack(tree.root(), Path::new("/"), Some((0, 0)), reader)
        .map_err(|e| ContextError::Source(format!("the build context: {}", e.message())))?;
    Ok(tree)
}

fn scratch(store: &ImageStore) -> Result<Scratch, ContextError> {
    Scratch::new(store).map_err(|e| ContextError::Source(chain(&e).to_string()))
}

fn tree(scratch: Scratch) -> Result<Tree, ContextError> {
    let path = scratch.upper().to_owned();
    let failed = |source| ContextError::Io { action: "open", path: path.clone(), source };
    Tree::new(path.clone(), scratch).map_err(failed)
}
