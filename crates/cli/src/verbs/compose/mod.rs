//! `compose`: projects from files.

mod attached;
mod bake;
pub mod builds;
pub mod config;
mod display;
pub mod down;
mod engine;
pub mod exec;
pub mod lists;
pub mod logs;
pub mod one;
pub mod outdated;
mod policy;
mod project;
pub mod pulls;
pub mod restart;
pub mod run;
pub mod simple;
pub mod up;
pub mod viz;
pub mod watch;

use std::collections::BTreeSet;

use wharf_compose::observe::{self, label};
use wharf_compose::{Engine, EngineError, labels};
use wharf_spec::compose::{Env, Project, Selection};
use wharf_spec::docker::ContainerSummary;

use crate::app::{Call, warn};
use crate::failure::Failure;
use display::Screen;
use engine::ApiEngine;
use project::Setup;

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<wharf_compose::apply::ApplyError> for Failure {
    fn from(error: wharf_compose::apply::ApplyError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<wharf_compose::PlanError> for Failure {
    fn from(error: wharf_compose::PlanError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<wharf_spec::compose::SelectionError> for Failure {
    fn from(error: wharf_spec::compose::SelectionError) -> Self {
        Self::new(error.to_string())
    }
}

/// A remark that does not stop anything.
pub(crate) fn remark(text: &str) {
    warn(format!("WARN[0000] {text}"));
}

/// The project that a call is about, limited to what it names.
pub(crate) fn load(call: &Call, services: &[String], reach: Selection) -> Result<Project, Failure> {
    let loaded = Setup::find(call)?.load(false)?;
    let mut project = loaded.project;
    project.enable(services);
    project.select(services, reach)?;
    project.readable().map_err(Failure::new)?;
    if !call.group.on("all-resources") {
        project.drop_unused();
    }
    Ok(project)
}

/// The project's name, and the project itself when its files are at hand.
pub(crate) fn project_or_name(call: &Call) -> Result<(Option<Project>, String), Failure> {
    let named = call.group.text("project-name");
    if !named.is_empty() && call.group.all("file").is_empty() {
        return Ok((None, named.to_owned()));
    }
    match Setup::find(call).and_then(|s| s.load(true)) {
        Ok(loaded) => {
            let name = loaded.project.name.clone();
            Ok((Some(loaded.project), name))
        }
        Err(failure) => match std::env::var("COMPOSE_PROJECT_NAME") {
            Ok(name) if !name.is_empty() => Ok((None, name)),
            _ => Err(failure),
        },
    }
}

/// The containers of a project, by service and number; those of `run` only when asked for.
pub(crate) async fn containers(
    engine: &ApiEngine<'_>,
    project: &str,
    services: &[String],
    oneoff: bool,
) -> Result<Vec<ContainerSummary>, Failure> {
    let mut all = engine.containers(project).await?;
    all.retain(|c| {
        let service = label(c, labels::SERVICE);
        (oneoff || !observe::is_oneoff(c))
            && (services.is_empty() || services.iter().any(|s| s == service))
    });
    all.sort_by(|a, b| {
        let key = |c: &ContainerSummary| {
            (label(c, labels::SERVICE).to_owned(), observe::number(c), observe::name(c).to_owned())
        };
        key(a).cmp(&key(b))
    });
    Ok(all)
}

/// Refuses services that the project does not have.
pub(crate) fn check_services(
    project: Option<&Project>,
    found: &[ContainerSummary],
    services: &[String],
) -> Result<(), Failure> {
    let there: BTreeSet<&str> = found.iter().map(|c| label(c, labels::SERVICE)).collect();
    let known = |s: &String| {
        there.contains(s.as_str())
            || project.is_some_and(|p| p.services.contains_key(s) || p.disabled.contains_key(s))
    };
    match services.iter().find(|s| !known(s)) {
        Some(missing) => Err(Failure::new(format!("no such service: {missing}"))),
        None => Ok(()),
    }
}

/// The container of a service that a verb acts on: by number, or the first that runs, those of `run` last.
pub(crate) async fn pick(
    engine: &ApiEngine<'_>,
    project: &str,
    service: &str,
    index: i64,
) -> Result<ContainerSummary, Failure> {
    let mut found = containers(engine, project, &[service.to_owned()], true).await?;
    found.retain(|c| !observe::is_oneoff(c) || c.state == "running");
    found.sort_by_key(observe::is_oneoff);
    let numbered = |c: &ContainerSummary| index == 0 || observe::number(c) == index;
    let running = found.iter().find(|c| numbered(c) && c.state == "running");
    match running.or_else(|| found.iter().find(|c| numbered(c))) {
        Some(container) => Ok(container.clone()),
        None if index > 0 => {
            Err(Failure::new(format!("service {service:?} is not running container #{index}")))
        }
        None => Err(Failure::new(format!("service {service:?} is not running"))),
    }
}

/// Whether a variable of the shell or of the project's env files says yes.
pub(crate) fn switch(name: &str, environment: &Env) -> bool {
    let value = environment.get(name).cloned().or_else(|| std::env::var(name).ok());
    value.and_then(|v| crate::parse::boolean(&v)).unwrap_or(false)
}

/// Stops a container after its service's `pre_stop` hooks.
pub(crate) async fn stop_gently(
    engine: &ApiEngine<'_>,
    project: Option<&Project>,
    container: &ContainerSummary,
    timeout: Option<i64>,
) -> Result<(), EngineError> {
    let service = project.and_then(|p| p.services.get(label(container, labels::SERVICE)));
    if let (Some(service), "running") = (service, container.state.as_str()) {
        restart::run_hooks(engine, container, &service.pre_stop).await?;
    }
    engine.stop(&container.id, timeout).await
}

/// Seconds of `--timeout`, if given.
pub(crate) fn timeout(call: &Call) -> Option<i64> {
    call.given.changed("timeout").then(|| call.given.int_or("timeout", 10))
}

/// The engine of a call.
pub(crate) fn engine(call: &Call) -> Result<ApiEngine<'_>, Failure> {
    Ok(ApiEngine::new(call.client()?))
}

/// Where a call's progress is shown.
pub(crate) fn screen(call: &Call) -> Result<Screen, Failure> {
    Screen::new(call)
}
