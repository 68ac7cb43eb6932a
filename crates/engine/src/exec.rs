//! Further processes in running containers.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use wharf_base::Id;
use wharf_base::db::Batch;
use wharf_base::fs::Durability;
use wharf_base::sync::Mutex;
use wharf_keeper::client::{Exec as Running, ExecError};
use wharf_keeper::protocol::{ExecIo, ExecRequest, Exit, FaultKind};
use wharf_keeper::{AttachOptions, IoConfig, Slow};
use wharf_runtime::{ConsoleSize, ExecPlan, Plan};
use wharf_spec::docker;

use crate::attach::{pair, session};
use crate::container::Container;
use crate::detach::DetachKeys;
use crate::error::{EngineError, Kind, Result};
use crate::inner::Inner;
use crate::options::{ExecStart, Session};
use crate::record::Record;
use crate::spec::{self, ExecInput};
use crate::step::Frames;

const KILL: i32 = 9;
/// How long a finished exec can still be inspected.
const KEEP: Duration = Duration::from_secs(300);

/// Requests of execs that run, by exec id: what a daemon that takes over needs to go on with them.
const RUNNING: &str = "execs";

/// As stored in [`RUNNING`].
#[derive(Serialize, Deserialize)]
struct Stored {
    container: Id,
    request: docker::ExecCreateRequest,
}

/// The execs of all containers, by id.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Arc<Exec>>>);

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    id: String,
    container: Arc<Container>,
    request: docker::ExecCreateRequest,
    state: Mutex<ExecState>,
}

/// Where an exec is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ExecState {
    Created,
    Starting,
    Running { pid: i32 },
    Ended { pid: i32, code: i32, at: Instant },
}

impl Execs {
    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        self.0.lock().get(id).cloned().ok_or_else(|| EngineError::no_such_exec(id))
    }

    /// Forgets what ended long ago.
    fn collect(&self, now: Instant) {
        self.0.lock().retain(|_, exec| match *exec.state.lock() {
            ExecState::Ended { at, .. } => now.duration_since(at) < KEEP,
            _ => true,
        });
    }
}

