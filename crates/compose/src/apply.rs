//! Doing what a plan says: as many steps at once as their order allows.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use wharf_spec::compose::Project;
use wharf_spec::compose::model::{Hook, Service};
use wharf_spec::docker::{
    ExecCreateRequest, ImageInspect, Ipam, IpamConfig, NetworkCreateRequest, VolumeCreateRequest,
};

use crate::create::{self, Context};
use crate::engine::{Answer, Engine, EngineError, Until};
use crate::labels;
use crate::links::{self, Made};
use crate::mounts::{self, Inherited};
use crate::observe::{self, Observed};
use crate::plan::up::resolve;
use crate::plan::{Action, Container, Plan, PlanError};

/// How a thing is getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Something is being done to it.
    Working,
    /// It is as it should be.
    Done,
    /// It is not, and that does not matter.
    Warning,
    /// It is not.
    Failed,
}

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about, such as `Container shop-web-1`.
    pub subject: String,
    /// How that is getting on.
    pub status: Status,
    /// In a word, such as `Starting`.
    pub text: String,
}

/// Who is told how things go.
pub trait Progress {
    /// Takes one piece of news.
    fn event(&self, event: Event);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}

/// Why a plan was not carried out to its end. What was done stays; the next plan goes on from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A service cannot be made as it is written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A dependency did not become what its dependent needs.
    #[error("dependency failed to start: {0}")]
    Dependency(String),
    /// A service that should have completed did not.
    #[error("service {service:?} didn't complete successfully: exit {status}")]
    Incomplete {
        /// The service.
        service: String,
        /// Its exit status.
        status: i64,
    },
    /// A container is not what it was waited for to become.
    #[error("{0}")]
    Unready(String),
    /// A hook of a service failed.
    #[error("{service} hook exited with status {status}")]
    Hook {
        /// The service.
        service: String,
        /// Its exit status.
        status: i64,
    },
    /// A secret or config could not be packed.
    #[error("cannot pack the secrets of {0}")]
    Pack(String),
}

/// Everything a plan is carried out with.
pub struct Run<'a, E, P> {
    /// The engine.
    pub engine: &'a E,
    /// The project.
    pub project: &'a Project,
    /// What there was when the plan was made.
    pub observed: &'a Observed,
    /// Who is told.
    pub progress: &'a P,
    /// Variables for every container, such as those of proxies.
    pub environment: BTreeMap<String, Option<String>>,
    /// Labels for every container.
    pub labels: BTreeMap<String, String>,
    /// Security profiles by their file name.
    pub profiles: BTreeMap<String, String>,
    /// How many steps run at a time; 0 for as many as there are.
    pub parallel: usize,
    /// The containers as they become.
    made: RefCell<Made>,
}

impl<'a, E: Engine, P: Progress> Run<'a, E, P> {
    /// A run that knows the containers that there are.
    pub fn new(
        engine: &'a E,
        project: &'a Project,
        observed: &'a Observed,
        progress: &'a P,
    ) -> Self {
        let mut made = Made::new();
        for container in observed.containers.iter().filter(|c| !observe::is_oneoff(c)) {
            let service = observe::label(container, labels::SERVICE).to_owned();
            let entry = (container.id.clone(), observe::name(container).to_owned());
            made.entry(service).or_default().insert(observe::number(container), entry);
        }
        Self {
            engine,
            project,
            observed,
            progress,
            environment: BTreeMap::new(),
            labels: BTreeMap::new(),
            profiles: BTreeMap::new(),
            parallel: 0,
            made: RefCell::new(made),
        }
    }

