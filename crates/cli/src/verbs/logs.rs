//! `logs`.

use http::Method;
use jiff::Timestamp;

use super::{Outcome, text};
use crate::api::frames::Demux;
use crate::api::{Payload, next, segment, url};
use crate::app::{Call, say};
use crate::attach::{Streams, write_frames};
use crate::failure::Failure;
use crate::parse::time;

/// `logs CONTAINER`
pub async fn logs(call: Call) -> Outcome {
    let given = &call.given;
    let client = call.client()?;
    let found = client.get(&format!("/containers/{}/json", segment(&call.args()[0]))).await?;
    let moment = |flag: &str| match given.text(flag) {
        "" => Ok(String::new()),
        text => time::api(text, Timestamp::now()).map_err(|e| {
            Failure::new(format!("invalid value for {}: {e}", crate::parse::quote(flag)))
        }),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let bit = |name: &str| if given.on(name) { "1" } else { "" };
    let path = url(
        &format!("/containers/{}/logs", segment(text(&found, "Id"))),
        &[
            ("details", bit("details")),
            ("follow", bit("follow")),
            ("since", &since),
            ("stderr", "1"),
            ("stdout", "1"),
            ("tail", given.last("tail").unwrap_or("all")),
            ("timestamps", bit("timestamps")),
            ("until", &until),
        ],
    );
    let response = client.send(Method::GET, &path, Payload::Empty, &[]).await?;
    let tty = found["Config"]["Tty"].as_bool().unwrap_or(false);
    let streams =
        Streams { stdin: false, stdout: true, stderr: true, tty, detach_keys: String::new() };
    let mut body = response.into_body();
    let mut demux = Demux::default();
    while let Some(bytes) = next(&mut body).await? {
        match tty {
            true => say(&bytes)?,
            false => write_frames(&mut demux, &bytes, &streams)?,
        }
    }
    Ok(())
}
