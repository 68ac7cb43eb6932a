//! BuildKit's connections: gRPC, and sessions on which the client is the server.

use futures_util::FutureExt as _;
use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use wharf_buildkit::{BuildKit, Rewound};

use super::Door;
use crate::call::Call;
use crate::connection::Answer;
use crate::fault::Fault;
use crate::hijack::{self, Hijacked};
use crate::socket::Socket;

/// `POST /grpc`
pub(super) fn grpc(door: &Door, call: &Call) -> Result<Answer, Fault> {
    check_upgrade(call)?;
    let buildkit = door.buildkit.clone();
    Ok(Answer::Hijack(Box::new(move |client| {
        async move {
            if let Some(io) = switch(client).await {
                buildkit.serve(io).await;
            }
        }
        .boxed()
    })))
}

/// `POST /session`
pub(super) fn session(door: &Door, call: &Call) -> Result<Answer, Fault> {
    check_upgrade(call)?;
    let offer = door.buildkit.offer(&call.headers);
    let offer = offer.map_err(|e| Fault::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    let buildkit = door.buildkit.clone();
    Ok(Answer::Hijack(Box::new(move |client| {
        async move {
            if let Some(io) = switch(client).await {
                buildkit.hold(io, offer).await;
            }
        }
        .boxed()
    })))
}

/// A client that speaks HTTP/2 without having asked.
pub(super) async fn http2(buildkit: BuildKit, client: Hijacked) {
    buildkit.serve(Rewound::new(client.early, client.socket)).await;
}

/// dockerd's words.
fn check_upgrade(call: &Call) -> Result<(), Fault> {
    let text = match call.header("Upgrade") {
        "h2c" => return Ok(()),
        "" => "no upgrade proto in request".to_owned(),
        other => format!("protocol {other} not supported"),
    };
    Err(Fault::new(StatusCode::BAD_REQUEST, text))
}

/// Tells the client that the connection is HTTP/2 from here on; `None` if it has gone.
async fn switch(client: Hijacked) -> Option<Rewound<Socket>> {
    let Hijacked { mut socket, early } = client;
    socket.write_all(&hijack::switch_to_http2()).await.ok()?;
    Some(Rewound::new(early, socket))
}
