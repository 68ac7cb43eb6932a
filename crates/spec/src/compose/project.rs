//! Profiles, selections and contradictions of a loaded project.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::fault::{Fault, Result};
use super::model::{Project, Service};
use super::node::Node;

/// How far a selection of services reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The services and what they depend on.
    WithDependencies,
    /// The services and what depends on them.
    WithDependents,
    /// The services alone.
    Alone,
}

/// A selection that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectionError {
    /// The service that there is not.
    pub service: String,
}

impl fmt::Display for SelectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such service: {}", self.service)
    }
}

impl std::error::Error for SelectionError {}

impl Project {
    /// Disables the services that none of the profiles asks for.
    pub fn apply_profiles(&mut self, profiles: &[String]) {
        let wanted = |service: &Service| {
            service.profiles.is_empty()
                || profiles.iter().any(|p| p == "*" || service.profiles.contains(p))
        };
        let all = std::mem::take(&mut self.services).into_iter();
        let all = all.chain(std::mem::take(&mut self.disabled));
        (self.services, self.disabled) = all.partition(|(_, service)| wanted(service));
        self.profiles = profiles.to_vec();
    }

    /// Enables the profiles of services that are asked for by name.
    pub fn enable(&mut self, names: &[String]) {
        let hidden = names.iter().filter_map(|n| self.disabled.get(n));
        let more: Vec<String> = hidden.flat_map(|s| s.profiles.clone()).collect();
        if !more.is_empty() {
            let profiles: Vec<String> = self.profiles.iter().cloned().chain(more).collect();
            self.apply_profiles(&profiles);
        }
    }

    /// Fails if a file that an enabled service takes its environment or labels from could not be read.
    pub fn readable(&self) -> std::result::Result<(), &str> {
        let mut broken =
            self.unreadable.iter().filter(|(name, _)| self.services.contains_key(*name));
        broken.next().map_or(Ok(()), |(_, why)| Err(why.as_str()))
    }

    /// Disables all services but those; none means all.
    pub fn select(
        &mut self,
        names: &[String],
        reach: Selection,
    ) -> std::result::Result<(), SelectionError> {
        if names.is_empty() {
            return Ok(());
        }
        let mut kept = BTreeSet::new();
        let mut open: Vec<(String, bool)> = names.iter().map(|n| (n.clone(), true)).collect();
        while let Some((name, required)) = open.pop() {
            let Some(service) = self.services.get(&name) else {
                match required {
                    true => return Err(SelectionError { service: name }),
                    false => continue,
                }
            };
            if !kept.insert(name.clone()) {
                continue;
            }
            match reach {
                Selection::WithDependencies => {
                    open.extend(service.depends_on.iter().map(|(n, dep)| (n.clone(), dep.required)))
                }
                Selection::WithDependents => {
                    open.extend(self.dependents(&name).map(|n| (n.to_owned(), false)));
                }
                Selection::Alone => (),
            }
        }
        let all = std::mem::take(&mut self.services);
        let (enabled, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(name, _)| kept.contains(name));
        self.services = enabled;
        self.disabled.extend(rest);
        for service in self.services.values_mut() {
            service.depends_on.retain(|name, _| kept.contains(name));
        }
        Ok(())
    }

    /// The services that depend on this one.
    pub fn dependents<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let depends = move |s: &Service| s.depends_on.contains_key(name);
        self.services.iter().filter(move |(_, s)| depends(s)).map(|(n, _)| n.as_str())
    }

    /// Drops the networks, volumes, secrets, configs and models that no enabled service uses.
    pub fn drop_unused(&mut self) {
        let mut used: [BTreeSet<String>; 5] = Default::default();
        for service in self.services.values() {
            let [networks, volumes, secrets, configs, models] = &mut used;
            networks.extend(service.networks.keys().cloned());
            let named = service.volumes.iter().filter(|v| v.kind == "volume");
            volumes.extend(named.map(|v| v.source.clone()));
            let build = service.build.iter().flat_map(|b| &b.secrets);
            secrets.extend(service.secrets.iter().chain(build).map(|s| s.source.clone()));
            configs.extend(service.configs.iter().map(|c| c.source.clone()));
            models.extend(service.models.keys().cloned());
        }
        let [networks, volumes, secrets, configs, models] = used;
        self.networks.retain(|name, _| networks.contains(name));
        self.volumes.retain(|name, _| volumes.contains(name));
        self.secrets.retain(|name, _| secrets.contains(name));
        self.configs.retain(|name, _| configs.contains(name));
        self.models.retain(|name, _| models.contains(name));
    }

    /// Names that a service's containers go by; two services with one are a mistake.
    pub fn container_name_clash(&self) -> Option<String> {
        let mut names = BTreeMap::new();
        for (name, service) in &self.services {
            let own = &service.container_name;
            if let Some(other) = (!own.is_empty()).then(|| names.insert(own, name)).flatten() {
                return Some(format!(
                    "services.{name}: container name {own:?} is already in use by service {other}"
                ));
            }
        }
        None
    }
}

