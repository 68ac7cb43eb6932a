//! Containers: lists, changes of state, and everything about one.

use std::sync::Arc;

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use wharf_engine::filters::{CONTAINERS, PRUNE};
use wharf_engine::options::{
    CommitOptions, ListOptions, ReadOnly, RemoveOptions, StopOptions, WaitCondition,
};
use wharf_spec::docker;
use wharf_spec::platform::Platform;

use super::system::{CREATED, now};
use super::{Door, archive, complete, exec, streams};
use crate::body::Body;
use crate::call::Call;
use crate::compat;
use crate::connection::Answer;
use crate::fault::Fault;
use crate::query::Query;
use crate::reply::{self, Reply};
use crate::route::OneContainer;
use crate::version::v;

pub(super) async fn list(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let options = ListOptions {
        all: call.query.truth("all"),
        limit: call.query.number("limit")?,
        size: call.query.truth("size"),
        filters: call.query.filters(CONTAINERS)?,
    };
    let list = door.engine.list(options).await?;
    Ok(reply::ok(&compat::container_list(list, call.version)))
}

pub(super) async fn create(door: Arc<Door>, mut call: Call) -> Result<Reply, Fault> {
    let request: Option<docker::CreateRequest> = call.json().await?;
    let request = request
        .ok_or_else(|| Fault::invalid("invalid JSON: got EOF while reading request body"))?;
    let (request, warnings) = compat::create(request, call.version)?;
    let platform = match call.query.some("platform").filter(|_| call.version >= v(41)) {
        Some(text) => Some(parse_platform(&text)?),
        None => None,
    };
    let name = call.query.some("name");
    let read_only = if call.version < v(44) { ReadOnly::Top } else { ReadOnly::Recursive };
    let mut created = complete(async move {
        let name = name.as_deref().map(|n| n.strip_prefix('/').unwrap_or(n));
        door.engine.create_with(name, request, platform, read_only).await
    })
    .await?;
    created.warnings.extend(warnings);
    Ok(reply::json(CREATED, &created))
}

pub(super) async fn prune(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let filters = call.query.filters(PRUNE)?;
    filters.until(now())?;
    let report = complete(async move { door.engine.prune(&filters).await }).await?;
    Ok(reply::ok(&report))
}

pub(super) async fn commit(door: Arc<Door>, mut call: Call) -> Result<Reply, Fault> {
    let config = call.json().await?.unwrap_or_default();
    let query = &call.query;
    let (repo, tag) = (query.text("repo"), query.text("tag"));
    wharf_engine::images::target(&repo, &tag)?;
    let options = CommitOptions {
        container: query.text("container"),
        repo,
        tag,
        comment: query.text("comment"),
        author: query.text("author"),
        pause: query.truth_or("pause", true),
        changes: query.all("changes").map(std::borrow::Cow::into_owned).collect(),
        config,
    };
    let id = complete(async move { door.engine.commit(options).await }).await?;
    Ok(reply::json(CREATED, &docker::IdResponse { id }))
}

pub(super) async fn one(
    door: Arc<Door>,
    action: OneContainer,
    name: String,
    call: Call,
) -> Result<Answer, Fault> {
    use OneContainer as One;
    let reply = match action {
        One::Attach => return streams::attach(door, name, call).await,
        One::AttachWebSocket => return streams::attach_websocket(door, name, call).await,
        One::Inspect => inspect(&door, &name, &call).await,
        One::Top => Ok(reply::ok(&door.engine.top(&name, &ps_args(&call.query)).await?)),
        One::Changes => changes(&door, &name).await,
        One::Logs => streams::logs(&door, &name, &call).await,
        One::Stats => streams::stats(&door, &name, &call).await,
        One::Export => {
            let tar = door.engine.export(&name).await?;
            Ok(reply::stream("application/octet-stream", tar))
        }
        One::Wait => wait(&door, &name, &call).await,
        One::Start => start(door, name, call).await,
        One::Stop | One::Restart => stop(door, action, name, call).await,
        One::Kill => kill(door, name, call).await,
        One::Pause => bare(async move { door.engine.pause(&name).await }).await,
        One::Unpause => bare(async move { door.engine.unpause(&name).await }).await,
        One::Resize => resize(&door, &name, &call).await,
        One::Rename => {
            let new = call.query.text("name");
            bare(async move { door.engine.rename(&name, &new).await }).await
        }
        One::Update => update(door, name, call).await,
        One::Remove => remove(door, name, call).await,
        One::Plug => super::networks::plug(door, name, call).await,
        One::Unplug => {
            let ifname = call.query.text("name");
            bare(async move { door.engine.unplug(&name, &ifname).await }).await
        }
        One::ExecCreate => exec::create(door, name, call).await,
        One::ArchiveStat => archive::stat(&door, &name, &call).await,
        One::ArchiveOut => archive::fetch(&door, &name, &call).await,
        One::ArchiveIn => archive::put(door, name, call).await,
    };
    reply.map(Answer::Response)
}

