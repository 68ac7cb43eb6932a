//! The verbs that do one thing to each container of a project.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use http::Method;
use serde_json::Value;
use wharf_compose::apply::{Event, Progress, Status};
use wharf_compose::observe::{self, label, observe as look};
use wharf_compose::plan::{Recreate, UpOptions};
use wharf_compose::{Engine, EngineError, labels};
use wharf_spec::compose::{Project, Selection};
use wharf_spec::docker::ContainerSummary;

use super::display::Screen;
use super::engine::ApiEngine;
use super::{check_services, containers, project_or_name, up};
use crate::api::{Payload, segment, url};
use crate::app::{Call, say_line};
use crate::failure::Failure;
use crate::verbs::Outcome;

/// The containers that a call names, and how to show what becomes of them.
pub(super) struct Target<'a> {
    pub(super) engine: ApiEngine<'a>,
    pub(super) screen: Screen,
    pub(super) project: Option<Project>,
    pub(super) containers: Vec<ContainerSummary>,
    /// Whether only to tell what would be done.
    pub(super) dry: bool,
}

async fn target(call: &Call, oneoff: bool) -> Result<Target<'_>, Failure> {
    let mut found = everything(call, oneoff).await?;
    let services = call.args();
    found
        .containers
        .retain(|c| services.is_empty() || services.iter().any(|s| s == label(c, labels::SERVICE)));
    Ok(found)
}

/// All containers of the project that a call is about; the services that it names must exist.
pub(super) async fn everything(call: &Call, oneoff: bool) -> Result<Target<'_>, Failure> {
    let (project, name) = project_or_name(call)?;
    let engine = super::engine(call)?;
    let mut found = containers(&engine, &name, &[], oneoff).await?;
    check_services(project.as_ref(), &found, call.args())?;
    if let (Some(project), true) = (&project, call.args().is_empty()) {
        // Other files may describe other services of the same project.
        found.retain(|c| project.services.contains_key(label(c, labels::SERVICE)));
    }
    let dry = call.group.on("dry-run");
    Ok(Target { engine, screen: super::screen(call)?, project, containers: found, dry })
}

impl Target<'_> {
    /// Does something to every container at once; fails if anything did.
    pub(super) async fn each(
        &self,
        [begin, end]: [&str; 2],
        wanted: impl Fn(&ContainerSummary) -> bool,
        work: impl AsyncFn(&ContainerSummary) -> Result<(), EngineError>,
    ) -> Outcome {
        let tell = |container: &ContainerSummary, status: Status, text: &str| {
            let subject = format!("Container {}", observe::name(container));
            self.screen.event(Event { subject, status, text: text.to_owned() });
        };
        let chosen = self.containers.iter().filter(|c| wanted(c));
        let all = chosen.map(async |container| {
            tell(container, Status::Working, begin);
            let result = if self.dry { Ok(()) } else { work(container).await };
            match &result {
                Ok(()) => tell(container, Status::Done, end),
                Err(error) => tell(container, Status::Failed, &error.to_string()),
            }
            result.err().map(Failure::from)
        });
        Failure::join(join_all(all).await.into_iter().flatten().collect())
    }

    async fn post(&self, container: &ContainerSummary, verb: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{}/{verb}", segment(&container.id));
        self.engine.post(&path, Payload::Empty).await.map(drop)
    }
}

fn running(container: &ContainerSummary) -> bool {
    matches!(container.state.as_str(), "running" | "paused" | "restarting")
}

/// `compose start [SERVICE...]`
pub async fn start(call: Call) -> Outcome {
    let found = target(&call, false).await?;
    if found.containers.is_empty() && found.project.is_none() {
        return Err("no container found for the project".into());
    }
    let Some(mut project) = found.project.clone() else {
        return start_by_labels(&call).await;
    };
    // In dependency order, with what each service waits for.
    project.enable(call.args());
    project.select(call.args(), Selection::WithDependencies)?;
    for (name, service) in &mut project.services {
        let own =
            containers(&found.engine, &project.name, std::slice::from_ref(name), false).await?;
        service.set_replicas(i64::try_from(own.len()).unwrap_or(0));
        if own.is_empty() && call.args().contains(name) {
            return Err(Failure::new(format!("service {name:?} has no container to start")));
        }
    }
    let options = UpOptions {
        recreate: Recreate::Never,
        recreate_dependencies: Recreate::Never,
        start: true,
        ignore_orphans: true,
        wait: call.given.on("wait"),
        ..UpOptions::default()
    };
    let observed = look(&found.engine, &project).await?;
    let plan = wharf_compose::plan::up(&project, &observed, &options)?;
    if found.dry {
        return say_line(plan.to_string().trim_end());
    }
    up::prepare(&call, &found.engine, &project, &observed, &found.screen)?.run(&plan).await?;
    Ok(())
}