/// Looks for contradictions between the parts of a project.
pub(super) fn check(project: &mut Project, tree: &Node) -> Result<()> {
    let at = |name: &str| tree.get("services").and_then(|s| s.get(name)).map(|n| n.key);
    let names: Vec<String> = project.services.keys().cloned().collect();
    for name in &names {
        let place = |mut fault: Fault| {
            fault.span = fault.span.or_else(|| at(name));
            fault
        };
        one(project, name).map_err(place)?;
        let Some(service) = project.services.get_mut(name) else { continue };
        scale(name, service).map_err(place)?;
    }
    for (name, secret) in &project.secrets {
        if !secret.external
            && secret.file.is_empty()
            && secret.environment.is_empty()
            && secret.driver.is_empty()
        {
            return Err(Fault::new(format!(
                "secret {name:?} must declare either `file` or `environment`"
            )));
        }
    }
    for (kind, keys) in [
        ("service", project.services.keys().collect::<Vec<_>>()),
        ("network", project.networks.keys().collect()),
        ("volume", project.volumes.keys().collect()),
    ] {
        if let Some((a, b)) = alike(&keys) {
            return Err(Fault {
                span: tree.get(&format!("{kind}s")).and_then(|s| s.get(b)).map(|n| n.key),
                message: format!(
                    "{kind}s {a:?} and {b:?} differ only in upper and lower case, which DNS does not tell apart: rename one"
                ),
            });
        }
    }
    match cycle(project) {
        Some(path) => Err(Fault {
            span: at(&path[0]),
            message: format!("dependency cycle detected: {}", path.join(" -> ")),
        }),
        None => Ok(()),
    }
}

/// Two names that are the same but for upper and lower case.
fn alike<'n>(names: &[&'n String]) -> Option<(&'n str, &'n str)> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let mut names = names.iter();
    names
        .find_map(|name| seen.insert(name.to_lowercase(), name).map(|other| (other, name.as_str())))
}

fn one(project: &Project, name: &str) -> Result<()> {
    let Some(s) = project.services.get(name) else { return Ok(()) };
    let fail = |what: String| Err(Fault::new(format!("{what}: invalid compose project")));
    if s.build.is_none() && s.image.is_empty() && s.provider.is_none() {
        return fail(format!(
            "service {name:?} has neither an image nor a build context specified"
        ));
    }
    if s.build.as_ref().is_some_and(|b| !b.dockerfile.is_empty() && !b.dockerfile_inline.is_empty())
    {
        return fail(format!(
            "service {name:?} declares mutually exclusive dockerfile and dockerfile_inline"
        ));
    }
    if !s.network_mode.is_empty() && !s.networks.is_empty() {
        return fail(format!(
            "service {name} declares mutually exclusive `network_mode` and `networks`"
        ));
    }
    let missing =
        |what: &str, it: &str| fail(format!("service {name:?} refers to undefined {what} {it}"));
    if let Some(network) = s.networks.keys().find(|n| !project.networks.contains_key(*n)) {
        return missing("network", network);
    }
    let named = s.volumes.iter().filter(|v| v.kind == "volume" && !v.source.is_empty());
    if let Some(volume) = named.map(|v| &v.source).find(|v| !project.volumes.contains_key(*v)) {
        return missing("volume", volume);
    }
    if let Some(config) = s.configs.iter().find(|c| !project.configs.contains_key(&c.source)) {
        return missing("config", &config.source);
    }
    let build_secrets = s.build.iter().flat_map(|b| &b.secrets);
    if let Some(secret) =
        build_secrets.chain(&s.secrets).find(|c| !project.secrets.contains_key(&c.source))
    {
        return missing("secret", &secret.source);
    }
    if let Some(model) = s.models.keys().find(|m| !project.models.contains_key(*m)) {
        return missing("model", model);
    }
    for (dependency, how) in &s.depends_on {
        let optional = !how.required && project.disabled.contains_key(dependency);
        if !project.services.contains_key(dependency) && !optional {
            return fail(format!("service {name:?} depends on undefined service {dependency:?}"));
        }
    }
    let test = s.healthcheck.as_ref().and_then(|h| h.test.first());
    if test.is_some_and(|t| !matches!(t.as_str(), "CMD" | "CMD-SHELL" | "NONE")) {
        return Err(Fault::new(
            "healthcheck.test must start either by \"CMD\", \"CMD-SHELL\" or \"NONE\"",
        ));
    }
    for watch in s.develop.iter().flat_map(|d| &d.watch) {
        if watch.target.is_empty() && !matches!(watch.action.as_str(), "rebuild" | "restart") {
            return fail(format!(
                "services.{name}.develop.watch: target is required for non-rebuild actions"
            ));
        }
    }
    targets(name, s)
}

