//! The files of a build at the classic door: uploaded, at an address, in a repository, under further names.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use http::StatusCode;
use wharf_build::{Fetched, GitAddress, Inputs, Named, Request, Tree};
use wharf_buildkit::SyncError;
use wharf_image::without_password;

use super::Door;
use super::build::fault;
use crate::call::Call;
use crate::fault::Fault;
use crate::reply::{self, Reply};

/// Where further contexts are in an upload of wharf's own command line.
const UPLOADED: &str = ".wharf-contexts";

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
                let found = door.builder.fetch(&value).await.map_err(|e| fault(&e))?;
                let tree = found.tree();
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

/// Where the files of a build are.
pub(super) struct Place<'a> {
    /// An address; empty if they come with the request.
    pub(super) remote: &'a str,
    /// The key of what came before; empty if all of them come now.
    pub(super) kept: &'a str,
    pub(super) keep_git: bool,
}

/// The files: uploaded, or at an address.
pub(super) async fn context(
    door: &Door,
    call: Call,
    place: Place<'_>,
    inputs: &Inputs,
) -> Result<Tree, Fault> {
    match place.remote {
        "" if place.kept.is_empty() => {
            door.builder.unpack(call.into_stream()).await.map_err(|e| fault(&e.into()))
        }
        "" => {
            let (buildkit, key) = (door.buildkit.clone(), place.kept.to_owned());
            let work = move |upload: &mut (dyn Read + Send)| buildkit.synced(&key, upload);
            synced(wharf_image::read_blocking(call.into_stream(), work).await)
        }
        address if GitAddress::is_one(address) => {
            repository(door, address, place.keep_git, inputs).await
        }
        address => {
            let found = door.builder.fetch(address).await;
            found.map(Fetched::tree).map_err(|e| fault(&e))
        }
    }
}

/// `POST /build/context`: which of the files of a list the kept context lacks. For wharf's own command line.
pub(super) async fn missing(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let key = call.query.text("key");
    if key.is_empty() {
        return Err(Fault::invalid("the parameter key is missing"));
    }
    let buildkit = door.buildkit.clone();
    let work = move |list: &mut (dyn Read + Send)| buildkit.missing(&key, list);
    Ok(reply::ok(&synced(wharf_image::read_blocking(call.into_stream(), work).await)?))
}

/// What became of an exchange with a kept context.
fn synced<T>(done: Option<Result<T, SyncError>>) -> Result<T, Fault> {
    match done {
        None => Err(Fault::invalid("the upload was interrupted")),
        Some(Ok(done)) => Ok(done),
        Some(Err(e)) => {
            let status = match e {
                SyncError::Changed(_) => StatusCode::CONFLICT,
                SyncError::List(_) | SyncError::Archive(_) => StatusCode::BAD_REQUEST,
                SyncError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Fault::new(status, wharf_base::error::chain(&e).to_string()))
        }
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
