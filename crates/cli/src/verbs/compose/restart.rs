//! `restart`: the containers of services, and of those that depend on them and say so.

use std::collections::{BTreeMap, BTreeSet};

use wharf_compose::Engine;
use wharf_compose::apply::unready;
use wharf_compose::engine::Until;
use wharf_compose::observe::label;
use wharf_compose::{EngineError, labels};
use wharf_spec::compose::Project;
use wharf_spec::compose::model::Hook;
use wharf_spec::docker::ContainerSummary;

use super::engine::ApiEngine;
use super::simple::{Target, everything};
use crate::api::{Payload, segment, url};
use crate::app::Call;
use crate::failure::Failure;
use crate::verbs::Outcome;

/// `compose restart [SERVICE...]`
pub async fn restart(call: Call) -> Outcome {
    let found = everything(&call, false).await?;
    let needs = needs(found.project.as_ref(), &found.containers);
    let chosen = match (call.args(), call.given.on("no-deps")) {
        ([], _) => needs.keys().cloned().collect(),
        (services, true) => services.iter().cloned().collect(),
        (services, false) => with_dependents(services, &needs),
    };
    restart_services(&found, &chosen, &needs, super::timeout(&call)).await
}

/// On which services each service depends such that it restarts with them, and in what condition
/// it wants them then.
pub(super) type Needs = BTreeMap<String, BTreeMap<String, String>>;

/// What the files say, or without them what the containers' labels say.
pub(super) fn needs(project: Option<&Project>, containers: &[ContainerSummary]) -> Needs {
    let mut needs = Needs::new();
    for container in containers {
        let own = needs.entry(label(container, labels::SERVICE).to_owned()).or_default();
        if project.is_some() {
            continue;
        }
        for dependency in label(container, labels::DEPENDS_ON).split(',') {
            let mut words = dependency.split(':');
            let (name, condition) = (words.next().unwrap_or_default(), words.next());
            if words.next() == Some("true") {
                own.insert(name.to_owned(), condition.unwrap_or_default().to_owned());
            }
        }
    }
    for (name, service) in project.into_iter().flat_map(|p| &p.services) {
        let own = needs.entry(name.clone()).or_default();
        let restarting = service.depends_on.iter().filter(|(_, how)| how.restart);
        own.extend(restarting.map(|(on, how)| (on.clone(), how.condition.clone())));
    }
    needs
}

/// The services and, transitively, those that restart with them.
pub(super) fn with_dependents(services: &[String], needs: &Needs) -> BTreeSet<String> {
    let mut chosen = BTreeSet::new();
    let mut open: Vec<&str> = services.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        if chosen.insert(name.to_owned()) {
            let dependents = needs.iter().filter(|(_, on)| on.contains_key(name));
            open.extend(dependents.map(|(dependent, _)| dependent.as_str()));
        }
    }
    chosen
}

/// Restarts services, each after those that it restarts with.
pub(super) async fn restart_services(
    found: &Target<'_>,
    chosen: &BTreeSet<String>,
    needs: &Needs,
    timeout: Option<i64>,
) -> Outcome {
    let mut left = chosen.clone();
    while !left.is_empty() {
        let waits = |name: &String| {
            needs.get(name).is_some_and(|on| on.keys().any(|n| n != name && left.contains(n)))
        };
        let mut now: BTreeSet<String> = left.iter().filter(|n| !waits(n)).cloned().collect();
        if now.is_empty() {
            // A cycle, which only labels can have.
            now.clone_from(&left);
        }
        for (on, condition) in now.iter().filter_map(|n| needs.get(n)).flatten() {
            if chosen.contains(on) && !found.dry {
                dependency(found, on, condition).await?;
            }
        }
        found
            .each(
                ["Restarting", "Started"],
                |c| now.contains(label(c, labels::SERVICE)),
                async |c| one(found, c, timeout).await,
            )
            .await?;
        left.retain(|n| !now.contains(n));
    }
    Ok(())
}

async fn one(
    found: &Target<'_>,
    container: &ContainerSummary,
    timeout: Option<i64>,
) -> Result<(), EngineError> {
    let service =
        found.project.as_ref().and_then(|p| p.services.get(label(container, labels::SERVICE)));
    if container.state == "running" {
        run_hooks(&found.engine, container, service.map_or(&[][..], |s| &s.pre_stop[..])).await?;
    }
    let seconds = timeout.map(|t| t.to_string()).unwrap_or_default();
    let path = url(&format!("/containers/{}/restart", segment(&container.id)), &[("t", &seconds)]);
    found.engine.post(&path, Payload::Empty).await?;
    run_hooks(&found.engine, container, service.map_or(&[][..], |s| &s.post_start[..])).await
}

/// Runs commands in a container, one after the other; each must succeed.
pub(super) async fn run_hooks(
    engine: &ApiEngine<'_>,
    container: &ContainerSummary,
    hooks: &[Hook],
) -> Result<(), EngineError> {
    for hook in hooks {
        let status = engine.exec(&container.id, &wharf_compose::apply::exec_of(hook)).await?;
        if status != 0 {
            let service = label(container, labels::SERVICE);
            return Err(EngineError::Failed(format!("{service} hook exited with status {status}")));
        }
    }
    Ok(())
}

/// Waits until the containers of a service are as a dependent wants them.
async fn dependency(found: &Target<'_>, service: &str, condition: &str) -> Outcome {
    let until = match condition {
        "service_healthy" => Until::Probed,
        "service_completed_successfully" => Until::Stopped,
        _ => return Ok(()),
    };
    for container in found.containers.iter().filter(|c| label(c, labels::SERVICE) == service) {
        let state = found.engine.until(&container.id, until).await?;
        let status = state.state.exit_code;
        match until {
            Until::Stopped if status != 0 => {
                return Err(Failure::new(format!(
                    "service {service:?} didn't complete successfully: exit {status}"
                )));
            }
            Until::Stopped => (),
            Until::Probed => {
                if let Some(why) = unready(&state, false) {
                    return Err(Failure::new(format!("dependency failed to start: {why}")));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_reaches_those_that_ask_for_it() {
        let on = |names: &[&str]| {
            names.iter().map(|n| ((*n).to_owned(), "service_started".to_owned())).collect()
        };
        let needs = Needs::from([
            ("db".to_owned(), on(&[])),
            ("api".to_owned(), on(&["db"])),
            ("web".to_owned(), on(&["api"])),
            ("cron".to_owned(), on(&[])),
        ]);
        let reached = with_dependents(&["db".to_owned()], &needs);
        assert_eq!(reached.into_iter().collect::<Vec<_>>(), ["api", "db", "web"]);
        assert_eq!(with_dependents(&["web".to_owned()], &needs).len(), 1);
    }
}
