//! `up` in the foreground: the output of a project's containers, and what ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wharf_compose::apply::{Event, Progress as _, Status};
use wharf_compose::observe::{self, is_oneoff, label};
use wharf_compose::{Engine, labels};
use wharf_spec::compose::Project;
use wharf_spec::docker::ContainerSummary;

use super::engine::ApiEngine;
use super::logs::{Printer, copy, short_name};
use super::{containers, up};
use crate::api::{JsonStream, Payload, filters, segment, url};
use crate::app::{Call, say_line, warn};
use crate::failure::Failure;
use crate::parse::time;
use crate::verbs::{Outcome, text};

/// How long to wait for the last output of each container that has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was written this long before is shown as well: `up` attaches after it has started everything.
const BEFORE: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

/// Shows the project's output until it ends, or until it is interrupted and so stopped. `beside` runs
/// meanwhile; with it the end of all containers ends nothing, since it may start others.
pub(crate) async fn follow_until_end(
    call: &Call,
    project: &Project,
    services: &[String],
    beside: Option<LocalBoxFuture<'_, Outcome>>,
) -> Outcome {
    let engine = super::engine(call)?;
    let mut events = events(&engine, &project.name).await?;
    let found = containers(&engine, &project.name, &[], false).await?;
    let mut show = Show::new(call, project, services, &found)?;
    for container in &found {
        if !show.wants(container) {
            continue;
        }
        let since = (Timestamp::now() - BEFORE).to_string();
        show.follow(container, time::api(&since, Timestamp::now()).unwrap_or_default());
    }
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terms = signal(SignalKind::terminate())?;
    let watching = beside.is_some();
    let mut beside = beside.unwrap_or_else(|| Box::pin(std::future::pending()));
    let mut end = show.already_over(&found)?;
    if end.is_none() && !watching && show.is_finished(&engine).await? {
        end = Some(0);
    }
    while end.is_none() {
        tokio::select! {
            Some((id, result)) = show.streams.next() => {
                result?;
                show.stream_ended(&id);
            }
            event = events.next() => {
                let event = event?.ok_or_else(|| Failure::new("the engine has gone away"))?;
                end = show.happened(&engine, &event).await?;
                if end.is_none() && !watching && show.is_finished(&engine).await? {
                    end = Some(0);
                }
            }
            result = &mut beside => return result,
            _ = interrupts.recv() => {
                up::stopping();
                return stop_all(call, project, services, &mut interrupts).await;
            }
            _ = terms.recv() => {
                up::stopping();
                return stop_all(call, project, services, &mut interrupts).await;
            }
        }
    }
    let mut code = end.unwrap_or(0);
    if show.aborted {
        warn("Aborting on container exit...");
        stop_all(call, project, services, &mut interrupts).await?;
        code = show.selected(&engine).await?.unwrap_or(code);
    }
    // What was written last may still be on its way.
    while let Ok(Some((id, _))) = tokio::time::timeout(PATIENCE, show.streams.next()).await {
        show.stream_ended(&id);
    }
    crate::verbs::run::exit_with(code)
}

/// Starts and ends of the project's containers.
async fn events(engine: &ApiEngine<'_>, project: &str) -> Result<JsonStream, Failure> {
    let wanted = filters(&[
        format!("label={}={project}", labels::PROJECT),
        "type=container".to_owned(),
        "event=die".to_owned(),
        "event=start".to_owned(),
    ]);
    let path = url("/events", &[("filters", &wanted)]);
    Ok(JsonStream::new(engine.client.send(Method::GET, &path, Payload::Empty, &[]).await?))
}

type Followed<'a> = LocalBoxFuture<'a, (String, Outcome)>;

/// What is shown, and what is known of it.
struct Show<'a> {
    call: &'a Call,
    project: &'a Project,
    services: &'a [String],
    printer: Printer,
    streams: FuturesUnordered<Followed<'a>>,
    /// The containers whose output is being copied.
    following: BTreeSet<String>,
    /// Those that have started again before their earlier output was over, and when.
    again: BTreeMap<String, (ContainerSummary, String)>,
    /// When containers ended last; what they write later belongs to their next run.
    ended_at: BTreeMap<String, Timestamp>,
    /// Those that had ended before anybody looked.
    over: BTreeSet<String>,
    /// The places of names among the colours.
    colors: Vec<String>,
    /// Containers whose end was told although its event may still come.
    told: BTreeSet<String>,
    /// Whether an end is one that stops everything.
    aborted: bool,
}