impl Inner {
    pub(crate) async fn exec_create(
        self: &Arc<Self>,
        c: &Arc<Container>,
        request: docker::ExecCreateRequest,
    ) -> Result<String> {
        c.active_keeper().map_err(|e| not_running(c, e))?;
        if request.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(EngineError::invalid("No exec command specified"));
        }
        if !request.user.is_empty() {
            // The accounts may change before the start, which looks again; most mistakes are told here.
            let (record, user) = (c.record(), request.user.clone());
            self.blocking(move |inner| inner.user(&record, &user)).await?;
        }
        DetachKeys::parse(request.detach_keys.as_deref().unwrap_or_default())?;
        self.execs.collect(self.clock.instant());
        let id = Id::random().to_string();
        let exec = Exec {
            id: id.clone(),
            container: c.clone(),
            request,
            state: Mutex::new(ExecState::Created),
        };
        self.emit_exec(&exec, "exec_create", &[]);
        self.execs.0.lock().insert(id.clone(), Arc::new(exec));
        c.with(|core| core.execs.push(id.clone()));
        Ok(id)
    }

    pub(crate) async fn exec_start(
        self: &Arc<Self>,
        id: &str,
        options: ExecStart,
    ) -> Result<Option<Session>> {
        let exec = self.execs.find(id)?;
        exec.container.active_keeper().map_err(|e| not_running(&exec.container, e))?;
        exec.take_off()?;
        self.emit_exec(&exec, "exec_start", &[]);
        let size = options.console_size.or(exec.request.console_size);
        if options.detach {
            return match self.exec_run(&exec, size, None).await {
                Ok(()) => Ok(None),
                Err(e) => {
                    Err(EngineError::invalid(format!("OCI runtime exec failed: {}", e.message())))
                }
            };
        }
        let (ours, theirs) = pair()?;
        let attached = session(ours, exec.request.tty)?;
        let attached = self.exec_attached(exec, size, theirs, attached);
        Ok(Some(spoken(attached, options.tty)))
    }

    /// The session is there at once; a process that cannot be started says so in it. Nothing starts before the
    /// output is asked for: by then the client has been told that its connection changes, and output in one packet
    /// with that would be lost by clients that read the head through a buffer, such as docker-py.
    fn exec_attached(
        self: &Arc<Self>,
        exec: Arc<Exec>,
        size: Option<[u32; 2]>,
        stream: OwnedFd,
        attached: Session,
    ) -> Session {
        let (asked, begin) = tokio::sync::oneshot::channel::<()>();
        let (tx, rx) = tokio::sync::oneshot::channel();
        let inner = self.clone();
        let tty = exec.request.tty;
        self.spawn(async move {
            _ = begin.await; // A client that is gone by now has started it all the same.
            let failed = inner.exec_run(&exec, size, Some(stream)).await.err();
            drop(tx.send(failed.map(|e| format!("OCI runtime exec failed: {}\r\n", e.message()))));
        });
        let begun = futures_util::stream::once(async move { asked.send(()) });
        let failure = futures_util::stream::once(rx).filter_map(move |text| async move {
            let text = text.ok().flatten()?;
            Some(Ok(if tty { text.into() } else { frame(text.as_bytes()) }))
        });
        let output = begun.filter_map(|_| async { None }).chain(attached.output).chain(failure);
        Session { output: output.boxed(), ..attached }
    }

    async fn exec_run(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        size: Option<[u32; 2]>,
        stream: Option<OwnedFd>,
    ) -> Result<()> {
        self.remember(exec)?;
        match self.exec_launch(exec, size, stream).await {
            Ok(running) => {
                exec.set(ExecState::Running { pid: running.pid });
                self.watch_exec(exec.clone(), running);
                Ok(())
            }
            Err(e) => {
                let code = e.exit_code().unwrap_or(FaultKind::NotExecutable.exit_code());
                exec.set(ExecState::Ended { pid: 0, code, at: self.clock.instant() });
                self.forget_exec(&exec.id);
                self.emit_exec(exec, "exec_die", &[("exitCode", &code.to_string())]);
                Err(e)
            }
        }
    }

    async fn exec_launch(
        self: &Arc<Self>,
        exec: &Arc<Exec>,
        size: Option<[u32; 2]>,
        stream: Option<OwnedFd>,
    ) -> Result<Running> {
        let keeper = exec.container.active_keeper()?;
        let record = exec.container.record();
        let of = exec.clone();
        let base = self.plan_of(&exec.container).await?;
        let plan = self.blocking(move |inner| inner.exec_plan(&record, &base, &of.request)).await?;
        let r = &exec.request;
        let keys = DetachKeys::parse(r.detach_keys.as_deref().unwrap_or_default())?;
        let attach = stream.as_ref().map(|_| AttachOptions {
            stdin: r.attach_stdin,
            stdout: r.attach_stdout,
            stderr: r.attach_stderr,
            detach_keys: keys.into_bytes(),
            slow: Slow::Hold,
        });
        let io = IoConfig {
            tty: r.tty.then(|| console(size)),
            open_stdin: r.attach_stdin,
            stdin_once: true,
        };
        let request = ExecRequest { id: exec.id.clone(), plan, io: ExecIo::Kept { io, attach } };
        let fds: Vec<OwnedFd> = stream.into_iter().collect();
        keeper.exec(request, &fds).await.map_err(|e| match e {
            ExecError::Fault(fault) => {
                EngineError::invalid(fault.message.clone()).with_exit_code(fault.kind.exit_code())
            }
            other => EngineError::system("start a process in the container", other),
        })
    }

    fn watch_exec(self: &Arc<Self>, exec: Arc<Exec>, mut running: Running) {
        let inner = self.clone();
        self.spawn(async move {
            let code = match running.ended().await {
                Ok(Exit { code, .. }) => code,
                // The container ended, and its keeper with it.
                Err(_) => 137,
            };
            inner.forget_exec(&exec.id);
            inner.exec_ended(&exec, running.pid, code);
        });
    }

    fn remember(&self, exec: &Exec) -> Result<()> {
        let (container, request) = (exec.container.id.clone(), exec.request.clone());
        let mut batch = Batch::new();
        batch.put(RUNNING, &exec.id, &Stored { container, request })?;
        Ok(self.db.write(batch, Durability::Process)?)
    }

    fn forget_exec(&self, id: &str) {
        let mut batch = Batch::new();
        batch.delete(RUNNING, id);
        if let Err(e) = self.db.write(batch, Durability::Process) {
            tracing::error!(exec = id, error = %wharf_base::error::chain(&e), "exec was not forgotten");
        }
    }

    /// Goes on with the execs that an earlier daemon started. A probe among them has nobody left who waits for it
    /// and would run for ever if it hangs: it is ended.
    pub(crate) async fn adopt_execs(
        self: &Arc<Self>,
        c: &Arc<Container>,
        keeper: &wharf_keeper::Keeper,
        told: &[wharf_keeper::protocol::ExecState],
    ) -> Result<()> {
        for one in told {
            let stored: Option<Stored> = self.db.get(RUNNING, &one.id)?;
            if stored.is_none() && one.exit.is_none() {
                drop(keeper.exec_signal(&one.id, KILL).await);
            }
            let running = keeper
                .exec_watch(&one.id, one.pid)
                .await
                .map_err(|e| EngineError::system("watch a process in a container", e))?;
            let request = match stored {
                Some(stored) => stored.request,
                None => {
                    self.collect_probe(running);
                    continue;
                }
            };
            let exec = Arc::new(Exec {
                id: one.id.clone(),
                container: c.clone(),
                request,
                state: Mutex::new(ExecState::Running { pid: one.pid }),
            });
            self.execs.0.lock().insert(one.id.clone(), exec.clone());
            c.with(|core| core.execs.push(one.id.clone()));
            self.watch_exec(exec, running);
        }
        Ok(())
    }

    /// Takes the result of a probe that nobody waits for, so that the keeper forgets it.
    fn collect_probe(self: &Arc<Self>, mut running: Running) {
        self.spawn(async move { drop(running.ended().await) });
    }

    /// Forgets execs that no keeper told of: they ended with their container.
    pub(crate) fn forget_ended_execs(&self) -> Result<()> {
        for (id, _) in self.db.scan::<Stored>(RUNNING)? {
            if self.execs.find(&id).is_err() {
                self.forget_exec(&id);
            }
        }
        Ok(())
    }

    fn exec_ended(&self, exec: &Exec, pid: i32, code: i32) {
        exec.set(ExecState::Ended { pid, code, at: self.clock.instant() });
        exec.container.with(|core| core.execs.retain(|id| *id != exec.id));
        self.emit_exec(exec, "exec_die", &[("exitCode", &code.to_string())]);
    }

    /// Runs `command` in the container as a probe does: without a terminal, its output collected by the caller.
    pub(crate) async fn exec_probe(
        self: &Arc<Self>,
        c: &Arc<Container>,
        command: &[String],
    ) -> Result<(String, Session, Running)> {
        let request = docker::ExecCreateRequest {
            attach_stdout: true,
            attach_stderr: true,
            cmd: Some(command.to_vec()),
            ..docker::ExecCreateRequest::default()
        };
        let id = self.exec_create(c, request).await?;
        let exec = self.execs.find(&id)?;
        exec.take_off()?;
        self.emit_exec(&exec, "exec_start", &[]);
        let (ours, theirs) = pair()?;
        let attached = session(ours, false)?;
        match self.exec_launch(&exec, None, Some(theirs)).await {
            Ok(running) => {
                exec.set(ExecState::Running { pid: running.pid });
                Ok((id, attached, running))
            }
            Err(e) => {
                self.exec_ended(&exec, 0, -1);
                Err(e)
            }
        }
    }

    /// The end of a probe. It is forgotten at once: nobody inspects probes.
    pub(crate) fn probe_ended(&self, id: &str, pid: i32, code: i32) {
        if let Ok(exec) = self.execs.find(id) {
            self.exec_ended(&exec, pid, code);
            self.execs.0.lock().remove(id);
        }
    }

    /// What the container runs under; compiled anew if an earlier daemon started it.
    async fn plan_of(self: &Arc<Self>, c: &Arc<Container>) -> Result<Arc<Plan>> {
        if let Some(plan) = c.with(|core| core.plan.clone()) {
            return Ok(plan);
        }
        let of = c.clone();
        let plan = Arc::new(self.blocking(move |inner| inner.plan_again(&of)).await?);
        c.with(|core| core.plan = Some(plan.clone()));
        Ok(plan)
    }

    fn exec_plan(
        &self,
        record: &Record,
        base: &Plan,
        r: &docker::ExecCreateRequest,
    ) -> Result<ExecPlan> {
        let user = match r.user.as_str() {
            "" => self.user(record, &record.config.user)?,
            own => self.user(record, own)?,
        };
        let mut env =
            spec::env::environment(&record.config, record.hostname(), &self.link_variables(record));
        if r.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        spec::env::merge(&mut env, r.env.as_deref().unwrap_or_default());
        spec::env::with_home(&mut env, &user.home);
        let cwd = [&r.working_dir, &record.config.working_dir].into_iter().find(|d| !d.is_empty());
        let process = spec::exec(&ExecInput {
            args: r.cmd.clone().unwrap_or_default(),
            env,
            cwd: cwd.cloned().unwrap_or_else(|| "/".into()),
            tty: r.tty,
            privileged: r.privileged || record.host.privileged,
            host: &record.host,
            user: &user,
            facts: &self.facts,
            defaults: self.defaults(),
        })?;
        ExecPlan::compile(&process, base, &self.host)
            .map_err(|e| EngineError::invalid("the process cannot be set up").because(e))
    }

    pub(crate) fn exec_inspect(&self, id: &str) -> Result<docker::ExecInspect> {
        let exec = self.execs.find(id)?;
        let state = exec.state.lock().clone();
        let r = &exec.request;
        let (pid, code) = match state {
            ExecState::Running { pid } => (pid, None),
            ExecState::Ended { pid, code, .. } => (pid, Some(i64::from(code))),
            _ => (0, None),
        };
        let mut line = r.cmd.clone().unwrap_or_default().into_iter();
        let process_config = docker::ExecProcessConfig {
            tty: r.tty,
            entrypoint: line.next().unwrap_or_default(),
            arguments: line.collect(),
            privileged: Some(r.privileged),
            user: r.user.clone(),
        };
        Ok(docker::ExecInspect {
            id: exec.id.clone(),
            running: matches!(state, ExecState::Running { .. }),
            exit_code: code,
            process_config,
            open_stdin: r.attach_stdin,
            open_stderr: r.attach_stderr,
            open_stdout: r.attach_stdout,
            can_remove: matches!(state, ExecState::Ended { .. }),
            container_id: exec.container.id.to_string(),
            detach_keys: r.detach_keys.clone().unwrap_or_default(),
            pid: i64::from(pid),
        })
    }

    pub(crate) async fn exec_resize(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        let exec = self.execs.find(id)?;
        match *exec.state.lock() {
            ExecState::Running { .. } => (),
            ExecState::Ended { .. } => {
                return Err(EngineError::conflict(format!("exec {id} is not running")));
            }
            ExecState::Created | ExecState::Starting => {
                return Err(EngineError::conflict(format!("exec process is not started: {id}")));
            }
        }
        let keeper = exec.container.keeper()?;
        keeper
            .exec_resize(id, ConsoleSize { rows, cols })
            .await
            .map_err(|e| EngineError::conflict("resize the exec's terminal").because(e))
    }

    /// After the container's end none of its execs run.
    pub(crate) fn collect_execs_of(&self, c: &Container) {
        let ids = c.with(|core| std::mem::take(&mut core.execs));
        for id in ids {
            let Ok(exec) = self.execs.find(&id) else { continue };
            let mut state = exec.state.lock();
            if matches!(*state, ExecState::Created | ExecState::Starting) {
                *state = ExecState::Ended { pid: 0, code: 137, at: self.clock.instant() };
            }
        }
        self.execs.collect(self.clock.instant());
    }

    fn emit_exec(&self, exec: &Exec, action: &str, more: &[(&str, &str)]) {
        let record = exec.container.record();
        let action = match action {
            "exec_die" => action.to_owned(),
            _ => {
                // Docker's space between program and arguments is there without arguments, too.
                let command = exec.request.cmd.as_deref().unwrap_or_default();
                let (program, arguments) = command.split_first().unzip();
                let program = program.map(String::as_str).unwrap_or_default();
                format!("{action}: {program} {}", arguments.unwrap_or_default().join(" "))
            }
        };
        let more: Vec<(&str, &str)> =
            more.iter().copied().chain([("execID", exec.id.as_str())]).collect();
        self.emit(&record, action, &more);
    }
}

