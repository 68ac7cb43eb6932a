//! Logs, statistics and attached sessions: whatever flows until somebody ends it.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{FutureExt as _, StreamExt as _};
use wharf_engine::options::{AttachOptions, LogOptions, Session, StatsOptions};

use super::Door;
use crate::call::Call;
use crate::connection::Answer;
use crate::fault::Fault;
use crate::hijack::{self, Framing, Hijacked};
use crate::query::Query;
use crate::reply::{self, Reply};
use crate::version::v;

pub(super) async fn logs(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let options = log_options(&call.query)?;
    let tty = door.engine.has_tty(name)?;
    let blocks = door.engine.logs(name, options).await?;
    Ok(reply::stream(Framing::told(tty, call.version).content_type(), blocks))
}

fn log_options(query: &Query) -> Result<LogOptions, Fault> {
    let (stdout, stderr) = (query.truth("stdout"), query.truth("stderr"));
    if !stdout && !stderr {
        return Err(Fault::invalid("must specify at least one of 'stdout' or 'stderr'"));
    }
    Ok(LogOptions {
        stdout,
        stderr,
        since: query.time("since")?.map(nanos),
        until: query.time("until")?.map(nanos),
        // Anything but a number, and any negative one, means all.
        tail: query.some("tail").and_then(|t| t.parse().ok()),
        timestamps: query.truth("timestamps"),
        details: query.truth("details"),
        follow: query.truth("follow"),
    })
}

pub(super) async fn stats(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let options = StatsOptions {
        stream: call.query.truth_or("stream", true),
        one_shot: call.version >= v(41) && call.query.truth("one-shot"),
    };
    if options.stream && options.one_shot {
        return Err(Fault::invalid("cannot have stream=true and one-shot=true"));
    }
    let samples = door.engine.stats(name, options).await?;
    let lines = samples.map(|sample| Ok(reply::line(&sample).into()));
    Ok(reply::stream("application/json", lines))
}

pub(super) async fn attach(door: Arc<Door>, name: String, mut call: Call) -> Result<Answer, Fault> {
    // A body here is not part of what is typed; it must be gone before the connection changes.
    call.bytes().await?;
    let options = attach_options(&call.query);
    let session = door.engine.attach(&name, options).await?;
    let head = hijack::switch(call.wants_upgrade(), Framing::told(session.tty, call.version), "");
    Ok(taken(name, head, session))
}

/// Hands the connection over to a session.
pub(super) fn taken(name: String, head: bytes::Bytes, session: Session) -> Answer {
    Answer::Hijack(Box::new(move |client: Hijacked| {
        async move {
            if let Err(error) = hijack::pump(client, head, session).await {
                tracing::debug!(target = name, %error, "attached client was cut off");
            }
        }
        .boxed()
    }))
}

fn attach_options(query: &Query) -> AttachOptions {
    AttachOptions {
        stdin: query.truth("stdin"),
        stdout: query.truth("stdout"),
        stderr: query.truth("stderr"),
        logs: query.truth("logs"),
        stream: query.truth("stream"),
        detach_keys: query.some("detachKeys"),
    }
}

pub(super) async fn attach_websocket(
    door: Arc<Door>,
    name: String,
    call: Call,
) -> Result<Answer, Fault> {
    let is_websocket = call.header("Upgrade").eq_ignore_ascii_case("websocket");
    let key = call.header("Sec-WebSocket-Key").to_owned();
    if !is_websocket || key.is_empty() {
        return Err(Fault::invalid("not a websocket handshake: attach/ws needs one"));
    }
    let mut options = attach_options(&call.query);
    if call.version < v(42) {
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let binary = call.version >= v(28);
    let session = door.engine.attach(&name, options).await?;
    let head = hijack::switch_to_websocket(key.as_bytes());
    Ok(Answer::Hijack(Box::new(move |client: Hijacked| {
        async move {
            if let Err(error) = hijack::pump_websocket(client, head, session, binary).await {
                tracing::debug!(target = name, %error, "websocket client was cut off");
            }
        }
        .boxed()
    })))
}

fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_need_a_stream_and_take_odd_tails_as_all() {
        let options = |raw: &str| log_options(&Query::parse(raw).unwrap());
        assert_eq!(
            options("follow=1").unwrap_err().message(),
            "must specify at least one of 'stdout' or 'stderr'"
        );
        for (tail, expected) in
            [("all", None), ("-1", None), ("x", None), ("0", Some(0)), ("10", Some(10))]
        {
            assert_eq!(options(&format!("stdout=1&tail={tail}")).unwrap().tail, expected);
        }
        assert_eq!(options("stdout=1&since=1.5").unwrap().since, Some(1_500_000_000));
    }
}