impl<'a> Show<'a> {
    fn new(
        call: &'a Call,
        project: &'a Project,
        services: &'a [String],
        found: &[ContainerSummary],
    ) -> Result<Self, Failure> {
        let mut show = Self {
            call,
            project,
            services,
            printer: Printer::new(call, &[], &project.name),
            streams: FuturesUnordered::new(),
            following: BTreeSet::new(),
            again: BTreeMap::new(),
            ended_at: BTreeMap::new(),
            over: BTreeSet::new(),
            colors: Vec::new(),
            told: BTreeSet::new(),
            aborted: false,
        };
        let attached: Vec<ContainerSummary> =
            found.iter().filter(|c| show.wants(c)).cloned().collect();
        let names: Vec<String> = attached.iter().map(|c| short_name(c, &project.name)).collect();
        say_line(format!("Attaching to {}", names.join(", ")))?;
        show.printer = Printer::new(call, &attached, &project.name);
        Ok(show)
    }

    /// Whether a container's output is shown.
    fn wants(&self, container: &ContainerSummary) -> bool {
        let given = &self.call.given;
        let name = label(container, labels::SERVICE);
        let named = |list: &[String]| list.iter().any(|s| s == name);
        if is_oneoff(container)
            || !self.project.services.contains_key(name)
            || named(given.all("no-attach"))
        {
            return false;
        }
        if !given.all("attach").is_empty() {
            return named(given.all("attach"));
        }
        let chosen =
            self.services.is_empty() || given.on("attach-dependencies") || named(self.services);
        chosen && self.project.services.get(name).is_none_or(|s| s.attach != Some(false))
    }

    fn follow(&mut self, container: &ContainerSummary, since: String) {
        let id = container.id.clone();
        if !self.following.insert(id.clone()) {
            self.again.insert(id, (container.clone(), since));
            return;
        }
        let name = short_name(container, &self.project.name);
        let at = self.colors.iter().position(|n| *n == name).unwrap_or_else(|| {
            self.colors.push(name);
            self.colors.len() - 1
        });
        let prefix = self.printer.prefix(container, &self.project.name, at);
        let timestamps = if self.call.given.on("timestamps") { "1" } else { "" };
        let (call, container) = (self.call, container.clone());
        self.streams.push(Box::pin(async move {
            let query = [
                ("follow", "1"),
                ("since", since.as_str()),
                ("stderr", "1"),
                ("stdout", "1"),
                ("timestamps", timestamps),
            ];
            let copied = async { copy(call.client()?, &container, &prefix, &query).await };
            (container.id.clone(), copied.await)
        }));
    }

    fn stream_ended(&mut self, id: &str) {
        self.following.remove(id);
        if let Some((container, since)) = self.again.remove(id) {
            self.follow(&container, since);
        }
    }

    /// Tells of containers that had ended before anybody looked.
    fn already_over(&mut self, found: &[ContainerSummary]) -> Result<Option<u8>, Failure> {
        let mut end = None;
        let own = |c: &&ContainerSummary| {
            self.project.services.contains_key(label(c, labels::SERVICE)) && is_over(c)
        };
        for container in found.iter().filter(own).cloned().collect::<Vec<_>>() {
            self.told.insert(container.id.clone());
            self.over.insert(container.id.clone());
            let status = container.status.split_once("Exited (");
            let code = status.and_then(|(_, rest)| rest.split_once(')')?.0.parse().ok());
            end = end.or(self.ended(&container, code.unwrap_or(0))?);
        }
        Ok(end)
    }

    /// Tells of an end, and says whether it ends everything.
    fn ended(&mut self, container: &ContainerSummary, code: i64) -> Result<Option<u8>, Failure> {
        let given = &self.call.given;
        say_line(format!("{} exited with code {code}", short_name(container, &self.project.name)))?;
        let failing = given.on("abort-on-container-failure");
        let any =
            given.on("abort-on-container-exit") || given.changed("exit-code-from") && !failing;
        self.aborted = any || failing && code != 0;
        Ok(self.aborted.then(|| u8::try_from(code & 0xff).unwrap_or(125)))
    }

