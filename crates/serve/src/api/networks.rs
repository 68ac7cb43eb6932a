//! Networks.

use std::sync::Arc;

use http::StatusCode;
use wharf_engine::filters::{NETWORKS, PRUNE};
use wharf_spec::docker;

use super::system::{CREATED, now};
use super::{Door, blocking, complete};
use crate::call::Call;
use crate::fault::Fault;
use crate::reply::{self, Reply};
use crate::route::NetworkAction;

pub(super) async fn network(
    door: Arc<Door>,
    action: NetworkAction,
    mut call: Call,
) -> Result<Reply, Fault> {
    let networks = door.networks.clone();
    match action {
        NetworkAction::List => {
            let filters = call.query.filters(NETWORKS)?;
            let list = networks.list(&filters)?;
            Ok(reply::ok(&list))
        }
        NetworkAction::Inspect(name) => {
            let scope = call.query.some("scope");
            if scope.is_some_and(|s| s != "local") {
                return Err(Fault::new(StatusCode::NOT_FOUND, format!("network {name} not found")));
            }
            Ok(reply::ok(&networks.inspect(&name)?))
        }
        NetworkAction::Create => {
            let request: docker::NetworkCreateRequest = call.json().await?.unwrap_or_default();
            let created = blocking(move || networks.create(request)).await?;
            Ok(reply::json(CREATED, &created))
        }
        NetworkAction::Remove(name) => {
            blocking(move || networks.remove(&name)).await?;
            Ok(reply::no_content())
        }
        NetworkAction::Prune => {
            let filters = call.query.filters(PRUNE)?;
            let report = blocking(move || networks.prune(&filters, now())).await?;
            Ok(reply::ok(&report))
        }
        NetworkAction::Connect(name) => {
            let request: docker::NetworkConnectRequest = body(&mut call).await?;
            complete(async move {
                let settings = request.endpoint_config.unwrap_or_default();
                door.engine.connect(&name, &request.container, settings).await
            })
            .await?;
            Ok(reply::status(StatusCode::OK))
        }
        NetworkAction::Disconnect(name) => {
            let request: docker::NetworkDisconnectRequest = body(&mut call).await?;
            complete(async move {
                door.engine.disconnect(&name, &request.container, request.force).await
            })
            .await?;
            Ok(reply::status(StatusCode::OK))
        }
    }
}

/// Adds an interface to a container that runs.
pub(super) async fn plug(door: Arc<Door>, name: String, mut call: Call) -> Result<Reply, Fault> {
    let request: docker::InterfaceAttachRequest = body(&mut call).await?;
    let made = complete(async move { door.engine.plug(&name, request).await }).await?;
    Ok(reply::json(CREATED, &made))
}

/// A body that must be there.
async fn body<T: serde::de::DeserializeOwned>(call: &mut Call) -> Result<T, Fault> {
    let missing = || Fault::invalid("invalid JSON: got EOF while reading request body");
    call.json().await?.ok_or_else(missing)
}