/// A change that is answered 204.
async fn bare(
    change: impl Future<Output = Result<(), wharf_engine::EngineError>> + Send + 'static,
) -> Result<Reply, Fault> {
    complete(change).await.map(|()| reply::no_content())
}

async fn inspect(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let inspect = door.engine.inspect(name, call.query.truth("size")).await?;
    Ok(reply::ok(&compat::container_inspect(inspect, call.version)))
}

async fn changes(door: &Door, name: &str) -> Result<Reply, Fault> {
    let changes = door.engine.changes(name).await?;
    // dockerd writes null for none.
    Ok(reply::ok(&(!changes.is_empty()).then_some(changes)))
}

fn ps_args(query: &Query) -> String {
    query.some("ps_args").unwrap_or_else(|| "-ef".into())
}

async fn start(door: Arc<Door>, name: String, call: Call) -> Result<Reply, Fault> {
    // Old clients send `{}` or `null`; a host config here has not been taken since 1.24.
    let length =
        call.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let chunked = call.headers.contains_key(http::header::TRANSFER_ENCODING);
    if chunked || length.is_some_and(|n| n > 7) {
        return Err(Fault::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if call.query.some("checkpoint").is_some() {
        return Err(Fault::not_implemented(
            "wharf does not restore checkpoints (it would need CRIU)",
        ));
    }
    bare(async move { door.engine.start(&name).await }).await
}

async fn stop(
    door: Arc<Door>,
    action: OneContainer,
    name: String,
    call: Call,
) -> Result<Reply, Fault> {
    let options = StopOptions {
        timeout: call.query.number("t")?,
        signal: call.query.some("signal").filter(|_| call.version >= v(42)),
    };
    bare(async move {
        match action {
            OneContainer::Restart => door.engine.restart(&name, options).await,
            _ => door.engine.stop(&name, options).await,
        }
    })
    .await
}

async fn kill(door: Arc<Door>, name: String, call: Call) -> Result<Reply, Fault> {
    let signal = call.query.text("signal");
    let words = format!("cannot kill container: {name}: ");
    let killed = bare(async move { door.engine.kill(&name, &signal).await }).await;
    killed.map_err(|fault| fault.prefixed(&words))
}

async fn resize(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let (rows, cols) = (call.query.cells("h", "height")?, call.query.cells("w", "width")?);
    door.engine.resize(name, rows, cols).await?;
    Ok(reply::status(StatusCode::OK))
}

async fn update(door: Arc<Door>, name: String, mut call: Call) -> Result<Reply, Fault> {
    let request = call.json().await?.unwrap_or_default();
    let request = compat::update(request, call.version);
    let warnings = complete(async move { door.engine.update(&name, request).await }).await?;
    let warnings = (!warnings.is_empty()).then_some(warnings);
    Ok(reply::ok(&serde_json::json!({ "Warnings": warnings })))
}

async fn remove(door: Arc<Door>, name: String, call: Call) -> Result<Reply, Fault> {
    let options = RemoveOptions {
        force: call.query.truth("force"),
        volumes: call.query.truth("v"),
        link: call.query.truth("link"),
    };
    bare(async move { door.engine.remove(&name, options).await }).await
}

/// The head goes out at once: the docker CLI waits for it before it starts the container.
async fn wait(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let condition = match call.version >= v(30) {
        true => WaitCondition::parse(&call.query.text("condition"))?,
        false => WaitCondition::NotRunning,
    };
    let ended = door.engine.wait(name, condition)?;
    if call.version < v(30) {
        return Ok(reply::ok(&ended.await));
    }
    let line = futures_util::FutureExt::map(ended, |e| Ok(reply::line(&e).into()));
    Ok(reply::stream("application/json", futures_util::stream::once(line)))
}

/// `os/arch[/variant]`.
pub(super) fn parse_platform(text: &str) -> Result<Platform, Fault> {
    text.parse().map_err(|e: wharf_spec::platform::PlatformError| Fault::invalid(e.to_string()))
}

/// A response of one kind only: what a HEAD request is answered.
pub(super) fn headless() -> Reply {
    Reply::new(Body::Empty)
}
