//! The files of a build at the classic door: uploaded, at an address, in a repository, under further names.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use wharf_build::{BuildError, GitAddress, Inputs, Named, Request, Tree};
use wharf_image::without_password;

use super::Door;
use super::build::fault;
use crate::call::Call;
use crate::fault::Fault;

/// Where further contexts are in an upload of wharf's own command line.
const UPLOADED: &str = ".wharf-contexts";
/// A file at an address that is larger than this is no Dockerfile.
const MAX_DOCKERFILE: usize = 16 << 20;
/// `--build-context`: directories that came along in the upload are taken out of it.
pub(super) async fn named(
    door: &Door,
    tree: &Tree,
    contexts: BTreeMap<String, String>,
    inputs: &Inputs,
) -> Result<BTreeMap<String, Named>, Fault> {
    let mut out = BTreeMap::new();
    let uploaded = door.builder.take_out(tree, UPLOADED).map_err(|e| fault(&e.into()))?;
    for (name, value) in contexts {
        let found = match value.split_once("://") {
            Some(("docker-image", image)) => Named::Image(image.to_owned()),
            Some(("upload", path)) => {
                let inside = path.strip_prefix(UPLOADED).and_then(|p| p.strip_prefix('/'));
                let dir = inside.filter(|p| !p.contains('/') && !p.contains(".."));
                let tree = match (&uploaded, dir) {
                    (Some(uploaded), Some(dir)) => {
                        uploaded.sub(dir).map_err(|e| fault(&e.into()))?
                    }
                    _ => {
                        return Err(Fault::invalid(format!(
                            "context {name}: {path} did not come along"
                        )));
                    }
                };
                Named::Context(Arc::new(tree))
            }
            Some(("http" | "https", _)) if !GitAddress::is_one(&value) => {
                let tree = fetched(door, &value, "Dockerfile").await?;
                Named::Context(Arc::new(tree))
            }
            _ if GitAddress::is_one(&value) => {
                Named::Context(Arc::new(repository(door, &value, false, inputs).await?))
            }
            _ => {
                return Err(Fault::not_implemented(format!(
                    "context {name}: {} is not supported by wharf: use a directory, docker-image://, oci-layout://, or the address of an archive or a repository",
                    without_password(&value)
                )));
            }
        };
        out.insert(name.to_lowercase(), found);
    }
    Ok(out)
}

/// The files: uploaded, or at an address.
pub(super) async fn context(
    door: &Door,
    call: Call,
    remote: &str,
    dockerfile: &str,
    keep_git: bool,
    inputs: &Inputs,
) -> Result<Tree, Fault> {
    match remote {
        "" => door.builder.unpack(call.into_stream()).await.map_err(|e| fault(&e.into())),
        address if GitAddress::is_one(address) => repository(door, address, keep_git, inputs).await,
        address => fetched(door, address, dockerfile).await,
    }
}

async fn repository(
    door: &Door,
    address: &str,
    keep: bool,
    inputs: &Inputs,
) -> Result<Tree, Fault> {
    let address = GitAddress::parse(address).map_err(|e| fault(&e))?;
    let tree = door.builder.repository(&address, keep, inputs.secrets.as_ref()).await;
    tree.map_err(|e| fault(&e))
}

/// What is at an address: an archive, or a Dockerfile.
async fn fetched(door: &Door, address: &str, dockerfile: &str) -> Result<Tree, Fault> {
    let shown = without_password(address);
    let body = door.images.store().download(address).await.map_err(|e| {
        let why = wharf_base::error::chain(&e);
        fault(&BuildError::NotFound(format!("cannot fetch {shown}: {why}")))
    })?;
    let mut body = body.peekable();
    let first = std::pin::Pin::new(&mut body).peek().await;
    if matches!(first, Some(Ok(bytes)) if is_archive(bytes)) {
        return door.builder.unpack(body.boxed()).await.map_err(|e| fault(&e.into()));
    }
    let mut whole = Vec::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|e| Fault::invalid(format!("cannot read {shown}: {e}")))?;
        whole.extend_from_slice(&bytes);
        if whole.len() > MAX_DOCKERFILE {
            return Err(Fault::invalid(format!("{shown} is neither an archive nor a Dockerfile")));
        }
    }
    door.builder.single_file(dockerfile, whole).await.map_err(|e| fault(&e.into()))
}

fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    compressed.iter().any(|m| head.starts_with(m))
        || head.get(257..262).is_some_and(|m| m == b"ustar")
}

/// Takes the Dockerfile and its rules out of the files. `lone`: the files may be a Dockerfile by itself.
pub(super) fn take_dockerfile(
    tree: &Tree,
    name: &str,
    lone: bool,
    request: &mut Request,
) -> Result<(), Fault> {
    let read = |path: &str| wharf_build::read_small(tree, path).map_err(|e| fault(&e.into()));
    let found = match read(name)? {
        None if lone => read("Dockerfile")?,
        found => found,
    };
    let Some(text) = found else {
        return Err(Fault::invalid(format!("Cannot locate specified Dockerfile: {name}")));
    };
    if text.is_empty() {
        return Err(Fault::invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    request.dockerignore = match read(&format!("{name}.dockerignore"))? {
        None => read(".dockerignore")?,
        own => own,
    };
    request.dockerfile = text;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_told_from_dockerfiles() {
        assert!(!is_archive(b"FROM busybox\n") && is_archive(b"\x1f\x8b\x08"));
    }
}
