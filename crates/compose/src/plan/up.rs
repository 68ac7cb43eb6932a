//! The plan that brings a project up, or into line with its files.

use std::collections::{BTreeMap, BTreeSet};

use wharf_spec::compose::Project;
use wharf_spec::compose::model::Service;
use wharf_spec::docker::ContainerSummary;

use super::steps::dependency_order;
use super::{Action, Container, Plan, PlanError, Remark, unused};
use crate::create::container_name;
use crate::labels;
use crate::observe::{self, Observed, label};

/// When containers are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recreate {
    /// When they differ from what the files say.
    #[default]
    Diverged,
    /// Always.
    Force,
    /// Never.
    Never,
}

/// What kind of up it is.
#[derive(Clone, Debug, Default)]
pub struct UpOptions {
    /// The services that were asked for; none means all.
    pub services: Vec<String>,
    /// When their containers are replaced.
    pub recreate: Recreate,
    /// When those of their dependencies are.
    pub recreate_dependencies: Recreate,
    /// Whether anonymous volumes are made anew.
    pub renew_volumes: bool,
    /// Seconds before a container that stops is killed.
    pub timeout: Option<i64>,
    /// Whether containers of services that are gone from the files go too.
    pub remove_orphans: bool,
    /// Whether nothing is said about them.
    pub ignore_orphans: bool,
    /// Whether containers are started, not only made.
    pub start: bool,
    /// Whether to wait until everything runs and is healthy.
    pub wait: bool,
    /// Volumes, by key, that may be removed because they differ from the files.
    pub renew: BTreeSet<String>,
}

/// The volumes, by key, that are not as the files say. To make them anew loses their data.
pub fn diverged_volumes(project: &Project, observed: &Observed) -> Vec<String> {
    let differs = |key: &String| {
        let (Some(volume), Some(found)) = (project.volumes.get(key), observed.volumes.get(key))
        else {
            return false;
        };
        let hash = found.labels.as_ref().and_then(|l| l.get(labels::CONFIG_HASH));
        !volume.external && hash.is_some_and(|h| *h != volume.hash())
    };
    project.volumes.keys().filter(|key| differs(key)).cloned().collect()
}

/// Plans an up.
pub fn up(project: &Project, observed: &Observed, options: &UpOptions) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        project,
        observed,
        options,
        plan: Plan::default(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        services: BTreeMap::new(),
        renewed: BTreeSet::new(),
        lost: BTreeSet::new(),
    };
    planner.networks()?;
    planner.volumes()?;
    planner.orphans();
    let order = dependency_order(project);
    for name in &order {
        planner.converge(name)?;
    }
    if options.start {
        for name in &order {
            planner.start(name);
        }
        if options.wait {
            planner.wait_for_all(&order);
        }
    }
    Ok(planner.plan)
}

/// What is known of a service while the plan grows.
#[derive(Default)]
struct State {
    /// Its containers as they will be, and the step that makes each.
    containers: Vec<(Container, Option<usize>, bool)>,
    /// The steps after which its containers run.
    started: Vec<usize>,
    /// Whether a container was made or replaced.
    changed: bool,
}

struct Planner<'a> {
    project: &'a Project,
    observed: &'a Observed,
    options: &'a UpOptions,
    plan: Plan,
    /// The steps that make networks and volumes, by key.
    networks: BTreeMap<String, usize>,
    volumes: BTreeMap<String, usize>,
    services: BTreeMap<String, State>,
    /// Networks that are made anew.
    renewed: BTreeSet<String>,
    /// Containers, by id, that a step has removed already.
    lost: BTreeSet<String>,
}