    /// Carries a plan out. The first failure ends it once the steps that have begun are over.
    pub async fn run(&self, plan: &Plan) -> Result<(), ApplyError> {
        let mut waiting: Vec<usize> = plan.steps.iter().map(|s| s.after.len()).collect();
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); plan.steps.len()];
        for (at, step) in plan.steps.iter().enumerate() {
            step.after.iter().for_each(|before| followers[*before].push(at));
        }
        let mut ready: std::collections::VecDeque<usize> =
            (0..plan.steps.len()).filter(|at| waiting[*at] == 0).collect();
        let limit = if self.parallel == 0 { usize::MAX } else { self.parallel };
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        loop {
            while failure.is_none() && running.len() < limit {
                let Some(at) = ready.pop_front() else { break };
                running.push(async move { (at, self.step(&plan.steps[at].action).await) });
            }
            let Some((at, result)) = running.next().await else { break };
            match result {
                Ok(()) => {
                    for follower in &followers[at] {
                        waiting[*follower] -= 1;
                        if waiting[*follower] == 0 {
                            ready.push_back(*follower);
                        }
                    }
                }
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn tell(&self, subject: &str, status: Status, text: &str) {
        let (subject, text) = (subject.to_owned(), text.to_owned());
        self.progress.event(Event { subject, status, text });
    }

    /// Tells that something begins, does it, and tells how it ended.
    async fn told<T>(
        &self,
        subject: String,
        [begin, end]: [&str; 2],
        work: impl Future<Output = Result<T, ApplyError>>,
    ) -> Result<T, ApplyError> {
        self.tell(&subject, Status::Working, begin);
        let result = work.await;
        match &result {
            Ok(_) => self.tell(&subject, Status::Done, end),
            Err(error) => self.tell(&subject, Status::Failed, &error.to_string()),
        }
        result
    }

    async fn step(&self, action: &Action) -> Result<(), ApplyError> {
        let engine = self.engine;
        match action {
            Action::CreateNetwork(key) => self.create_network(key).await,
            Action::RemoveNetwork { id, name } => self.remove_network(id, name).await,
            Action::Disconnect { network, container } => {
                Ok(gone(engine.disconnect(network, container).await)?)
            }
            Action::CreateVolume(key) => self.create_volume(key).await,
            Action::RemoveVolume(name) => {
                let work = async { Ok(gone(engine.remove_volume(name).await)?) };
                self.told(format!("Volume {name}"), ["Removing", "Removed"], work).await
            }
            Action::RemoveImage(name) => {
                let work = async { Ok(gone(engine.remove_image(name).await)?) };
                self.told(format!("Image {name}"), ["Removing", "Removed"], work).await
            }
            Action::Create { service, number, name } => {
                let work = self.create(service, *number, name, name, None);
                let work = async { work.await.map(|id| self.remember(service, *number, id, name)) };
                self.told(format!("Container {name}"), ["Creating", "Created"], work).await
            }
            Action::Recreate { name, .. } => {
                let work = self.recreate(action);
                self.told(format!("Container {name}"), ["Recreate", "Recreated"], work).await
            }
            Action::Rename { id, to, .. } => Ok(engine.rename(id, to).await?),
            Action::Start { service, container } => self.start(service, container).await,
            Action::Running(container) => {
                self.tell(&format!("Container {}", container.name()), Status::Done, "Running");
                Ok(())
            }
            Action::Stop { id, name, service, timeout } => {
                let work = async {
                    self.hooks(id, service, |s| &s.pre_stop).await?;
                    Ok(gone(engine.stop(id, *timeout).await)?)
                };
                self.told(format!("Container {name}"), ["Stopping", "Stopped"], work).await
            }
            Action::Remove { id, name, volumes } => {
                let work = async { Ok(gone(engine.remove(id, true, *volumes).await)?) };
                self.told(format!("Container {name}"), ["Removing", "Removed"], work).await
            }
            Action::Wait { .. } => self.wait(action).await,
        }
    }

    fn remember(&self, service: &str, number: i64, id: String, name: &str) {
        let mut made = self.made.borrow_mut();
        made.entry(service.to_owned()).or_default().insert(number, (id, name.to_owned()));
    }

    /// The id of a service's container that was made or found; of the first when there are more.
    pub fn id_of(&self, service: &str, number: Option<i64>) -> Option<String> {
        let made = self.made.borrow();
        let containers = made.get(service)?;
        let found = match number {
            Some(number) => containers.get(&number),
            None => containers.values().next(),
        };
        found.map(|(id, _)| id.clone())
    }

    fn id(&self, container: &Container) -> Result<String, ApplyError> {
        match container {
            Container::Known { id, .. } => Ok(id.clone()),
            Container::Made { service, number, name } => self
                .id_of(service, Some(*number))
                .ok_or_else(|| EngineError::NotFound(format!("no such container: {name}")).into()),
        }
    }

    async fn remove_network(&self, id: &str, name: &str) -> Result<(), ApplyError> {
        let subject = format!("Network {name}");
        self.tell(&subject, Status::Working, "Removing");
        match gone(self.engine.remove_network(id).await) {
            Ok(()) => self.tell(&subject, Status::Done, "Removed"),
            // Somebody else's container is still in it.
            Err(EngineError::Conflict(why)) => {
                let text = format!("Resource is still in use: {why}");
                self.tell(&subject, Status::Warning, &text);
            }
            Err(error) => {
                self.tell(&subject, Status::Failed, &error.to_string());
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn create_network(&self, key: &str) -> Result<(), ApplyError> {
        let Some(network) = self.project.networks.get(key) else { return Ok(()) };
        let mut labels = network.labels.0.clone();
        for (label, value) in [
            (labels::NETWORK, key),
            (labels::PROJECT, &self.project.name),
            (labels::VERSION, labels::COMPOSE_VERSION),
            (labels::CONFIG_HASH, &network.hash()),
        ] {
            labels.insert(label.to_owned(), value.to_owned());
        }
        let pools = network.ipam.config.iter().map(|pool| IpamConfig {
            subnet: pool.subnet.clone(),
            ip_range: pool.ip_range.clone(),
            gateway: pool.gateway.clone(),
            auxiliary_addresses: Some(pool.aux_addresses.0.clone()).filter(|a| !a.is_empty()),
        });
        let ipam = !network.ipam.driver.is_empty() || !network.ipam.config.is_empty();
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: network.driver.clone(),
            enable_ipv4: network.enable_ipv4,
            enable_ipv6: network.enable_ipv6,
            ipam: ipam.then(|| Ipam {
                driver: network.ipam.driver.clone(),
                options: None,
                config: Some(pools.collect()),
            }),
            internal: network.internal,
            attachable: network.attachable,
            options: Some(network.driver_opts.0.clone()).filter(|o| !o.is_empty()),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        let work = async {
            match self.engine.create_network(&request).await {
                // Another up of the same project may have been faster.
                Err(EngineError::Conflict(why)) => {
                    let found = self.engine.network(&network.name).await?;
                    let own = found
                        .is_some_and(|n| n.labels.get(labels::PROJECT) == Some(&self.project.name));
                    if own { Ok(()) } else { Err(EngineError::Conflict(why).into()) }
                }
                other => Ok(other.map(drop)?),
            }
        };
        self.told(format!("Network {}", network.name), ["Creating", "Created"], work).await
    }

    async fn create_volume(&self, key: &str) -> Result<(), ApplyError> {
        let Some(volume) = self.project.volumes.get(key) else { return Ok(()) };
        let mut labels = volume.labels.0.clone();
        for (label, value) in [
            (labels::VOLUME, key),
            (labels::PROJECT, &self.project.name),
            (labels::VERSION, labels::COMPOSE_VERSION),
            (labels::CONFIG_HASH, &volume.hash()),
        ] {
            labels.insert(label.to_owned(), value.to_owned());
        }
        let request = VolumeCreateRequest {
            name: volume.name.clone(),
            driver: volume.driver.clone(),
            driver_opts: Some(volume.driver_opts.0.clone()).filter(|o| !o.is_empty()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        let work = async { Ok(self.engine.create_volume(&request).await?) };
        self.told(format!("Volume {}", volume.name), ["Creating", "Created"], work).await
    }

    /// A service with its references replaced by containers that exist.
    pub fn resolved(&self, name: &str) -> Result<Service, ApplyError> {
        let missing = || EngineError::NotFound(format!("no such service: {name}"));
        let mut service = self.project.services.get(name).ok_or_else(missing)?.clone();
        let complete = resolve(&mut service, &|name| self.id_of(name, None));
        match complete {
            true => Ok(service),
            false => {
                Err(PlanError::Missing { what: "namespaces", service: name.to_owned() }.into())
            }
        }
    }

    /// What the requests for a service's containers have in common.
    pub fn context(&self, name: &str, service: &Service, number: i64) -> Context {
        let image = service.image_or_default(&self.project.name, name);
        let image = self.observed.images.get(&image).map(|i| i.id.clone()).unwrap_or_default();
        let mut environment = self.environment.clone();
        environment.extend(links::variables(self.project, service, &self.observed.images));
        Context {
            image,
            links: links::of(self.project, service, number, &self.made.borrow()),
            environment,
            labels: self.labels.clone(),
            oneoff: None,
            profiles: self.profiles.clone(),
        }
    }

    /// Makes a container under a name that may not be its last one, and returns its id.
    async fn create(
        &self,
        service_name: &str,
        number: i64,
        name: &str,
        last: &str,
        old: Option<(&str, bool)>,
    ) -> Result<String, ApplyError> {
        let service = self.resolved(service_name)?;
        let mut context = self.context(service_name, &service, number);
        if old.is_some() {
            let project = format!("{}{}", self.project.name, create::separator(self.project));
            let replaced = last.strip_prefix(&project).unwrap_or(last);
            context.labels.insert(labels::REPLACE.to_owned(), replaced.to_owned());
        }
        let before = old
            .filter(|(_, inherit)| *inherit)
            .and_then(|(id, _)| self.observed.containers.iter().find(|c| c.id == id));
        let image =
            self.observed.images.get(&service.image_or_default(&self.project.name, service_name));
        let declared = declared_volumes(image);
        let inherited = match before {
            Some(before) => Inherited { mounts: &before.mounts, declared: &declared },
            None => Inherited::default(),
        };
        let request =
            create::request(self.project, service_name, &service, number, &context, inherited)?;
        let (id, warnings) = self.engine.create(name, &service.platform, &request).await?;
        for warning in warnings {
            self.tell(service_name, Status::Warning, &warning);
        }
        Ok(id)
    }

    async fn recreate(&self, action: &Action) -> Result<(), ApplyError> {
        let Action::Recreate { service, number, name, old, inherit, start_first, timeout } = action
        else {
            return Ok(());
        };
        let short: String = old.chars().take(12).collect();
        let temporary = format!("{short}_{name}");
        let id = self.create(service, *number, &temporary, name, Some((old, *inherit))).await?;
        if *start_first {
            self.launch(service, &id).await?;
            let state = self.engine.until(&id, Until::Probed).await?;
            if let Some(why) = unready(&state, true) {
                // The old one still serves; the new one goes.
                self.engine.remove(&id, true, true).await?;
                return Err(ApplyError::Unready(why));
            }
        }
        self.hooks(old, service, |s| &s.pre_stop).await?;
        gone(self.engine.stop(old, *timeout).await)?;
        gone(self.engine.remove(old, false, false).await)?;
        self.engine.rename(&id, name).await?;
        self.remember(service, *number, id, name);
        Ok(())
    }

    async fn start(&self, service: &str, container: &Container) -> Result<(), ApplyError> {
        let id = self.id(container)?;
        let work = self.launch(service, &id);
        self.told(format!("Container {}", container.name()), ["Starting", "Started"], work).await
    }

    /// Starts a container with its secrets and hooks.
    async fn launch(&self, name: &str, id: &str) -> Result<(), ApplyError> {
        if let Some(service) = self.project.services.get(name) {
            self.inject(name, service, id).await?;
        }
        self.engine.start(id).await?;
        self.hooks(id, name, |s| &s.post_start).await
    }

    /// Puts secrets and configs that are no files of the host into a container.
    pub async fn inject(&self, name: &str, service: &Service, id: &str) -> Result<(), ApplyError> {
        let archive = mounts::carried(self.project, service)
            .map_err(|_| ApplyError::Pack(name.to_owned()))?;
        match archive {
            Some(archive) => Ok(self.engine.upload(id, "/", archive).await?),
            None => Ok(()),
        }
    }

    async fn hooks(
        &self,
        id: &str,
        name: &str,
        of: impl Fn(&Service) -> &Vec<Hook>,
    ) -> Result<(), ApplyError> {
        let Some(service) = self.project.services.get(name) else { return Ok(()) };
        for hook in of(service) {
            let status = self.engine.exec(id, &exec_of(hook)).await?;
            if status != 0 {
                return Err(ApplyError::Hook { service: name.to_owned(), status });
            }
        }
        Ok(())
    }

    async fn wait(&self, action: &Action) -> Result<(), ApplyError> {
        let Action::Wait { dependent, service, container, condition, required } = action else {
            return Ok(());
        };
        let id = self.id(container)?;
        let subject = format!("Container {}", container.name());
        self.tell(&subject, Status::Working, "Waiting");
        let (done, failed) = match condition.as_str() {
            "service_completed_successfully" => {
                let state = self.engine.until(&id, Until::Stopped).await?;
                let status = state.state.exit_code;
                let failed = (status != 0)
                    .then(|| ApplyError::Incomplete { service: service.clone(), status });
                ("Exited", failed)
            }
            condition => {
                let lenient = condition == "running_or_healthy";
                let state = self.engine.until(&id, Until::Probed).await?;
                let why = unready(&state, lenient);
                let wrap = |why: String| match dependent.is_empty() {
                    true => ApplyError::Unready(why),
                    false => ApplyError::Dependency(why),
                };
                ("Healthy", why.map(wrap))
            }
        };
        match failed {
            None => self.tell(&subject, Status::Done, done),
            Some(error) if *required => {
                self.tell(&subject, Status::Failed, &error.to_string());
                return Err(error);
            }
            Some(error) => {
                let text = format!("optional dependency {service:?} failed to start: {error}");
                self.tell(&subject, Status::Warning, &text);
            }
        }
        Ok(())
    }
}

/// A hook as the command that runs it.
pub fn exec_of(hook: &Hook) -> ExecCreateRequest {
    let environment = hook.environment.0.iter();
    let environment = environment.filter_map(|(k, v)| Some(format!("{k}={}", v.as_ref()?)));
    ExecCreateRequest {
        user: hook.user.clone(),
        privileged: hook.privileged,
        working_dir: hook.working_dir.clone(),
        env: Some(environment.collect()),
        cmd: hook.command.0.clone(),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecCreateRequest::default()
    }
}

/// What is gone already need not be removed.
fn gone(answer: Answer<()>) -> Answer<()> {
    match answer {
        Err(EngineError::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// Why a container that was waited for is not healthy, or not running where that is enough.
pub fn unready(container: &wharf_spec::docker::ContainerInspect, lenient: bool) -> Option<String> {
    let name = container.name.trim_start_matches('/');
    let state = &container.state;
    if !state.running {
        return Some(format!("container {name} exited ({})", state.exit_code));
    }
    match state.health.as_ref().map(|h| h.status.as_str()) {
        Some("healthy") => None,
        None | Some("none" | "") if lenient => None,
        None | Some("none" | "") => Some(format!("container {name} has no healthcheck configured")),
        Some("unhealthy") => Some(format!("container {name} is unhealthy")),
        Some(other) => Some(format!("container {name} had unexpected health status {other:?}")),
    }
}

fn declared_volumes(image: Option<&ImageInspect>) -> Vec<String> {
    let config = image.and_then(|i| i.config.as_ref());
    let volumes = config.and_then(|c| c.volumes.as_ref());
    volumes.into_iter().flat_map(|v| v.keys().cloned()).collect()
}