impl Exec {
    /// From created to starting; anything else is refused.
    fn take_off(&self) -> Result<()> {
        let mut state = self.state.lock();
        match *state {
            ExecState::Created => {
                *state = ExecState::Starting;
                Ok(())
            }
            ExecState::Starting | ExecState::Running { .. } => {
                Err(EngineError::conflict(format!("exec command {} is already running", self.id)))
            }
            ExecState::Ended { .. } => {
                Err(EngineError::conflict(format!("exec command {} has already run", self.id)))
            }
        }
    }

    fn set(&self, state: ExecState) {
        *self.state.lock() = state;
    }
}

/// Docker's text for an exec in a container that does not run.
fn not_running(c: &Container, e: EngineError) -> EngineError {
    match e.kind() {
        Kind::Conflict if c.state().run().is_none() => EngineError::not_running(c.id.as_str()),
        _ => e,
    }
}

fn console(size: Option<[u32; 2]>) -> ConsoleSize {
    let [rows, cols] = size.unwrap_or_default();
    let fit = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    ConsoleSize { rows: fit(rows), cols: fit(cols) }
}

/// The session in the framing that the start asked for, whatever the exec was created with: as in
/// Docker, the start's `Tty` says whether output comes raw.
fn spoken(session: Session, raw: bool) -> Session {
    let output = match (session.tty, raw) {
        (true, false) => session.output.map_ok(|bytes| frame(&bytes)).boxed(),
        (false, true) => {
            futures_util::stream::unfold(Frames::new(session.output), |mut frames| async move {
                frames.next().await.map(|(_, bytes)| (Ok(bytes), frames))
            })
            .boxed()
        }
        _ => return session,
    };
    Session { output, tty: raw, ..session }
}

/// One frame of standard output.
fn frame(text: &[u8]) -> bytes::Bytes {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut out = vec![1, 0, 0, 0];
    out.extend(length.to_be_bytes());
    out.extend(text);
    out.into()
}