impl Planner<'_> {
    fn networks(&mut self) -> Result<(), PlanError> {
        for (key, network) in &self.project.networks {
            let Some(found) = self.observed.networks.get(key) else {
                if network.external {
                    return Err(PlanError::NoNetwork(network.name.clone()));
                }
                let step = self.plan.add(Action::CreateNetwork(key.clone()), Vec::new());
                self.networks.insert(key.clone(), step);
                continue;
            };
            if network.external {
                continue;
            }
            match found.labels.get(labels::PROJECT) {
                None => self.remark(format!(
                    "a network with name {} exists but was not created by compose.\nSet `external: true` to use an existing network",
                    network.name
                )),
                Some(other) if *other != self.project.name => self.remark(format!(
                    "a network with name {} exists but was not created for project {:?}.\nSet `external: true` to use an existing network",
                    network.name, self.project.name
                )),
                Some(_) => (),
            }
            let own = found.labels.get(labels::NETWORK).map(String::as_str).unwrap_or_default();
            if own != key {
                return Err(PlanError::ForeignNetwork {
                    name: network.name.clone(),
                    found: own.to_owned(),
                    key: key.clone(),
                });
            }
            let hash = found.labels.get(labels::CONFIG_HASH).map(String::as_str);
            if hash.is_some_and(|h| !h.is_empty() && h != network.hash()) {
                self.renew_network(key, &found.id, &network.name);
            }
        }
        Ok(())
    }

    /// A network that differs goes once its containers have left it, and comes back.
    fn renew_network(&mut self, key: &str, id: &str, name: &str) {
        let uses = |(_, s): &(&String, &Service)| s.networks.contains_key(key);
        let services: Vec<&String> =
            self.project.services.iter().filter(uses).map(|(n, _)| n).collect();
        let mut left = Vec::new();
        for service in services {
            for container in self.observed.of_service(service) {
                let stop = (container.state == "running").then(|| self.stop(container, Vec::new()));
                let action =
                    Action::Disconnect { network: id.to_owned(), container: container.id.clone() };
                left.push(self.plan.add(action, stop.into_iter().collect()));
            }
        }
        let action = Action::RemoveNetwork { id: id.to_owned(), name: name.to_owned() };
        let removed = self.plan.add(action, left);
        let step = self.plan.add(Action::CreateNetwork(key.to_owned()), vec![removed]);
        self.networks.insert(key.to_owned(), step);
        self.renewed.insert(key.to_owned());
    }

    fn volumes(&mut self) -> Result<(), PlanError> {
        for (key, volume) in &self.project.volumes {
            let Some(found) = self.observed.volumes.get(key) else {
                if volume.external {
                    return Err(PlanError::NoVolume(volume.name.clone()));
                }
                let step = self.plan.add(Action::CreateVolume(key.clone()), Vec::new());
                self.volumes.insert(key.clone(), step);
                continue;
            };
            if volume.external {
                continue;
            }
            let name = &volume.name;
            let owner = found.labels.as_ref().and_then(|l| l.get(labels::PROJECT));
            match owner {
                None => self.remark(format!(
                    "volume {name:?} already exists but was not created by Docker Compose. Use `external: true` to use an existing volume"
                )),
                Some(other) if *other != self.project.name => self.remark(format!(
                    "volume {name:?} already exists but was created for project {other:?} (expected {:?}). Use `external: true` to use an existing volume",
                    self.project.name
                )),
                Some(_) => (),
            }
            if self.options.renew.contains(key) {
                self.renew_volume(key, name);
            }
        }
        Ok(())
    }

    fn renew_volume(&mut self, key: &str, name: &str) {
        let uses = |(_, s): &(&String, &Service)| s.volumes.iter().any(|v| v.source == key);
        let services: Vec<&String> =
            self.project.services.iter().filter(uses).map(|(n, _)| n).collect();
        let mut gone = Vec::new();
        for service in services {
            for container in self.observed.of_service(service) {
                gone.push(self.remove(container, Vec::new()));
                self.lost.insert(container.id.clone());
            }
        }
        let removed = self.plan.add(Action::RemoveVolume(name.to_owned()), gone);
        let step = self.plan.add(Action::CreateVolume(key.to_owned()), vec![removed]);
        self.volumes.insert(key.to_owned(), step);
    }

    fn orphans(&mut self) {
        let orphans = self.observed.orphans(self.project);
        if orphans.is_empty() || self.options.ignore_orphans {
            return;
        }
        if self.options.remove_orphans {
            for orphan in orphans {
                self.remove(orphan, Vec::new());
            }
            return;
        }
        let names: Vec<&str> = orphans.into_iter().map(observe::name).collect();
        self.remark(format!(
            "Found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
            names.join(" ")
        ));
    }

    fn remark(&mut self, text: String) {
        self.plan.remarks.push(Remark(text));
    }

    fn stop(&mut self, container: &ContainerSummary, after: Vec<usize>) -> usize {
        let action = Action::Stop {
            id: container.id.clone(),
            name: observe::name(container).to_owned(),
            service: label(container, labels::SERVICE).to_owned(),
            timeout: self.options.timeout,
        };
        self.plan.add(action, after)
    }

    /// Stops and removes a container.
    fn remove(&mut self, container: &ContainerSummary, mut after: Vec<usize>) -> usize {
        if matches!(container.state.as_str(), "running" | "paused" | "restarting") {
            after = vec![self.stop(container, after)];
        }
        let action = Action::Remove {
            id: container.id.clone(),
            name: observe::name(container).to_owned(),
            volumes: false,
        };
        self.plan.add(action, after)
    }

    /// The service with references to other services replaced, as far as that is possible before
    /// the plan is carried out; `None` when it refers to a container that is still to be made.
    fn resolved(&self, service: &Service) -> Option<Service> {
        let id = |name: &str| match self.services.get(name).and_then(|s| s.containers.first()) {
            Some((Container::Known { id, .. }, _, _)) => Some(id.clone()),
            Some((Container::Made { .. }, _, _)) => None,
            None => self.left_alone(name),
        };
        let mut service = service.clone();
        resolve(&mut service, &id).then_some(service)
    }

    /// The container of a service that this up does not touch.
    fn left_alone(&self, name: &str) -> Option<String> {
        let outside = !self.project.services.contains_key(name);
        let found = self.observed.of_service(name).first().map(|c| c.id.clone());
        found.filter(|_| outside)
    }

    fn must_recreate(&self, name: &str, service: &Service, container: &ContainerSummary) -> bool {
        let chosen =
            self.options.services.is_empty() || self.options.services.iter().any(|s| s == name);
        match if chosen { self.options.recreate } else { self.options.recreate_dependencies } {
            Recreate::Never => return false,
            Recreate::Force => return true,
            Recreate::Diverged => (),
        }
        // What shares the namespaces of a container that is replaced is replaced with it.
        let Some(resolved) = self.resolved(service) else { return true };
        let image = self.observed.images.get(&service.image_or_default(&self.project.name, name));
        let image = image.map(|i| i.id.as_str()).unwrap_or_default();
        label(container, labels::CONFIG_HASH) != resolved.hash()
            || label(container, labels::IMAGE) != image
            || (container.state == "running" && self.is_off_network(service, container))
            || self.lacks_volume(service, container)
            || service.networks.keys().any(|n| self.renewed.contains(n))
    }

    fn is_off_network(&self, service: &Service, container: &ContainerSummary) -> bool {
        let joined: Vec<&str> =
            container.network_settings.networks.values().map(|n| n.network_id.as_str()).collect();
        service.networks.keys().any(|key| {
            let found = self.observed.networks.get(key);
            found.is_none_or(|network| !joined.contains(&network.id.as_str()))
        })
    }

    fn lacks_volume(&self, service: &Service, container: &ContainerSummary) -> bool {
        let named = service.volumes.iter().filter(|v| v.kind == "volume" && !v.source.is_empty());
        let real = named.filter_map(|v| self.project.volumes.get(&v.source)).map(|v| &v.name);
        let mut real = real;
        real.any(|name| !container.mounts.iter().any(|m| m.kind == "volume" && m.name == *name))
    }

    /// The steps that make a service's containers what they should be.
    fn converge(&mut self, name: &str) -> Result<(), PlanError> {
        let Some(service) = self.project.services.get(name) else { return Ok(()) };
        unused::refuse(name, service)?;
        for what in unused::of(service) {
            self.remark(format!("service {name:?}: {what} has no effect outside of Swarm"));
        }
        let expected = usize::try_from(service.replicas()).unwrap_or(0);
        self.check_references(name, service)?;
        let observed = self.observed.of_service(name);
        let mut found: Vec<(bool, &ContainerSummary)> = observed
            .into_iter()
            .filter(|c| !self.lost.contains(&c.id))
            .map(|c| (self.must_recreate(name, service, c), c))
            .collect();
        // What is up to date stays rather than what is not, low numbers rather than high ones.
        found.sort_by_key(|(obsolete, c)| (*obsolete, observe::number(c)));
        let mut state = State::default();
        let before = self.before(service);
        let mut removed = Vec::new();
        for (_, surplus) in found.iter().skip(expected) {
            removed.push(self.remove(surplus, Vec::new()));
            state.changed = true;
        }
        let next = found.iter().map(|(_, c)| observe::number(c)).max().unwrap_or(0) + 1;
        let present = found.len();
        for (obsolete, container) in found.into_iter().take(expected) {
            match obsolete {
                true => self.replace(name, service, container, &before, &mut state),
                false => state.containers.push(self.keep(name, service, container, &removed)),
            }
        }
        for number in (next..).take(expected.saturating_sub(present)) {
            let own = container_name(self.project, name, service, number);
            let action = Action::Create { service: name.to_owned(), number, name: own.clone() };
            let step = self.plan.add(action, before.clone());
            let made = Container::Made { service: name.to_owned(), number, name: own };
            state.containers.push((made, Some(step), false));
            state.changed = true;
        }
        self.services.insert(name.to_owned(), state);
        Ok(())
    }

    /// A container that stays. One that was made in the place of another by an `up` that did not get
    /// to its end still has its first name; it gets the other's once that is gone.
    fn keep(
        &mut self,
        service_name: &str,
        service: &Service,
        container: &ContainerSummary,
        removed: &[usize],
    ) -> (Container, Option<usize>, bool) {
        let (id, now) = (container.id.clone(), observe::name(container));
        let running = container.state == "running";
        let number = observe::number(container).max(1);
        let own = container_name(self.project, service_name, service, number);
        let prefix = now.strip_suffix(&own).and_then(|p| p.strip_suffix('_'));
        if prefix.is_none_or(|p| p.len() != 12) || label(container, labels::REPLACE).is_empty() {
            return (Container::Known { id, name: now.to_owned() }, None, running);
        }
        let action = Action::Rename { id: id.clone(), from: now.to_owned(), to: own.clone() };
        let step = self.plan.add(action, removed.to_vec());
        (Container::Known { id, name: own }, Some(step), running)
    }

    fn replace(
        &mut self,
        name: &str,
        service: &Service,
        container: &ContainerSummary,
        before: &[usize],
        state: &mut State,
    ) {
        let id = container.id.clone();
        let mut after = before.to_vec();
        after.extend(self.stop_dependents(name));
        let number = observe::number(container).max(1);
        let own = container_name(self.project, name, service, number);
        let order = service.deploy.as_ref().and_then(|d| d.update_config.as_ref());
        let ordered = order.is_some_and(|u| u.order == "start-first");
        // Two containers cannot publish one port at a time, nor bear one name.
        let possible = self.options.start
            && service.ports.is_empty()
            && service.container_name.is_empty()
            && container.state == "running"
            && !service.networks.keys().any(|n| self.renewed.contains(n));
        let action = Action::Recreate {
            service: name.to_owned(),
            number,
            name: own.clone(),
            old: id,
            inherit: !self.options.renew_volumes,
            start_first: ordered && possible,
            timeout: self.options.timeout,
        };
        let step = self.plan.add(action, after);
        let made = Container::Made { service: name.to_owned(), number, name: own };
        state.containers.push((made, Some(step), false));
        state.changed = true;
    }

    /// Those that want to be restarted with a service are stopped before it is replaced.
    fn stop_dependents(&mut self, name: &str) -> Vec<usize> {
        let restarts = |s: &Service| s.depends_on.get(name).is_some_and(|d| d.restart);
        let dependents: Vec<&String> =
            self.project.services.iter().filter(|(_, s)| restarts(s)).map(|(n, _)| n).collect();
        let mut steps = Vec::new();
        for dependent in dependents {
            for container in self.observed.of_service(dependent) {
                if container.state == "running"
                    && self.lost.insert(format!("stopped {}", container.id))
                {
                    steps.push(self.stop(container, Vec::new()));
                }
            }
        }
        steps
    }

    fn is_stopped_by_plan(&self, container: &Container) -> bool {
        match container {
            Container::Known { id, .. } => self.lost.contains(&format!("stopped {id}")),
            Container::Made { .. } => false,
        }
    }

    /// The steps before a service's containers can be made. All networks and volumes are among them,
    /// so that one that cannot be made is told before anything is started.
    fn before(&self, service: &Service) -> Vec<usize> {
        let mut before: Vec<usize> =
            self.networks.values().chain(self.volumes.values()).copied().collect();
        for name in references(service) {
            let state = self.services.get(&name);
            before.extend(state.into_iter().flat_map(|s| s.containers.iter().filter_map(|c| c.1)));
        }
        before.sort_unstable();
        before.dedup();
        before
    }

    fn check_references(&self, name: &str, service: &Service) -> Result<(), PlanError> {
        let missing = |target: &str| {
            target != name
                && self.services.get(target).is_none_or(|s| s.containers.is_empty())
                && self.left_alone(target).is_none()
        };
        for (what, mode) in [
            ("network namespace", &service.network_mode),
            ("IPC namespace", &service.ipc),
            ("PID namespace", &service.pid),
        ] {
            if let Some(target) = mode.strip_prefix("service:").filter(|t| missing(t)) {
                return Err(PlanError::Missing { what, service: target.to_owned() });
            }
        }
        for source in service.volumes_from.iter().filter(|s| !s.starts_with("container:")) {
            let target = source.split(':').next().unwrap_or_default();
            if missing(target) {
                return Err(PlanError::Missing { what: "volume", service: target.to_owned() });
            }
        }
        Ok(())
    }

    /// The steps that start a service's containers, after what it depends on.
    fn start(&mut self, name: &str) {
        let Some(service) = self.project.services.get(name) else { return };
        let mut after = Vec::new();
        for (dependency, how) in &service.depends_on {
            let Some(state) = self.services.get(dependency) else { continue };
            let started = state.started.clone();
            if how.condition == "service_started" || state.containers.is_empty() {
                after.extend(started);
                continue;
            }
            let containers: Vec<Container> = state.containers.iter().map(|c| c.0.clone()).collect();
            for container in containers {
                let action = Action::Wait {
                    dependent: name.to_owned(),
                    service: dependency.clone(),
                    container,
                    condition: how.condition.clone(),
                    required: how.required,
                };
                after.push(self.plan.add(action, started.clone()));
            }
        }
        let Some(state) = self.services.get(name) else { return };
        let mut started = Vec::new();
        for (container, made, running) in state.containers.clone() {
            if running && !self.is_stopped_by_plan(&container) {
                started.push(self.plan.add(Action::Running(container), Vec::new()));
                continue;
            }
            let mut after = after.clone();
            after.extend(made);
            let action = Action::Start { service: name.to_owned(), container };
            started.push(self.plan.add(action, after));
        }
        if let Some(state) = self.services.get_mut(name) {
            state.started = started;
        }
    }

    /// `--wait`. A service that others expect to complete may be over, and one that ends well is
    /// not a failure to them.
    fn wait_for_all(&mut self, order: &[String]) {
        for name in order {
            let completes = self.project.services.values().any(|s| {
                let how = s.depends_on.get(name);
                how.is_some_and(|d| d.condition == "service_completed_successfully")
            });
            let condition =
                if completes { "service_completed_successfully" } else { "running_or_healthy" };
            let Some(state) = self.services.get(name) else { continue };
            let started = state.started.clone();
            let containers: Vec<Container> = state.containers.iter().map(|c| c.0.clone()).collect();
            for container in containers {
                let action = Action::Wait {
                    dependent: String::new(),
                    service: name.clone(),
                    container,
                    condition: condition.to_owned(),
                    required: true,
                };
                self.plan.add(action, started.clone());
            }
        }
    }
}