    async fn happened(
        &mut self,
        engine: &ApiEngine<'_>,
        event: &Value,
    ) -> Result<Option<u8>, Failure> {
        let id = text(&event["Actor"], "ID");
        let now = engine.containers(&self.project.name).await?;
        // What is gone already was made and removed by somebody else.
        let Some(container) = now.iter().find(|c| c.id == id) else { return Ok(None) };
        if is_oneoff(container)
            || !self.project.services.contains_key(label(container, labels::SERVICE))
        {
            return Ok(None);
        }
        if text(event, "Action") == "start" {
            self.told.remove(id);
            let since = self.ended_at.get(id).map(|at| time::api(&at.to_string(), *at));
            let since = since.transpose().map_err(Failure::new)?;
            // One that is followed already and has not ended needs no second look.
            if self.wants(container) && (since.is_some() || !self.following.contains(id)) {
                self.follow(container, since.unwrap_or_default());
            }
            return Ok(None);
        }
        let at = i128::from(event["timeNano"].as_i64().unwrap_or(0));
        let at = Timestamp::from_nanosecond(at).unwrap_or_else(|_| Timestamp::now());
        self.ended_at.insert(id.to_owned(), at);
        if self.told.remove(id) {
            return Ok(None);
        }
        let code = text(&event["Actor"]["Attributes"], "exitCode").parse().unwrap_or(0);
        self.ended(container, code)
    }

    /// Whether a container is of a service whose end this call waits for: those that it names, else all
    /// whose output it shows. What others depend on may go on.
    fn awaits(&self, container: &ContainerSummary) -> bool {
        let name = label(container, labels::SERVICE);
        match self.services {
            [] => self.project.services.contains_key(name) && self.wants(container),
            named => named.iter().any(|s| s == name),
        }
    }

    /// Whether nothing is left to wait for, and every end has been told.
    async fn is_finished(&self, engine: &ApiEngine<'_>) -> Result<bool, Failure> {
        Ok(!self.any_left(engine).await? && !self.any_untold(engine).await?)
    }

    /// Whether any container that this call waits for runs or will again.
    async fn any_left(&self, engine: &ApiEngine<'_>) -> Result<bool, Failure> {
        let now = containers(engine, &self.project.name, &[], false).await?;
        Ok(now.iter().any(|c| self.awaits(c) && !is_over(c)))
    }

    /// Whether a container has ended in a way of which no event has told yet.
    async fn any_untold(&self, engine: &ApiEngine<'_>) -> Result<bool, Failure> {
        let now = containers(engine, &self.project.name, &[], false).await?;
        for container in now.iter().filter(|c| self.awaits(c) && is_over(c)) {
            let Some(told) = self.ended_at.get(&container.id) else {
                if self.over.contains(&container.id) {
                    continue;
                }
                return Ok(true);
            };
            let finished = engine.inspect(&container.id).await?.state.finished_at;
            if finished.parse::<Timestamp>().is_ok_and(|finished| finished > *told) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The exit status of the service that `--exit-code-from` names.
    async fn selected(&self, engine: &ApiEngine<'_>) -> Result<Option<u8>, Failure> {
        let name = self.call.given.text("exit-code-from");
        if name.is_empty() {
            return Ok(None);
        }
        let found = containers(engine, &self.project.name, &[name.to_owned()], false).await?;
        let Some(container) = found.first() else { return Ok(None) };
        let code = engine.inspect(&container.id).await?.state.exit_code;
        Ok(Some(u8::try_from(code & 0xff).unwrap_or(125)))
    }
}

fn is_over(container: &ContainerSummary) -> bool {
    matches!(container.state.as_str(), "exited" | "dead" | "removing")
}

/// Stops the services that `up` was called with, or all; a second interrupt kills them. What they depend on
/// goes on if it was not named.
async fn stop_all(
    call: &Call,
    project: &Project,
    services: &[String],
    interrupts: &mut Signal,
) -> Outcome {
    let engine = super::engine(call)?;
    let screen = super::screen(call)?;
    let mut found = containers(&engine, &project.name, services, false).await?;
    found.retain(|c| project.services.contains_key(label(c, labels::SERVICE)));
    let running: Vec<&ContainerSummary> = found.iter().filter(|c| c.state == "running").collect();
    let timeout = super::timeout(call);
    let stops = found.iter().map(async |c| {
        let tell = |status, text: &str| {
            let subject = format!("Container {}", observe::name(c));
            screen.event(Event { subject, status, text: text.to_owned() });
        };
        tell(Status::Working, "Stopping");
        let done = super::stop_gently(&engine, Some(project), c, timeout).await;
        match &done {
            Ok(()) => tell(Status::Done, "Stopped"),
            Err(error) => tell(Status::Failed, &error.to_string()),
        }
        done
    });
    let stops = futures_util::future::join_all(stops);
    tokio::select! {
        results = stops => {
            let failed = results.into_iter().filter_map(Result::err).map(Failure::from);
            Failure::join(failed.collect())
        }
        _ = interrupts.recv() => {
            for container in &running {
                let path = format!("/containers/{}/kill", segment(&container.id));
                // What has stopped meanwhile cannot be killed.
                drop(engine.post(&path, Payload::Empty).await);
            }
            Err(Failure::silent(130))
        }
    }
}