/// Without files: the services and what they depend on, as their containers' labels say, that first.
async fn start_by_labels(call: &Call) -> Outcome {
    let found = everything(call, false).await?;
    let needs = |service: &str| {
        let own = found.containers.iter().filter(|c| label(c, labels::SERVICE) == service);
        let on = own.flat_map(|c| label(c, labels::DEPENDS_ON).split(','));
        on.filter_map(|d| d.split(':').next()).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let all = found.containers.iter().map(|c| label(c, labels::SERVICE).to_owned());
    let mut left: BTreeSet<String> = match call.args() {
        [] => all.collect(),
        named => {
            let mut wanted: BTreeSet<String> = named.iter().cloned().collect();
            let mut open: Vec<String> = named.to_vec();
            while let Some(service) = open.pop() {
                open.extend(needs(&service).into_iter().filter(|n| wanted.insert(n.clone())));
            }
            wanted
        }
    };
    while !left.is_empty() {
        let mut now = left.clone();
        now.retain(|s| needs(s).is_disjoint(&left));
        if now.is_empty() {
            // A cycle, which only labels can have.
            now.clone_from(&left);
        }
        let wanted = |c: &ContainerSummary| !running(c) && now.contains(label(c, labels::SERVICE));
        let work = async |c: &ContainerSummary| found.engine.start(&c.id).await;
        found.each(["Starting", "Started"], wanted, work).await?;
        left.retain(|s| !now.contains(s));
    }
    Ok(())
}

/// `compose stop [SERVICE...]`
pub async fn stop(call: Call) -> Outcome {
    let found = target(&call, false).await?;
    let timeout = super::timeout(&call);
    // What depends on something stops before it.
    let mut left: Vec<ContainerSummary> = found.containers.clone();
    while !left.is_empty() {
        let needed = |service: &str| {
            left.iter().any(|other| {
                let mut on = label(other, labels::DEPENDS_ON).split(',');
                label(other, labels::SERVICE) != service
                    && on.any(|d| d.split(':').next() == Some(service))
            })
        };
        let free = |c: &ContainerSummary| !needed(label(c, labels::SERVICE));
        let mut now: Vec<String> = left.iter().filter(|c| free(c)).map(|c| c.id.clone()).collect();
        if now.is_empty() {
            now = left.iter().map(|c| c.id.clone()).collect();
        }
        found
            .each(
                ["Stopping", "Stopped"],
                |c| now.contains(&c.id),
                async |c| {
                    super::stop_gently(&found.engine, found.project.as_ref(), c, timeout).await
                },
            )
            .await?;
        left.retain(|c| !now.contains(&c.id));
    }
    Ok(())
}

/// `compose pause [SERVICE...]`
pub async fn pause(call: Call) -> Outcome {
    let found = target(&call, false).await?;
    let work = async |c: &ContainerSummary| found.post(c, "pause").await;
    // One that is paused already is for the engine to refuse.
    let wanted = |c: &ContainerSummary| matches!(c.state.as_str(), "running" | "paused");
    found.each(["Pausing", "Paused"], wanted, work).await
}

/// `compose unpause [SERVICE...]`
pub async fn unpause(call: Call) -> Outcome {
    let found = target(&call, false).await?;
    let work = async |c: &ContainerSummary| found.post(c, "unpause").await;
    found.each(["Unpausing", "Unpaused"], |c| c.state == "paused", work).await
}

/// `compose kill [SERVICE...]`
pub async fn kill(call: Call) -> Outcome {
    let found = target(&call, true).await?;
    let signal = call.given.last("signal").unwrap_or("SIGKILL").to_owned();
    if !found.containers.iter().any(running) {
        return Err("no container to kill".into());
    }
    found
        .each(["Killing", "Killed"], running, async |c| {
            let path = url(&format!("/containers/{}/kill", segment(&c.id)), &[("signal", &signal)]);
            found.engine.post(&path, Payload::Empty).await.map(drop)
        })
        .await?;
    if call.given.on("remove-orphans")
        && !found.dry
        && let Some(project) = &found.project
    {
        let observed = look(&found.engine, project).await?;
        for orphan in observed.orphans(project) {
            found.engine.remove(&orphan.id, true, false).await?;
        }
    }
    Ok(())
}

/// `compose rm [SERVICE...]`
pub async fn rm(call: Call) -> Outcome {
    let given = &call.given;
    let mut found = target(&call, true).await?;
    if given.on("stop") {
        let timeout = super::timeout(&call);
        let work = async |c: &ContainerSummary| found.engine.stop(&c.id, timeout).await;
        found.each(["Stopping", "Stopped"], running, work).await?;
    } else {
        found.containers.retain(|c| !running(c));
    }
    if found.containers.is_empty() {
        return say_line("No stopped containers");
    }
    let names: Vec<&str> = found.containers.iter().map(observe::name).collect();
    if !given.on("force")
        && !up::ask(&format!("Going to remove {}\nAre you sure?", names.join(", ")))?
    {
        return Ok(());
    }
    let volumes = given.on("volumes");
    let work = async |c: &ContainerSummary| found.engine.remove(&c.id, true, volumes).await;
    found.each(["Removing", "Removed"], |_| true, work).await
}

/// `compose wait SERVICE...`
pub async fn wait(call: Call) -> Outcome {
    let found = target(&call, false).await?;
    if found.containers.is_empty() {
        return Err("no containers for project".into());
    }
    let down = call.given.on("down-project");
    let ends = found.containers.iter().map(async |c| {
        let path = format!("/containers/{}/wait", segment(&c.id));
        let answer = call.client()?.send(Method::POST, &path, Payload::Empty, &[]).await?;
        let bytes = crate::api::collect(answer).await?;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok::<_, Failure>((c, answer["StatusCode"].as_i64().unwrap_or(0)))
    });
    let mut status = 0;
    let mut ends: FuturesUnordered<_> = ends.collect();
    while let Some(end) = ends.next().await {
        let (container, code) = end?;
        say_line(format!("container {:?} exited with status code {code}", container.id))?;
        status = u8::try_from(code & 0xff).unwrap_or(125);
        if down {
            let project = super::down::project(&call).await?;
            super::down::take_down(&call, &project, &wharf_compose::plan::DownOptions::default())
                .await?;
            break;
        }
    }
    crate::verbs::run::exit_with(status)
}