/// No two things can be mounted at one place.
fn targets(name: &str, s: &Service) -> Result<()> {
    let tmpfs = s.tmpfs.iter().enumerate().map(|(at, t)| {
        (t.split(':').next().unwrap_or_default(), format!("services.{name}.tmpfs[{at}]"))
    });
    let volumes = s.volumes.iter().enumerate();
    let volumes =
        volumes.map(|(at, v)| (v.target.as_str(), format!("services.{name}.volumes[{at}]")));
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    for (target, location) in tmpfs.chain(volumes) {
        if let Some(first) = seen.get(target) {
            let text = format!("{location}: target {target} already mounted as {first}");
            return Err(Fault::new(text));
        }
        seen.insert(target, location);
    }
    Ok(())
}

fn scale(name: &str, s: &mut Service) -> Result<()> {
    let fail = |what: String| Err(Fault::new(format!("{what}: invalid compose project")));
    let distinct = |a: &str, b: &str| {
        fail(format!("services.{name}: can't set distinct values on '{a}' and '{b}'"))
    };
    if let (Some(scale), Some(deploy)) = (s.scale, &mut s.deploy) {
        if deploy.replicas.is_some_and(|r| r != scale) {
            return distinct("scale", "deploy.replicas");
        }
        deploy.replicas = Some(scale);
    }
    if s.replicas() < 0 {
        let what = if s.scale.is_some() { "scale" } else { "deploy.replicas" };
        return Err(Fault::new(format!(
            "services.{name}.{what}: must be greater than or equal to 0"
        )));
    }
    if s.replicas() > 1 && !s.container_name.is_empty() {
        let what = if s.scale.is_some() { "scale" } else { "deploy.replicas" };
        return fail(format!(
            "services.{name}: can't set container_name and {what} as container name must be unique"
        ));
    }
    let resources = s.deploy.as_ref().map(|d| &d.resources);
    if let Some(limits) = resources.and_then(|r| r.limits.as_ref()) {
        if s.cpus != 0.0 && limits.cpus.to_bits() != s.cpus.to_bits() {
            return distinct("cpus", "deploy.resources.limits.cpus");
        }
        if s.mem_limit.0 != 0 && limits.memory != s.mem_limit {
            return distinct("mem_limit", "deploy.resources.limits.memory");
        }
        if s.pids_limit != 0 && limits.pids != s.pids_limit {
            return distinct("pids_limit", "deploy.resources.limits.pids");
        }
    }
    let reserved = resources.and_then(|r| r.reservations.as_ref());
    if reserved.is_some_and(|r| s.mem_reservation.0 != 0 && r.memory != s.mem_reservation) {
        return distinct("mem_reservation", "deploy.resources.reservations.memory");
    }
    Ok(())
}

/// A cycle of dependencies, from a service back to itself.
fn cycle(project: &Project) -> Option<Vec<String>> {
    fn visit<'p>(
        project: &'p Project,
        name: &'p str,
        path: &mut Vec<&'p str>,
        done: &mut BTreeSet<&'p str>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|p| *p == name) {
            let cycle = path[at..].iter().chain([&name]);
            return Some(cycle.map(|n| (*n).to_owned()).collect());
        }
        if done.contains(name) {
            return None;
        }
        path.push(name);
        let dependencies = project.services.get(name).into_iter().flat_map(|s| s.depends_on.keys());
        for dependency in dependencies {
            if let Some(found) = visit(project, dependency, path, done) {
                return Some(found);
            }
        }
        path.pop();
        done.insert(name);
        None
    }
    let mut done = BTreeSet::new();
    project.services.keys().find_map(|name| visit(project, name, &mut Vec::new(), &mut done))
}
