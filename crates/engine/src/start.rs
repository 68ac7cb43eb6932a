//! Starting a container: everything prepared on a blocking thread, then one message to the launcher.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_keeper::protocol::FaultKind;
use wharf_keeper::{IoConfig, Launch, LaunchError};
use wharf_runtime::cgroup::Cgroup;
use wharf_runtime::{ConsoleSize, Plan, PlanContext, Root};

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::network::Joined;
use crate::record::{self, NetworkMode, Record};
use crate::restart::Restarts;
use crate::spec::mounts::{HostMount, Shm};
use crate::spec::user::ResolvedUser;
use crate::spec::{self, Defaults, Input, Namespace, Namespaces};
use crate::state::{Failure, Run};
use crate::undo::Undo;

/// Who starts a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starter {
    /// A person or program, which ends a stop by hand and begins the count of restarts anew.
    User,
    /// Its restart policy.
    Policy,
}

/// A container ready to be launched. Dropping it takes the preparation back.
struct Prepared {
    launch: Launch,
    undo: Undo,
    /// Keeps the network namespace until the container runs in it.
    _network: Joined,
}

/// What of a container is settled before its plan.
pub(crate) struct Furniture<'a> {
    /// What it calls itself.
    pub(crate) hostname: &'a str,
    /// Its root file system.
    pub(crate) root: Root,
    /// Who runs in it.
    pub(crate) user: &'a ResolvedUser,
    /// The user's mounts and the engine's files.
    pub(crate) mounts: &'a [HostMount],
}

impl Inner {
    pub(crate) async fn start(self: &Arc<Self>, c: &Arc<Container>, by: Starter) -> Result<()> {
        let _turn = c.turn.lock().await;
        self.start_in_turn(c, by).await
    }

