//! `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `rm` and `rename`.

use futures_util::StreamExt;
use futures_util::stream::iter;

use super::Outcome;
use crate::api::{ApiError, Client, Payload, segment, url};
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;

/// How many containers are acted on at once, as in docker.
const PARALLEL: usize = 50;

/// Asks for each container and prints the names of those that were done.
async fn each(call: &Call, request: impl Fn(&str) -> Result<String, Failure>) -> Outcome {
    let client = call.client()?;
    let mut failures = Vec::new();
    let requests = call.args().iter().map(|name| (name, request(name)));
    let mut answers = iter(requests)
        .map(|(name, path)| async move {
            let done: Result<(), Failure> = match path {
                Ok(path) => client.post(&path, Payload::Empty).await.map(drop).map_err(Into::into),
                Err(failure) => Err(failure),
            };
            (name, done)
        })
        .buffered(PARALLEL);
    while let Some((name, done)) = answers.next().await {
        match done {
            Ok(()) => say_line(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

fn action(name: &str, verb: &str, query: &[(&str, &str)]) -> Result<String, Failure> {
    Ok(url(&format!("/containers/{}/{verb}", segment(name)), query))
}

/// `stop CONTAINER...`
pub async fn stop(call: Call) -> Outcome {
    signalled(&call, "stop").await
}

/// `restart CONTAINER...`
pub async fn restart(call: Call) -> Outcome {
    signalled(&call, "restart").await
}

async fn signalled(call: &Call, verb: &str) -> Outcome {
    let given = &call.given;
    let timeout = given.last("timeout").map(|_| given.int_or("timeout", 0).to_string());
    let query = [("signal", given.text("signal")), ("t", timeout.as_deref().unwrap_or_default())];
    each(call, |name| action(name, verb, &query)).await
}

/// `kill CONTAINER...`
pub async fn kill(call: Call) -> Outcome {
    each(&call, |name| action(name, "kill", &[("signal", call.given.text("signal"))])).await
}

/// `pause CONTAINER...`
pub async fn pause(call: Call) -> Outcome {
    each(&call, |name| action(name, "pause", &[])).await
}

/// `unpause CONTAINER...`
pub async fn unpause(call: Call) -> Outcome {
    each(&call, |name| action(name, "unpause", &[])).await
}

/// `wait CONTAINER...`
pub async fn wait(call: Call) -> Outcome {
    let client = call.client()?;
    let mut failures = Vec::new();
    for name in call.args() {
        let path = action(name, "wait", &[])?;
        match client.post(&path, Payload::Empty).await {
            Ok(answer) => say_line(super::count(&answer["StatusCode"]).to_string())?,
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::join(failures)
}

/// `rm CONTAINER...`
pub async fn rm(call: Call) -> Outcome {
    let given = &call.given;
    let client = call.client()?;
    let force = given.on("force");
    let bit = |name: &str| if given.on(name) { "1" } else { "" };
    let query = &[("force", bit("force")), ("link", bit("link")), ("v", bit("volumes"))];
    let mut failures = Vec::new();
    let mut answers = iter(call.args())
        .map(|name| async move { (name, remove(client, name, query).await) })
        .buffered(PARALLEL);
    while let Some((name, done)) = answers.next().await {
        match done {
            Ok(()) => say_line(name)?,
            Err(error) if force && error.is_not_found() => warn(error.to_string()),
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::join(failures)
}

async fn remove(client: &Client, name: &str, query: &[(&str, &str)]) -> Result<(), ApiError> {
    let name = name.trim_matches('/');
    if name.is_empty() {
        return Err(ApiError::Broken("container name cannot be empty".to_owned()));
    }
    client.delete(&url(&format!("/containers/{}", segment(name)), query)).await.map(drop)
}

/// `rename CONTAINER NEW_NAME`
pub async fn rename(call: Call) -> Outcome {
    let (old, new) = (call.args()[0].trim(), call.args()[1].trim());
    if old.is_empty() || new.is_empty() {
        return Err("Error: Neither old nor new names may be empty".into());
    }
    let path = action(old, "rename", &[("name", new)])?;
    call.client()?
        .post(&path, Payload::Empty)
        .await
        .map_err(|e| Failure::new(format!("{e}\nError: failed to rename container named {old}")))?;
    Ok(())
}
