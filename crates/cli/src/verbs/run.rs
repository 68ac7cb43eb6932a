//! `run` and `create`.

use std::io::IsTerminal;

use http::Method;
use serde_json::{Value, json};

use super::create_options::{self, Container};
use super::{Outcome, pull, text};
use crate::api::{ApiError, Client, Payload, segment, url};
use crate::app::{Call, prog, say_line, warn};
use crate::attach::{self, End, Streams, Window};
use crate::failure::Failure;
use crate::parse::reference;

/// `run IMAGE [COMMAND] [ARG...]`
pub async fn run(call: Call) -> Outcome {
    let mut container = prepare(&call, "run")?;
    let given = &call.given;
    let detached = given.on("detach");
    if detached {
        if given.changed("attach") {
            return Err("conflicting options: cannot specify both --attach and --detach".into());
        }
        for name in ["AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"] {
            container.config[name] = false.into();
        }
    } else {
        attach::check_tty(container.flag("AttachStdin"), container.flag("Tty"))?;
    }
    let client = call.client()?;
    let id = create_container(&call, client, &container).await.map_err(explain)?;
    let proxied = given.on_or("sig-proxy", true);
    attach::forwarding(client, &id, proxied, start_and_wait(&call, client, &container, &id)).await
}

/// `create IMAGE [COMMAND] [ARG...]`
pub async fn create(call: Call) -> Outcome {
    let container = prepare(&call, "create")?;
    let id = create_container(&call, call.client()?, &container).await?;
    say_line(id)
}

fn prepare(call: &Call, verb: &str) -> Result<Container, Failure> {
    let pull = call.given.last("pull").unwrap_or("missing");
    let checked = match pull {
        "" | "always" | "missing" | "never" => create_options::container(call),
        other => Err(format!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        )
        .into()),
    };
    checked.map_err(|failure: Failure| with_help(&failure.text, verb, 125))
}

fn with_help(text: &str, verb: &str, status: u8) -> Failure {
    let name = prog();
    let text = format!("{name}: {text}\n\nRun '{name} {verb} --help' for more information");
    Failure::new(text).with_status(status)
}

/// The status that docker gives to a container that cannot be made or started.
fn explain(failure: Failure) -> Failure {
    let says = |text: &str| failure.text.contains(text);
    let status = match () {
        () if says("executable file not found") || says("no such file or directory") => 127,
        () if says("permission denied") || says("is a directory") => 126,
        () => 125,
    };
    with_help(&failure.text, "run", status)
}

async fn create_container(
    call: &Call,
    client: &Client,
    container: &Container,
) -> Result<String, Failure> {
    let cid_file = CidFile::open(call.given.text("cidfile"))?;
    let result = create_with_pull(call, client, container).await;
    let answer = match result {
        Ok(answer) => answer,
        Err(failure) => {
            cid_file.discard();
            return Err(failure);
        }
    };
    let id = text(&answer, "Id").to_owned();
    for warning in super::items(&answer["Warnings"]) {
        warn(format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    for address in super::items(&container.host["Dns"]).iter().filter_map(Value::as_str) {
        if address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            warn(format!("WARNING: Localhost DNS ({address}) may fail in containers."));
        }
    }
    cid_file.write(&id)?;
    Ok(id)
}

async fn create_with_pull(
    call: &Call,
    client: &Client,
    container: &Container,
) -> Result<Value, Failure> {
    let given = &call.given;
    let image = container.image();
    let platform = given.text("platform");
    super::images::platform_json(platform).map_err(|_| {
        Failure::new(format!(
            "error parsing specified platform: {}: cannot parse platform specifier: invalid argument",
            crate::parse::quote(platform)
        ))
    })?;
    let is_id = image.len() == 64 && image.chars().all(|c| c.is_ascii_hexdigit());
    let named = match reference::parse(image) {
        Ok(name) => Some(name),
        Err(_) if is_id || image.starts_with("sha256:") => None,
        Err(why) => return Err(why.into()),
    };
    let policy = given.last("pull").unwrap_or("missing");
    let quiet = given.on("quiet");
    if policy == "always" {
        pull::quietly(call, client, image, platform, quiet).await?;
    }
    let query = [("name", given.text("name")), ("platform", platform)];
    let path = url("/containers/create", &query);
    let body = container.body();
    match client.post(&path, Payload::Json(body.clone())).await {
        Err(error)
            if lacks_image(&error) && named.is_some() && matches!(policy, "missing" | "") =>
        {
            if let Some(name) = named.filter(|_| !quiet) {
                let name = name.with_default_tag().familiar();
                warn(format!("Unable to find image '{name}' locally"));
            }
            pull::quietly(call, client, image, platform, quiet).await?;
            Ok(client.post(&path, Payload::Json(body)).await?)
        }
        answer => Ok(answer?),
    }
}

fn lacks_image(error: &ApiError) -> bool {
    error.is_not_found()
}

/// `--cidfile`: made before the container, so that two runs cannot share it.
struct CidFile<'a> {
    path: &'a str,
}

