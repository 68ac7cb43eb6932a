//! `start`.

use std::io::IsTerminal;

use super::run::{self, Waiting};
use super::{Outcome, text};
use crate::api::segment;
use crate::app::{Call, say_line, warn};
use crate::attach::{self, End, Streams, Window};
use crate::failure::Failure;

/// `start CONTAINER...`
pub async fn start(call: Call) -> Outcome {
    let given = &call.given;
    for flag in ["checkpoint", "checkpoint-dir"] {
        if given.changed(flag) {
            return Err(Failure::new(format!(
                "--{flag} is not supported: checkpoints are not implemented"
            )));
        }
    }
    if !given.on("attach") && !given.on("interactive") {
        return start_all(&call).await;
    }
    if call.args().len() > 1 {
        return Err("you cannot start and attach multiple containers at once".into());
    }
    attached(&call).await
}

async fn start_all(call: &Call) -> Outcome {
    let client = call.client()?;
    let mut failed = Vec::new();
    for name in call.args() {
        match run::start(client, name).await {
            Ok(()) => say_line(name)?,
            Err(error) => {
                warn(error.to_string());
                failed.push(name.as_str());
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => {
            let names = failed.join(", ");
            Err(Failure::new(format!("Error: failed to start containers: {names}")))
        }
    }
}

async fn attached(call: &Call) -> Outcome {
    let client = call.client()?;
    let found = client.get(&format!("/containers/{}/json", segment(&call.args()[0]))).await?;
    let id = text(&found, "Id").to_owned();
    let config = &found["Config"];
    let on = |name: &str| config[name].as_bool().unwrap_or(false);
    let streams = Streams {
        stdin: call.given.on("interactive") && on("OpenStdin"),
        stdout: true,
        stderr: true,
        tty: on("Tty"),
        detach_keys: run::keys(call),
    };
    let removed = found["HostConfig"]["AutoRemove"].as_bool().unwrap_or(false);
    let (connection, _) = client.hijack(&run::attach_path(&id, &streams), None).await?;
    let work = async {
        let wait = Waiting::begin(client, &id, removed).await?;
        if let Err(error) = run::start(client, &id).await {
            if removed {
                wait.gone().await;
            }
            return Err(error.into());
        }
        let sized = streams.tty && std::io::stdout().is_terminal();
        let follow = async {
            match sized {
                true => attach::follow_size(client, Window::Container(&id)).await,
                false => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            end = attach::stream(connection, &streams) => end?,
            () = follow => End::Closed,
        };
        match end {
            End::Detached => Ok(()),
            End::Closed => run::exit_with(wait.status().await),
        }
    };
    attach::forwarding(client, &id, !streams.tty, work).await
}
