//! Volumes.

use std::sync::Arc;

use http::StatusCode;
use wharf_engine::filters::{PRUNE_VOLUMES, VOLUMES};
use wharf_spec::docker;

use super::system::CREATED;
use super::{Door, complete};
use crate::call::Call;
use crate::fault::Fault;
use crate::reply::{self, Reply};
use crate::route::VolumeAction;
use crate::version::v;

pub(super) async fn volume(
    door: Arc<Door>,
    action: VolumeAction,
    mut call: Call,
) -> Result<Reply, Fault> {
    match action {
        VolumeAction::List => {
            let filters = call.query.filters(VOLUMES)?;
            Ok(reply::ok(&door.engine.volume_list(&filters).await?))
        }
        VolumeAction::Inspect(name) => Ok(reply::ok(&door.engine.volume_inspect(&name).await?)),
        VolumeAction::Create => {
            let request: docker::VolumeCreateRequest = call.json().await?.unwrap_or_default();
            if request.cluster_volume_spec.is_some() && call.version >= v(42) {
                return Err(no_cluster_volumes());
            }
            let volume = complete(async move { door.engine.volume_create(request).await }).await?;
            Ok(reply::json(CREATED, &volume))
        }
        VolumeAction::Update => Err(no_cluster_volumes()),
        VolumeAction::Remove(name) => {
            let force = call.query.truth("force");
            complete(async move { door.engine.volume_remove(&name, force).await }).await?;
            Ok(reply::no_content())
        }
        VolumeAction::Prune => {
            let mut filters = call.query.filters(PRUNE_VOLUMES)?;
            if call.version < v(42) {
                // Named volumes were pruned, too, until then.
                filters = filters.with("all", "true");
            }
            let report = complete(async move { door.engine.volume_prune(&filters).await }).await?;
            Ok(reply::ok(&report))
        }
    }
}

fn no_cluster_volumes() -> Fault {
    Fault::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "volume update only valid for cluster volumes, but swarm is unavailable",
    )
}