    /// The caller holds the container's turn.
    pub(crate) async fn start_in_turn(
        self: &Arc<Self>,
        c: &Arc<Container>,
        by: Starter,
    ) -> Result<()> {
        c.state().may_start(c.id.as_str())?;
        self.settle_intent(c, by)?;
        match self.launch(c).await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.start_failed(c, e).await),
        }
    }

    fn settle_intent(&self, c: &Container, by: Starter) -> Result<()> {
        let life = c.with(|core| {
            if let Some(backoff) = core.backoff.take() {
                backoff.cancel();
            }
            if by == Starter::User {
                core.restarts = Restarts::new();
                core.life.restarts = 0;
                core.life.stopped_by_user = false;
            }
            core.life.clone()
        });
        // An intent that is not stored yet only matters if the daemon dies before the start is.
        match by {
            Starter::User => record::store_life(&self.db, &c.id, &life),
            Starter::Policy => Ok(()),
        }
    }

    async fn launch(self: &Arc<Self>, c: &Arc<Container>) -> Result<()> {
        let container = c.clone();
        let prepared = self.blocking(move |inner| inner.prepare(&container)).await?;
        let Prepared { launch, undo, _network } = prepared;
        let plan = Arc::new(launch.plan.clone());
        let clients = c.with(|core| std::mem::take(&mut core.waiting));
        let clients = clients.into_iter().map(|w| (w.options, w.stream)).collect();
        let launched = match self.launcher.launch(launch, clients).await {
            Ok(launched) => launched,
            Err(e) => {
                // Before the run directory goes: it tells what is to be ended. No program ran, so there is no status.
                self.bury(c).await;
                // Undoing withdraws ports and addresses, which blocks.
                drop(tokio::task::spawn_blocking(move || drop(undo)).await);
                return Err(self.explain(c, e).await);
            }
        };
        undo.disarm();
        let run = Run { pid: launched.started.pid, started: launched.started.at };
        let life = c.with(|core| {
            core.keeper = Some(launched.keeper);
            core.plan = Some(plan);
            core.life.state = std::mem::take(&mut core.life.state).started(run);
            core.life.clone()
        });
        record::store_life(&self.db, &c.id, &life)?;
        c.tell(|news| (news.running, news.error) = (true, String::new()));
        self.tell_mounts(&c.record());
        self.emit(&c.record(), "start", &[]);
        self.tell_linking(&c.record()).await;
        for attached in launched.attached {
            self.watch_attachment(c, attached);
        }
        self.watch_container(c, launched.watch);
        self.begin_health(c);
        Ok(())
    }

    /// Why the program did not run, with Docker's exit code and, where the image tells, what is wrong with it.
    async fn explain(self: &Arc<Self>, c: &Arc<Container>, e: LaunchError) -> EngineError {
        let LaunchError::Fault(fault) = e else {
            return EngineError::system("the container could not be launched", e)
                .with_exit_code(FaultKind::Other.exit_code());
        };
        let container = c.clone();
        let hint = self.blocking(move |inner| Ok(inner.preflight(&container.record()))).await;
        let hint = hint.ok().flatten().map(|h| format!(" ({h})")).unwrap_or_default();
        EngineError::invalid(format!(
            "failed to create task for container: {}{hint}",
            fault.message
        ))
        .with_exit_code(fault.kind.exit_code())
    }

    async fn start_failed(self: &Arc<Self>, c: &Arc<Container>, e: EngineError) -> EngineError {
        let code = e.exit_code().unwrap_or(FaultKind::Other.exit_code());
        let failure = Failure { code, error: e.message() };
        let life = c.with(|core| {
            core.life.state = std::mem::take(&mut core.life.state).start_failed(failure.clone());
            core.waiting.clear();
            core.life.clone()
        });
        if let Err(e) = record::store_life(&self.db, &c.id, &life) {
            tracing::error!(container = %c.id, error = %e.message(), "failed start was not recorded");
        }
        let run_dir = self.run_dir(&c.id);
        drop(std::fs::remove_dir_all(&run_dir));
        c.tell(|news| {
            news.exits += 1;
            (news.code, news.error, news.running) = (code, failure.error, false);
        });
        if c.record().host.auto_remove {
            let removed = self.remove_in_turn(c, true).await;
            if let Err(e) = removed {
                tracing::error!(container = %c.id, error = %e.message(), "container was not removed after its failed start");
            }
        }
        e
    }

    /// Blocks: reads the image, makes network and files, compiles the plan.
    fn prepare(self: &Arc<Self>, c: &Container) -> Result<Prepared> {
        let record = c.record();
        let mut undo = Undo::new();
        let run_dir = self.make_run_dir(&record)?;
        undo.push("remove the run directory", {
            let (inner, of, dir) = (self.clone(), record.clone(), run_dir.clone());
            move || {
                inner.release_shm(&of);
                drop(std::fs::remove_dir_all(dir));
            }
        });
        let network =
            self.join_network(&record, &mut undo).map_err(|e| match record.network_mode() {
                NetworkMode::Container(_) => e,
                _ => EngineError::new(e.kind(), "failed to set up container networking").because(e),
            })?;
        let lowers = self.lowers(&record)?;
        let dir = self.dir(&record.id);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        // With --rm there is no container left after a crash of the machine, and nothing to keep for it.
        let root = Root::Overlay { lowers, upper, work, volatile: record.host.auto_remove };
        let hostname = self.write_files(&record, &network)?;
        let plan = self.plan(&record, &network, &hostname, root)?;
        let log = crate::logs::config(&record, &dir)?;
        if let Some(parent) = log.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            wharf_base::fs::private_dir(parent)
                .map_err(|e| EngineError::system(format!("create {}", parent.display()), e))?;
        }
        let launch =
            Launch { id: record.id.to_string(), plan, io: io_config(&record), log, dir: run_dir };
        Ok(Prepared { launch, undo, _network: network })
    }

    /// The plan of a container that an earlier daemon started, without touching what it runs on.
    pub(crate) fn plan_again(self: &Arc<Self>, c: &Container) -> Result<Plan> {
        let record = c.record();
        let run = c.state().run().ok_or_else(|| EngineError::not_running(c.id.as_str()))?;
        let network = Joined::Other(format!("/proc/{}/ns/net", run.pid).into());
        let root = Root::Dir(self.dir(&record.id).join("upper"));
        self.plan(&record, &network, record.hostname(), root)
    }

    /// The keeper's directory, empty: what an earlier run left there would be taken for this one's.
    fn make_run_dir(&self, record: &Record) -> Result<PathBuf> {
        let dir = self.run_dir(&record.id);
        let failed = |e| EngineError::system(format!("create {}", dir.display()), e);
        self.release_shm(record);
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => (),
        }
        wharf_base::fs::private_dir(&dir).map_err(failed)?;
        Ok(dir)
    }

    /// The layers that the container pinned, top first.
    pub(crate) fn lowers(&self, record: &Record) -> Result<Vec<PathBuf>> {
        self.images.pinned_lowers(record.id.as_str()).ok_or_else(|| {
            EngineError::conflict(format!(
                "the layers of container {} are gone from the image store: remove and create it again",
                record.id.short()
            ))
        })
    }

    fn plan(
        self: &Arc<Self>,
        record: &Record,
        network: &Joined,
        hostname: &str,
        root: Root,
    ) -> Result<Plan> {
        let user = self.user(record, &record.config.user)?;
        let mounts = self.host_mounts(record)?;
        let furniture = Furniture { hostname, root, user: &user, mounts: &mounts };
        self.plan_with(record, network, furniture)
    }

    /// The plan of a container whose root, user and mounts are settled.
    pub(crate) fn plan_with(
        self: &Arc<Self>,
        record: &Record,
        network: &Joined,
        furniture: Furniture<'_>,
    ) -> Result<Plan> {
        let Furniture { hostname, root, user, mounts } = furniture;
        let shm = self.shm(record)?;
        let namespaces = self.namespaces(record, network)?;
        let links = self.link_variables(record);
        let spec = spec::build(Input {
            config: &record.config,
            host: &record.host,
            hostname,
            user,
            mounts,
            shm,
            namespaces: &namespaces,
            links: &links,
            devices: spec::devices::devices(&record.host)?,
            cgroup: self.cgroup_path(record),
            facts: &self.facts,
            defaults: self.defaults(),
        })?;
        let dir = self.dir(&record.id);
        let mut context = PlanContext::new(record.id.as_str(), &dir, root, &self.host);
        context.filters = Some(&self.filters);
        let mut plan = Plan::compile(&spec, &context)
            .map_err(|e| EngineError::invalid("the container cannot be set up").because(e))?;
        plan.reaper = self.wants_init(record);
        Ok(plan)
    }

    pub(crate) fn defaults(&self) -> Defaults<'_> {
        Defaults {
            no_new_privileges: self.config.no_new_privileges,
            ulimits: &self.config.ulimits,
            seccomp: self.config.seccomp_profile.as_ref(),
        }
    }

    pub(crate) fn wants_init(&self, record: &Record) -> bool {
        record.host.init.unwrap_or(self.config.init)
    }

    /// The container's cgroup: absolute in every hierarchy.
    pub(crate) fn cgroup_path(&self, record: &Record) -> PathBuf {
        let parent = match record.host.resources.cgroup_parent.as_str() {
            "" => self.config.cgroup_parent.as_str(),
            own => own,
        };
        Path::new("/").join(parent.trim_start_matches('/')).join(record.id.as_str())
    }

    /// The container's cgroup.
    pub(crate) fn cgroup(&self, record: &Record) -> Cgroup {
        Cgroup::at(&self.host, &self.cgroup_path(record).to_string_lossy())
    }

    fn namespaces(&self, record: &Record, network: &Joined) -> Result<Namespaces> {
        let h = &record.host;
        let join = |mode: &str, kind: &str| -> Result<Namespace> {
            match (mode, mode.strip_prefix("container:")) {
                ("host", _) => Ok(Namespace::Host),
                (_, Some(id)) => Ok(Namespace::Join(self.namespace_of(id, kind)?)),
                _ => Ok(Namespace::New),
            }
        };
        let uts = match (h.uts_mode.as_str(), record.network_mode()) {
            ("host", _) => Namespace::Host,
            // Docker: who shares a container's network shares its name.
            (_, NetworkMode::Container(id)) => Namespace::Join(self.namespace_of(id, "uts")?),
            _ => Namespace::New,
        };
        Ok(Namespaces {
            net: network.namespace(),
            ipc: join(&h.ipc_mode, "ipc")?,
            pid: join(&h.pid_mode, "pid")?,
            uts,
            cgroup: if h.cgroupns_mode == "private" { Namespace::New } else { Namespace::Host },
        })
    }

    /// A namespace of another container, which must run.
    pub(crate) fn namespace_of(&self, id: &str, kind: &str) -> Result<PathBuf> {
        // Docker's answers: a network is in conflict, and the rest fails as part of the start.
        let failed = |why: EngineError| match kind {
            "net" | "uts" => {
                EngineError::conflict(format!("cannot join {kind} namespace")).because(why)
            }
            _ => EngineError::system(
                format!("failed to join {} namespace", kind.to_uppercase()),
                why,
            ),
        };
        let other = self.find(id).map_err(failed)?;
        match other.state().run() {
            Some(run) => Ok(format!("/proc/{}/ns/{kind}", run.pid).into()),
            None => Err(failed(EngineError::not_running(other.id.as_str()))),
        }
    }

    /// `/dev/shm`: private, or a place on the host where others can find it.
    fn shm(&self, record: &Record) -> Result<Shm> {
        match record.host.ipc_mode.as_str() {
            "none" => Ok(Shm::None),
            "host" => Ok(Shm::Shared("/dev/shm".into())),
            "shareable" => self.shared_shm(record).map(Shm::Shared),
            mode => match mode.strip_prefix("container:") {
                Some(id) => self.shm_of(id).map(Shm::Shared),
                None => Ok(Shm::Own(record.host.shm_size)),
            },
        }
    }
}

fn io_config(record: &Record) -> IoConfig {
    let [rows, cols] = record.host.console_size;
    let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let console = ConsoleSize { rows: size(rows), cols: size(cols) };
    IoConfig {
        tty: record.config.tty.then_some(console),
        open_stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
    }
}