impl<'a> CidFile<'a> {
    fn open(path: &'a str) -> Result<Self, Failure> {
        if !path.is_empty() {
            let made = std::fs::File::options().write(true).create_new(true).open(path);
            made.map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Failure::new(format!(
                    "container ID file found, make sure the other container isn't running or delete {path}"
                )),
                _ => Failure::new(format!(
                    "failed to create the container ID file: open {path}: {}",
                    crate::failure::os_text(&e)
                )),
            })?;
        }
        Ok(Self { path })
    }

    #[expect(clippy::disallowed_methods, reason = "whoever made the file first reads it whole")]
    fn write(&self, id: &str) -> Outcome {
        if self.path.is_empty() {
            return Ok(());
        }
        std::fs::write(self.path, id)
            .map_err(|e| Failure::new(format!("failed to write the container ID to the file: {e}")))
    }

    fn discard(&self) {
        if !self.path.is_empty() {
            // A file that stays behind stops only the next run, which says so.
            drop(std::fs::remove_file(self.path));
        }
    }
}

async fn start_and_wait(call: &Call, client: &Client, container: &Container, id: &str) -> Outcome {
    let streams = Streams {
        stdin: container.flag("AttachStdin"),
        stdout: container.flag("AttachStdout"),
        stderr: container.flag("AttachStderr"),
        tty: container.flag("Tty"),
        detach_keys: keys(call),
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        let started = start(client, id).await;
        // The container is there even if it could not be started.
        say_line(id)?;
        return started.map_err(|e| explain(e.into()));
    }
    let (connection, _) = client.hijack(&attach_path(id, &streams), None).await?;
    let removed = call.given.on("rm");
    let wait = Waiting::begin(client, id, removed).await?;
    if let Err(error) = start(client, id).await {
        if removed {
            // Once it is gone, its name is free again.
            wait.gone().await;
        }
        return Err(explain(error.into()));
    }
    let sized = streams.tty && std::io::stdout().is_terminal();
    let end = tokio::select! {
        end = attach::stream(connection, &streams) => end?,
        () = follow(client, id, sized) => End::Closed,
    };
    match end {
        End::Detached => Ok(()),
        End::Closed => exit_with(wait.status().await),
    }
}

async fn follow(client: &Client, id: &str, sized: bool) {
    match sized {
        true => attach::follow_size(client, Window::Container(id)).await,
        false => std::future::pending().await,
    }
}

/// The keys of the flag, else of the configuration.
pub fn keys(call: &Call) -> String {
    match call.given.text("detach-keys") {
        "" => call.session.config().text("detachKeys").to_owned(),
        keys => keys.to_owned(),
    }
}

/// The request that attaches.
pub fn attach_path(id: &str, streams: &Streams) -> String {
    let bit = |on: bool| if on { "1" } else { "" };
    url(
        &format!("/containers/{}/attach", segment(id)),
        &[
            ("detachKeys", &streams.detach_keys),
            ("stderr", bit(streams.stderr)),
            ("stdin", bit(streams.stdin)),
            ("stdout", bit(streams.stdout)),
            ("stream", "1"),
        ],
    )
}

/// Starts a container.
pub async fn start(client: &Client, id: &str) -> Result<(), ApiError> {
    let path = format!("/containers/{}/start", segment(id));
    client.post(&path, Payload::Empty).await.map(drop)
}

/// Waiting for a container's end. The engine has promised to answer before the start is sent.
pub struct Waiting {
    answer: http::Response<hyper::body::Incoming>,
}

impl Waiting {
    /// Asks; returns once the engine listens.
    pub async fn begin(client: &Client, id: &str, removed: bool) -> Result<Self, ApiError> {
        let condition = if removed { "removed" } else { "next-exit" };
        let path = url(&format!("/containers/{}/wait", segment(id)), &[("condition", condition)]);
        let answer = client.send(Method::POST, &path, Payload::Empty, &[]).await?;
        Ok(Self { answer })
    }

    /// The end, whatever it was: the start has failed and says why itself.
    pub async fn gone(self) {
        drop(crate::api::collect(self.answer).await);
    }

    /// The exit status; 125 when the engine cannot tell.
    pub async fn status(self) -> u8 {
        let bytes = crate::api::collect(self.answer).await.unwrap_or_default();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(json!({}));
        if let Some(message) = answer["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
            warn(format!("Error waiting for container: {message}"));
            return 125;
        }
        let status = answer["StatusCode"].as_i64();
        status.map_or(125, |s| u8::try_from(s & 0xff).unwrap_or(125))
    }
}

/// The container's status as wharf's.
pub fn exit_with(status: u8) -> Outcome {
    if status == 0 { Ok(()) } else { Err(Failure::silent(status)) }
}
