//! Further processes in containers.

use std::sync::Arc;

use http::StatusCode;
use wharf_engine::options::ExecStart;
use wharf_spec::docker;

use super::system::CREATED;
use super::{Door, complete, streams};
use crate::call::Call;
use crate::connection::Answer;
use crate::fault::Fault;
use crate::hijack::{self, Framing};
use crate::reply::{self, Reply};
use crate::route::ExecAction;
use crate::version::v;

pub(super) async fn create(door: Arc<Door>, name: String, mut call: Call) -> Result<Reply, Fault> {
    let mut request: docker::ExecCreateRequest = call.json().await?.unwrap_or_default();
    if request.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Fault::invalid("No exec command specified"));
    }
    if call.version < v(42) {
        request.console_size = None;
    }
    let id = complete(async move { door.engine.exec_create(&name, request).await }).await?;
    Ok(reply::json(CREATED, &docker::IdResponse { id }))
}

pub(super) async fn one(
    door: Arc<Door>,
    action: ExecAction,
    id: String,
    call: Call,
) -> Result<Answer, Fault> {
    match action {
        ExecAction::Start => start(door, id, call).await,
        ExecAction::Inspect => {
            let inspect = door.engine.exec_inspect(&id).await?;
            Ok(Answer::Response(reply::ok(&inspect)))
        }
        ExecAction::Resize => {
            let (rows, cols) = (call.query.cells("h", "height")?, call.query.cells("w", "width")?);
            door.engine.exec_resize(&id, rows, cols).await?;
            Ok(Answer::Response(reply::status(StatusCode::OK)))
        }
    }
}

/// Detached, it is answered when the process runs. Attached, the connection changes first and a
/// failure to start is text in the stream.
async fn start(door: Arc<Door>, id: String, mut call: Call) -> Result<Answer, Fault> {
    let request: docker::ExecStartRequest = call.json().await?.unwrap_or_default();
    let options = ExecStart {
        detach: request.detach,
        tty: request.tty,
        console_size: request.console_size.filter(|_| request.tty && call.version >= v(42)),
    };
    let exec = id.clone();
    let headers = door.headers.lines();
    let started = complete(async move { door.engine.exec_start(&exec, options).await }).await?;
    let Some(session) = started else {
        return Ok(Answer::Response(reply::status(StatusCode::OK)));
    };
    let framing = Framing::told(request.tty, call.version);
    let head = hijack::switch(call.wants_upgrade(), framing, &headers);
    Ok(streams::taken(id, head, session))
}
