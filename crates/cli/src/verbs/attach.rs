//! `attach`.

use std::io::IsTerminal;

use http::Method;
use serde_json::Value;

use super::{Outcome, run, text};
use crate::api::{Client, Payload, collect, segment};
use crate::app::Call;
use crate::attach::{self, End, Streams, Window};
use crate::failure::Failure;

/// `attach CONTAINER`
pub async fn attach(call: Call) -> Outcome {
    let client = call.client()?;
    let name = &call.args()[0];
    let found = inspect(client, name).await?;
    let id = text(&found, "Id").to_owned();
    let on = |name: &str| found["Config"][name].as_bool().unwrap_or(false);
    let wants_stdin = !call.given.on("no-stdin");
    attach::check_tty(wants_stdin, on("Tty"))?;
    let streams = Streams {
        stdin: wants_stdin && on("OpenStdin"),
        stdout: true,
        stderr: true,
        tty: on("Tty"),
        detach_keys: run::keys(&call),
    };
    let path = format!("/containers/{}/wait", segment(&id));
    let wait = client.send(Method::POST, &path, Payload::Empty, &[]).await?;
    let (connection, _) = client.hijack(&run::attach_path(&id, &streams), None).await?;
    // It may have ended in between, and then nothing would ever come.
    inspect(client, &id).await?;
    let work = async {
        let sized = streams.tty && std::io::stdout().is_terminal();
        let follow = async {
            if !sized {
                return std::future::pending().await;
            }
            // A change of size makes a program draw itself anew.
            if let Some((rows, columns)) = wharf_sys::terminal::size(std::io::stdout()) {
                drop(Window::Container(&id).resize(client, rows + 1, columns + 1).await);
            }
            attach::follow_size(client, Window::Container(&id)).await
        };
        let end = tokio::select! {
            end = attach::stream(connection, &streams) => end?,
            () = follow => End::Closed,
        };
        if end == End::Detached {
            return Err("read escape sequence".into());
        }
        let answer: Value = serde_json::from_slice(&collect(wait).await?).unwrap_or_default();
        match answer["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
            Some(message) => Err(Failure::new(message)),
            None => run::exit_with(
                u8::try_from(super::count(&answer["StatusCode"]) & 0xff).unwrap_or(125),
            ),
        }
    };
    attach::forwarding(client, &id, call.given.on_or("sig-proxy", true) && !streams.tty, work).await
}

async fn inspect(client: &Client, name: &str) -> Result<Value, Failure> {
    let found = client.get(&format!("/containers/{}/json", segment(name))).await?;
    let state = |name: &str| found["State"][name].as_bool().unwrap_or(false);
    if !state("Running") {
        return Err("You cannot attach to a stopped container, start it first".into());
    }
    if state("Paused") {
        return Err("You cannot attach to a paused container, unpause it first".into());
    }
    if state("Restarting") {
        return Err("You cannot attach to a restarting container, wait until it is running".into());
    }
    Ok(found)
}
