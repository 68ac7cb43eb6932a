//! The plan that takes a project down.

use std::collections::{BTreeMap, BTreeSet};

use wharf_spec::compose::Project;
use wharf_spec::docker::{ContainerSummary, NetworkInspect, Volume};

use super::{Action, Plan, Remark};
use crate::labels;
use crate::observe::{self, Observed, is_oneoff, label};

/// Which images go as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Images {
    /// None.
    #[default]
    Keep,
    /// Those that Compose gave their name.
    Local,
    /// All that the services use.
    All,
}

/// What kind of down it is.
#[derive(Clone, Debug, Default)]
pub struct DownOptions {
    /// The services that were asked for; none means all, and the networks.
    pub services: Vec<String>,
    /// Whether containers of services that are gone from the files go too.
    pub remove_orphans: bool,
    /// Whether named and anonymous volumes go too.
    pub volumes: bool,
    /// Which images go too.
    pub images: Images,
    /// Seconds before a container is killed.
    pub timeout: Option<i64>,
}

/// Plans a down. What there is to remove is taken from the labels, so that it also works without
/// the files; `networks` and `volumes` are those that bear the project's label.
pub fn down(
    project: &Project,
    observed: &Observed,
    networks: &[NetworkInspect],
    volumes: &[Volume],
    options: &DownOptions,
) -> Plan {
    let mut plan = Plan::default();
    let chosen = |service: &str| {
        options.services.is_empty() || options.services.iter().any(|s| s == service)
    };
    let known = |service: &str| {
        project.services.contains_key(service) || project.disabled.contains_key(service)
    };
    // Services whose profile is not active are left alone, and so are running ones of `run`.
    let goes = |c: &&ContainerSummary| {
        let service = label(c, labels::SERVICE);
        let active = project.services.contains_key(service);
        let over = matches!(c.state.as_str(), "exited" | "dead");
        let orphan = !known(service) || is_oneoff(c) && (active || over);
        chosen(service) && (active && !is_oneoff(c) || options.remove_orphans && orphan)
    };
    let going: Vec<&ContainerSummary> = observed.containers.iter().filter(goes).collect();
    let removed = containers(&mut plan, &going, options);
    let mut all: Vec<usize> = removed.values().flatten().copied().collect();
    all.sort_unstable();
    if options.services.is_empty() {
        remove_networks(&mut plan, project, networks, &all);
        if options.volumes {
            remove_volumes(&mut plan, project, volumes, &all);
        }
        remove_images(&mut plan, project, options.images, &all);
        if plan.steps.is_empty() {
            plan.remarks.push(Remark(format!(
                "Warning: No resource found to remove for project {:?}.",
                project.name
            )));
        }
    }
    plan
}

/// Dependents stop before what they depend on.
fn containers(
    plan: &mut Plan,
    going: &[&ContainerSummary],
    options: &DownOptions,
) -> BTreeMap<String, Vec<usize>> {
    let depends = depends_on(going);
    let mut done: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut stopped: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let services: BTreeSet<&str> = going.iter().map(|c| label(c, labels::SERVICE)).collect();
    let mut left: BTreeSet<&str> = services.clone();
    while !left.is_empty() {
        // A service is next when nothing that is left depends on it; a cycle in labels ends at any.
        let free = |s: &&&str| {
            !left
                .iter()
                .any(|other| other != *s && depends.get(*other).is_some_and(|d| d.contains(**s)))
        };
        let Some(next) = left.iter().find(free).or(left.iter().next()).copied() else { break };
        left.remove(next);
        let dependents = depends.iter().filter(|(_, on)| on.contains(next)).map(|(name, _)| name);
        let after: Vec<usize> =
            dependents.filter_map(|name| stopped.get(name)).flatten().copied().collect();
        for container in going.iter().filter(|c| label(c, labels::SERVICE) == next) {
            let (id, name) = (container.id.clone(), observe::name(container).to_owned());
            let mut before = after.clone();
            if matches!(container.state.as_str(), "running" | "paused" | "restarting") {
                let action = Action::Stop {
                    id: id.clone(),
                    name: name.clone(),
                    service: next.to_owned(),
                    timeout: options.timeout,
                };
                let step = plan.add(action, before);
                stopped.entry(next.to_owned()).or_default().push(step);
                before = vec![step];
            }
            let action = Action::Remove { id, name, volumes: options.volumes };
            let step = plan.add(action, before);
            done.entry(next.to_owned()).or_default().push(step);
        }
    }
    done
}

/// What each service depends on, by the labels of its containers.
fn depends_on(containers: &[&ContainerSummary]) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for container in containers {
        let list = label(container, labels::DEPENDS_ON).split(',');
        let names = list.filter_map(|d| d.split(':').next()).filter(|n| !n.is_empty());
        let service = label(container, labels::SERVICE).to_owned();
        out.entry(service).or_default().extend(names.map(str::to_owned));
    }
    out
}

fn remove_networks(
    plan: &mut Plan,
    project: &Project,
    networks: &[NetworkInspect],
    after: &[usize],
) {
    let external = |network: &NetworkInspect| {
        project.networks.values().any(|n| n.external && n.name == network.name)
    };
    for network in networks.iter().filter(|n| !external(n)) {
        let action = Action::RemoveNetwork { id: network.id.clone(), name: network.name.clone() };
        plan.add(action, after.to_vec());
    }
}

fn remove_volumes(plan: &mut Plan, project: &Project, volumes: &[Volume], after: &[usize]) {
    let external =
        |volume: &Volume| project.volumes.values().any(|v| v.external && v.name == volume.name);
    for volume in volumes.iter().filter(|v| !external(v)) {
        plan.add(Action::RemoveVolume(volume.name.clone()), after.to_vec());
    }
}

fn remove_images(plan: &mut Plan, project: &Project, which: Images, after: &[usize]) {
    let all = project.services.iter().chain(&project.disabled);
    let images: BTreeSet<String> = all
        .filter(|(_, s)| match which {
            Images::Keep => false,
            Images::Local => s.image.is_empty(),
            Images::All => true,
        })
        .map(|(name, s)| s.image_or_default(&project.name, name))
        .collect();
    for image in images {
        plan.add(Action::RemoveImage(image), after.to_vec());
    }
}
