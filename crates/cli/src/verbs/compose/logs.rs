//! `logs` and `events`, and how the lines of containers are printed.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Method;
use jiff::Timestamp;
use wharf_compose::observe::{self, label};
use wharf_compose::{Engine, labels};
use wharf_spec::docker::ContainerSummary;

use super::engine::ApiEngine;
use super::{check_services, containers, project_or_name};
use crate::api::frames::{Demux, Stream};
use crate::api::{Client, JsonStream, Payload, filters, next, segment, url};
use crate::app::{Call, say, say_line};
use crate::failure::Failure;
use crate::parse::time;
use crate::verbs::{Outcome, text};

/// The colours of services, in the order in which they are handed out.
const COLORS: [&str; 10] = ["36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1"];

/// What precedes the lines of one container.
pub(super) struct Prefix {
    text: String,
    color: Option<&'static str>,
}

/// How lines are printed.
pub(super) struct Printer {
    prefixed: bool,
    colored: bool,
    width: usize,
}

impl Printer {
    pub(super) fn new(call: &Call, found: &[ContainerSummary], project: &str) -> Self {
        let given = &call.given;
        let names = found.iter().map(|c| short_name(c, project).chars().count());
        let ansi = match call.group.text("ansi") {
            "never" => false,
            "always" => true,
            _ => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        Self {
            prefixed: !given.on("no-log-prefix"),
            colored: ansi && !given.on("no-color"),
            width: names.max().unwrap_or(0),
        }
    }

    pub(super) fn prefix(&self, container: &ContainerSummary, project: &str, at: usize) -> Prefix {
        let width = self.width;
        let text = match self.prefixed {
            true => format!("{:width$}  | ", short_name(container, project)),
            false => String::new(),
        };
        Prefix { text, color: self.colored.then_some(COLORS[at % COLORS.len()]) }
    }
}

impl Prefix {
    fn print(&self, line: &[u8], error: bool) -> Outcome {
        let mut out = Vec::with_capacity(line.len() + self.text.len() + 12);
        match self.color.filter(|_| !self.text.is_empty()) {
            Some(color) => out.extend(format!("\x1b[{color}m{}\x1b[0m", self.text).bytes()),
            None => out.extend(self.text.bytes()),
        }
        out.extend_from_slice(line);
        out.push(b'\n');
        match error {
            // Nothing can be done when standard error is gone.
            true => drop(std::io::stderr().lock().write_all(&out)),
            false => say(&out)?,
        }
        Ok(())
    }
}

/// `web-1` for the first container of service web.
pub(super) fn short_name(container: &ContainerSummary, project: &str) -> String {
    let name = observe::name(container);
    let own = name.strip_prefix(project).and_then(|n| n.strip_prefix(['-', '_']));
    own.unwrap_or(name).to_owned()
}

/// `compose logs [SERVICE...]`
pub async fn logs(call: Call) -> Outcome {
    let given = &call.given;
    let (project, name) = project_or_name(&call)?;
    let engine = super::engine(&call)?;
    let mut found = containers(&engine, &name, call.args(), false).await?;
    check_services(project.as_ref(), &found, call.args())?;
    if let (Some(project), true) = (&project, call.args().is_empty()) {
        // Other files may describe other services of the same project.
        found.retain(|c| project.services.contains_key(label(c, labels::SERVICE)));
    }
    let index = given.int_or("index", 0);
    if index > 0 {
        found.retain(|c| observe::number(c) == index);
    }
    let moment = |flag: &str| match given.text(flag) {
        "" => Ok(String::new()),
        text => time::api(text, Timestamp::now()).map_err(Failure::new),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let bit = |name: &str| if given.on(name) { "1" } else { "" };
    let tail = match given.last("tail").unwrap_or("all") {
        "-1" => "all",
        tail => tail,
    };
    let query = [
        ("follow", bit("follow")),
        ("since", since.as_str()),
        ("stderr", "1"),
        ("stdout", "1"),
        ("tail", tail),
        ("timestamps", bit("timestamps")),
        ("until", until.as_str()),
    ];
    let printer = Printer::new(&call, &found, &name);
    if given.on("follow") {
        return follow(&call, &name, index, &printer, found, &query).await;
    }
    // One after the other, so that each one's lines stay together.
    for (at, container) in found.iter().enumerate() {
        copy(call.client()?, container, &printer.prefix(container, &name, at), &query).await?;
    }
    Ok(())
}

/// Copies the logs of these containers, and of those that start meanwhile, until none runs any more.
async fn follow(
    call: &Call,
    project: &str,
    index: i64,
    printer: &Printer,
    found: Vec<ContainerSummary>,
    query: &[(&str, &str)],
) -> Outcome {
    let engine = super::engine(call)?;
    let client = call.client()?;
    let mut starts = starts(&engine, project).await?;
    let mut streams: FuturesUnordered<LocalBoxFuture<'_, (String, Outcome)>> =
        FuturesUnordered::new();
    let mut following = BTreeSet::new();
    let mut shown = 0;
    let mut add =
        |streams: &mut FuturesUnordered<_>, container: ContainerSummary, since: String| {
            let prefix = printer.prefix(&container, project, shown);
            shown += 1;
            let one = async move {
                let mut query = query.to_vec();
                if !since.is_empty() {
                    query.retain(|(name, _)| *name != "since");
                    query.push(("since", since.as_str()));
                }
                let done = copy(client, &container, &prefix, &query).await;
                (container.id.clone(), done)
            };
            streams.push(Box::pin(one) as LocalBoxFuture<'_, _>);
        };
    for container in found {
        following.insert(container.id.clone());
        add(&mut streams, container, String::new());
    }
    loop {
        tokio::select! {
            ended = streams.next() => {
                let Some((id, done)) = ended else { return Ok(()) };
                done?;
                following.remove(&id);
            }
            event = starts.next() => {
                let Some(event) = event? else { return Ok(()) };
                let id = text(&event["Actor"], "ID");
                let now = containers(&engine, project, call.args(), false).await?;
                let new = now.into_iter().find(|c| c.id == id);
                let new = new.filter(|c| index == 0 || observe::number(c) == index);
                if let Some(container) = new && following.insert(container.id.clone()) {
                    let since = engine.inspect(&container.id).await?.state.started_at;
                    let since = time::api(&since, Timestamp::now()).map_err(Failure::new)?;
                    add(&mut streams, container, since);
                }
            }
        }
    }
}

/// Starts of a project's containers.
async fn starts(engine: &ApiEngine<'_>, project: &str) -> Result<JsonStream, Failure> {
    let wanted = filters(&[
        format!("label={}={project}", labels::PROJECT),
        "type=container".to_owned(),
        "event=start".to_owned(),
    ]);
    let path = url("/events", &[("filters", &wanted)]);
    Ok(JsonStream::new(engine.client.send(Method::GET, &path, Payload::Empty, &[]).await?))
}

/// Copies the log of a container to its end.
pub(super) async fn copy(
    client: &Client,
    container: &ContainerSummary,
    prefix: &Prefix,
    query: &[(&str, &str)],
) -> Outcome {
    let inspected = client.get(&format!("/containers/{}/json", segment(&container.id))).await?;
    let tty = inspected["Config"]["Tty"].as_bool().unwrap_or(false);
    let path = url(&format!("/containers/{}/logs", segment(&container.id)), query);
    let response = client.send(Method::GET, &path, Payload::Empty, &[]).await?;
    let mut body = response.into_body();
    let mut lines = Lines::default();
    let mut demux = Demux::default();
    while let Some(bytes) = next(&mut body).await? {
        if tty {
            lines.feed(Stream::Stdout, &bytes, prefix)?;
            continue;
        }
        let mut rest = &bytes[..];
        while let Some((stream, piece)) = demux.next(&mut rest)? {
            lines.feed(stream, piece, prefix)?;
        }
    }
    lines.finish(prefix)
}

/// Cuts two streams into lines.
#[derive(Default)]
struct Lines {
    pending: [Vec<u8>; 2],
}

impl Lines {
    fn feed(&mut self, stream: Stream, bytes: &[u8], prefix: &Prefix) -> Outcome {
        let error = stream == Stream::Stderr;
        let pending = &mut self.pending[usize::from(error)];
        pending.extend_from_slice(bytes);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            prefix.print(line.strip_suffix(b"\r").unwrap_or(line), error)?;
        }
        Ok(())
    }

    fn finish(&mut self, prefix: &Prefix) -> Outcome {
        for (at, pending) in self.pending.iter_mut().enumerate() {
            if !pending.is_empty() {
                prefix.print(&std::mem::take(pending), at == 1)?;
            }
        }
        Ok(())
    }
}

/// `compose events [SERVICE...]`
pub async fn events(call: Call) -> Outcome {
    let given = &call.given;
    let (_, name) = project_or_name(&call)?;
    let moment = |flag: &str| match given.text(flag) {
        "" => Ok(String::new()),
        text => time::api(text, Timestamp::now()).map_err(Failure::new),
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let wanted =
        filters(&[format!("label={}={name}", labels::PROJECT), "type=container".to_owned()]);
    let path = url("/events", &[("filters", &wanted), ("since", &since), ("until", &until)]);
    let response = call.client()?.send(Method::GET, &path, Payload::Empty, &[]).await?;
    let mut stream = JsonStream::new(response);
    while let Some(event) = stream.next().await? {
        let actor = &event["Actor"];
        let attributes = actor["Attributes"].as_object().cloned().unwrap_or_default();
        let attribute =
            |name: &str| attributes.get(name).and_then(|v| v.as_str()).unwrap_or_default();
        let service = attribute(labels::SERVICE);
        if attribute(labels::ONEOFF) == "True"
            || (!call.args().is_empty() && !call.args().iter().any(|s| s == service))
        {
            continue;
        }
        let at = Timestamp::from_nanosecond(i128::from(event["timeNano"].as_i64().unwrap_or(0)));
        let at = at.unwrap_or(Timestamp::UNIX_EPOCH);
        let own = attributes.iter().filter(|(k, _)| !k.starts_with("com.docker.compose."));
        if given.on("json") {
            let own: serde_json::Map<String, serde_json::Value> =
                own.map(|(k, v)| (k.clone(), v.clone())).collect();
            let line = serde_json::json!({
                "time": at.to_string(), "type": "container", "service": service,
                "id": text(actor, "ID"), "action": text(&event, "Action"), "attributes": own,
            });
            say_line(line.to_string())?;
            continue;
        }
        let own: Vec<String> =
            own.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        let shown = time::rfc3339_local(at, 6).replacen('T', " ", 1);
        let shown = shown.get(..26).unwrap_or(&shown);
        say_line(format!(
            "{shown} container {} {} ({})",
            text(&event, "Action"),
            text(actor, "ID"),
            own.join(", ")
        ))?;
    }
    Ok(())
}