/// The services whose containers must exist before this one's are made.
fn references(service: &Service) -> Vec<String> {
    let modes = [&service.network_mode, &service.ipc, &service.pid];
    let modes = modes.into_iter().filter_map(|m| m.strip_prefix("service:"));
    let first = |s: &String| s.split(':').next().unwrap_or_default().to_owned();
    let links = service.links.iter().map(first);
    let volumes = service.volumes_from.iter().filter(|s| !s.starts_with("container:")).map(first);
    modes.map(str::to_owned).chain(links).chain(volumes).collect()
}

/// Replaces references to services by references to containers; false when one is not known.
pub(crate) fn resolve(service: &mut Service, id: &dyn Fn(&str) -> Option<String>) -> bool {
    let mut complete = true;
    for mode in [&mut service.network_mode, &mut service.ipc, &mut service.pid] {
        let Some(name) = mode.strip_prefix("service:") else { continue };
        match id(name) {
            Some(id) => *mode = format!("container:{id}"),
            None => complete = false,
        }
    }
    for source in &mut service.volumes_from {
        if let Some(container) = source.strip_prefix("container:") {
            // As stock Compose hashes it: the name alone.
            *source = container.split(':').next().unwrap_or_default().to_owned();
            continue;
        }
        match id(source.split(':').next().unwrap_or_default()) {
            Some(id) => *source = id,
            None => complete = false,
        }
    }
    complete
}
