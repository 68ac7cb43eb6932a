//! What an image is, without its layers: in the store, or at its registry with the client's credentials.

use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;
use wharf_base::error::chain;
use wharf_build::Credentials as _;
use wharf_image::{PullError, RemoteConfig};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::builds::Build;
use crate::kit::BuildKit;
use crate::proto::pb;
use crate::remote::Remote;

/// Which image.
pub(crate) struct Wanted {
    pub(crate) name: String,
    /// None is the host's.
    pub(crate) platform: Option<pb::Platform>,
    /// Where to look: `default` and `local` ask the store first, `pull` asks the registry alone.
    pub(crate) mode: String,
    /// What the vertex of the question is called; may be empty.
    pub(crate) shown: String,
}

/// What it is.
pub(crate) struct Found {
    /// Digest of the manifest or index.
    pub(crate) digest: String,
    pub(crate) config: Bytes,
    /// Its full name.
    pub(crate) name: String,
}

/// Looks the image up. Like docker, an image of the store for another platform is passed over.
pub(crate) async fn look_up(
    kit: &BuildKit,
    build: &Arc<Build>,
    wanted: Wanted,
) -> Result<Found, Status> {
    let shown = match wanted.shown.as_str() {
        "" => format!("resolve image config for {}", wanted.name),
        shown => shown.to_owned(),
    };
    let task = build.journal.task(shown);
    let found = find(kit, build, wanted).await;
    task.end(found)
}

async fn find(kit: &BuildKit, build: &Build, wanted: Wanted) -> Result<Found, Status> {
    let Wanted { name: text, platform, mode, .. } = wanted;
    let name = Reference::parse(&text)
        .map_err(|e| Status::invalid_argument(format!("{text:?}: {e}")))?
        .or_latest();
    let platform = platform.map(|p| Platform::new(&p.os, &p.architecture, &p.variant));
    let here = match mode.as_str() {
        "" | "default" | "local" => in_store(kit, &name, platform.clone()).await?,
        "pull" => None,
        other => {
            return Err(Status::invalid_argument(format!(
                "invalid resolve mode {other:?}: use default, local or pull"
            )));
        }
    };
    if let Some(found) = here {
        return Ok(found);
    }
    let session = kit.sessions().find(&build.request.session).await?;
    let auth = Remote(session).auth(name.domain()).await.map_err(Status::unknown)?;
    let asked = kit.images().store().remote_config(&name, platform.as_ref(), &auth).await;
    let RemoteConfig { digest, config } = asked.map_err(|e| failed(&name, &e))?;
    Ok(Found { digest: digest.to_string(), config, name: name.to_string() })
}

async fn in_store(
    kit: &BuildKit,
    name: &Reference,
    platform: Option<Platform>,
) -> Result<Option<Found>, Status> {
    let (store, name) = (kit.images().store().clone(), name.clone());
    let look = move || {
        let image = match store.resolve(&name.familiar()) {
            Ok(image) => image,
            Err(e) if e.kind() == wharf_image::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Status::internal(chain(&e).to_string())),
        };
        if platform.is_some_and(|p| p.distance(&image.platform()).is_none()) {
            return Ok(None);
        }
        let config = store.config_bytes(&image);
        let config = config.map_err(|e| Status::internal(chain(&e).to_string()))?;
        let digest = image.manifest().digest.to_string();
        Ok(Some(Found { digest, config: config.into(), name: name.to_string() }))
    };
    tokio::task::spawn_blocking(look).await.map_err(|e| Status::internal(e.to_string()))?
}

/// BuildKit's words around ours.
fn failed(name: &Reference, error: &PullError) -> Status {
    let text = format!("{name}: {}", chain(error));
    match error.kind() {
        wharf_image::ErrorKind::NotFound => Status::not_found(text),
        _ => Status::unknown(text),
    }
}
