//! The outside of a container's birth: clone, identity maps, cgroups, hooks, the gate.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};
use wharf_sys::process::{self, Ended, Fork};
use wharf_sys::{mount, socket, tuning};

use crate::cgroup::CgroupError;
use crate::channel::{self, Down, Parent, Up};
use crate::failure::Failure;
use crate::hooks;
use crate::init::{Birth, Gate, Stdio};
use crate::plan::{DeviceKind, Filter, IdMap, MountKind, Plan, ProcessPlan, Root, UserMaps};
use crate::rootfs::{self, Sources};

/// The descriptors a container's process gets; a missing one is `/dev/null`.
#[derive(Debug, Default)]
pub struct Io {
    /// Becomes descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Becomes descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Becomes descriptor 2.
    pub stderr: Option<OwnedFd>,
    /// When set, the process gets a terminal of the container's own devpts in place of the three.
    pub console: Option<ConsoleSize>,
}

/// The size of a terminal in characters; zero leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// A container whose first process waits at the gate.
#[derive(Debug)]
pub struct Created {
    pid: i32,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    channel: Parent,
    plan: Plan,
}

/// A container's first process, running its program.
#[derive(Debug)]
pub struct Init {
    /// The process id, as the caller sees it.
    pub pid: i32,
    /// Refers to the process for good; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned a code.
    Code(u8),
    /// It was killed by a signal.
    Signal(u8),
}

/// Why a container could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The container's own process met an error.
    #[error(transparent)]
    Init(#[from] Failure),
    /// The cgroup could not be made or limited.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call of the creating process failed.
    #[error("{doing}")]
    Sys {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The container's process ended without a word.
    #[error(
        "the container's process ended before it was ready ({0}); if its memory limit is small, raise it"
    )]
    Died(Exit),
}

/// Why a process did not come to run its program.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process reported what it could not do.
    #[error(transparent)]
    Init(#[from] Failure),
    /// The cgroup could not be entered.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call of the starting process failed.
    #[error("{doing}")]
    Sys {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process ended without a word.
    #[error("the process ended before its program ran ({0})")]
    Died(Exit),
}

impl From<CreateError> for StartError {
    fn from(e: CreateError) -> Self {
        match e {
            CreateError::Init(failure) => Self::Init(failure),
            CreateError::Cgroup(e) => Self::Cgroup(e),
            CreateError::Sys { doing, source } => Self::Sys { doing, source },
            CreateError::Died(exit) => Self::Died(exit),
        }
    }
}

pub(crate) fn sys(doing: impl Into<String>) -> impl FnOnce(io::Error) -> CreateError {
    move |source| CreateError::Sys { doing: doing.into(), source }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Exit {
    /// The code a shell would report: 128 and the signal's number for a signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 | signal,
        }
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Code(code) => Self::Code(code),
            Ended::Signal(signal) => Self::Signal(signal),
        }
    }
}

/// Makes the container's namespaces, file system and cgroup, and its first process waiting to run.
///
/// On an error nothing is left: the process is ended and reaped and the cgroup removed.
pub fn create(plan: &Plan, io: Io) -> Result<Created, CreateError> {
    create_gated(plan, io, Gate::Channel)
}

/// As [`create`], with a gate that another process will open.
pub(crate) fn create_gated(plan: &Plan, io: Io, gate: Gate) -> Result<Created, CreateError> {
    let existed = plan.cgroup.exists();
    let undo_cgroup = || {
        if !existed && let Err(error) = plan.cgroup.delete() {
            tracing::warn!(id = %plan.id, %error, "cgroup left behind");
        }
    };
    let born = match bear(plan, io, gate) {
        Ok(born) => born,
        Err(e) => {
            undo_cgroup();
            return Err(e);
        }
    };
    let (pid, pidfd, channel) = born;
    match raise(plan, pid, &channel) {
        Ok(console) => Ok(Created { pid, pidfd, console, channel, plan: plan.clone() }),
        Err(e) => {
            let e = end(e, pidfd.as_fd());
            undo_cgroup();
            Err(e)
        }
    }
}

/// Kills and reaps a process that will not come to run; a silent death gets its reason.
pub(crate) fn end(error: CreateError, pidfd: BorrowedFd<'_>) -> CreateError {
    let died = matches!(error, CreateError::Died(_));
    if !died && let Err(e) = process::pidfd_signal(pidfd, 9) {
        // Already gone, which is what was wanted.
        tracing::trace!(error = %e, "kill of a failed container");
    }
    match process::wait(pidfd) {
        Ok(ended) if died => CreateError::Died(ended.into()),
        _ => error,
    }
}

type Born = (i32, OwnedFd, Parent);

/// Makes the process.
fn bear(plan: &Plan, io: Io, gate: Gate) -> Result<Born, CreateError> {
    let stdio = stdio(io, &plan.process)?;
    let sources = sources(plan)?;
    let mut join = open_namespaces(plan)?;
    let (parent, child) = channel::pair().map_err(sys("make a socket pair"))?;
    let group = plan.cgroup.open_for_clone_after_create()?;
    let group = group.as_ref().map(AsFd::as_fd);
    let new = plan.namespaces.new & !process::NEWCGROUP;
    let late_time = plan.namespaces.time_offsets.is_some();
    let joins_user = join.iter().any(|(kind, _)| *kind == process::NEWUSER);
    if late_time || joins_user || (new & process::NEWUSER != 0 && !join.is_empty()) {
        return stem(
            plan,
            Birth { plan, stdio, sources, gate, channel: child, join },
            parent,
            group,
        );
    }
    // A pid namespace is joined by children only: join it here, and come back.
    let pid_ns = join.iter().position(|(kind, _)| *kind == process::NEWPID);
    let pid_ns = pid_ns.map(|at| join.swap_remove(at).1);
    let birth = Birth { plan, stdio, sources, gate, channel: child, join };
    let forked = in_pid_namespace(pid_ns.as_ref().map(|fd| (fd.as_fd(), process::NEWPID)), || {
        process::clone3(new, group)
    });
    match forked.map_err(sys("clone3"))? {
        Fork::Child => {
            // Else the gate would never tell this process that its parent was killed.
            drop(parent);
            birth.run()
        }
        Fork::Parent { pid, pidfd } => Ok((pid, pidfd, parent)),
    }
}

/// Runs `fork` with the children's pid namespace set to another, and sets it back.
pub(crate) fn in_pid_namespace(
    namespace: Option<(BorrowedFd<'_>, u64)>,
    fork: impl FnOnce() -> io::Result<Fork>,
) -> io::Result<Fork> {
    let Some((file, kind)) = namespace else { return fork() };
    let own = process::pidfd_open(process::getpid().as_raw_nonzero().get())?;
    process::setns(file, kind)?;
    let forked = fork();
    if !matches!(forked, Ok(Fork::Child)) {
        process::setns(own.as_fd(), process::NEWPID)?;
    }
    forked
}

/// An intermediate process, for namespaces that one process cannot make and join at once: those to
/// join are joined with the caller's privileges before a new user namespace takes them away, and
/// time offsets are set before anyone lives in the namespace.
fn stem(
    plan: &Plan,
    birth: Birth<'_>,
    parent: Parent,
    group: Option<BorrowedFd<'_>>,
) -> Result<Born, CreateError> {
    match process::clone3(0, None).map_err(sys("clone3"))? {
        Fork::Child => {
            drop(parent);
            grow(plan, birth, group)
        }
        Fork::Parent { pidfd, .. } => {
            drop(birth);
            let first = parent.hear().map_err(sys("hear of the container's process"))?;
            let reaped =
                process::wait(pidfd.as_fd()).map_err(sys("wait for the intermediate process"))?;
            match first {
                Some((Up::Born(pid), _)) => {
                    let pidfd = process::pidfd_open(pid).map_err(sys("open a pidfd"))?;
                    Ok((pid, pidfd, parent))
                }
                Some((Up::Failed(failure), _)) => Err(failure.into()),
                _ => Err(CreateError::Died(reaped.into())),
            }
        }
    }
}

/// The intermediate process's whole life.
fn grow(plan: &Plan, mut birth: Birth<'_>, group: Option<BorrowedFd<'_>>) -> ! {
    let attempt = |join: &mut Vec<(u64, OwnedFd)>| -> Result<Fork, Failure> {
        // The user namespace last: joining the others needs the caller's privileges.
        join.sort_by_key(|(kind, _)| *kind == process::NEWUSER);
        for (kind, file) in join.drain(..) {
            process::setns(file.as_fd(), kind)
                .map_err(|e| Failure::step(format!("join namespace {kind:#x}"), &e))?;
        }
        let mut new = plan.namespaces.new & !process::NEWCGROUP;
        if let Some(offsets) = &plan.namespaces.time_offsets {
            new &= !process::NEWTIME;
            process::unshare(process::NEWTIME)
                .map_err(|e| Failure::step("make a time namespace", &e))?;
            write_proc("self/timens_offsets", offsets)
                .map_err(|e| Failure::step("write time offsets", &e))?;
        }
        process::clone3(new | process::PARENT, group).map_err(|e| Failure::step("clone3", &e))
    };
    let message = match attempt(&mut birth.join) {
        Ok(Fork::Child) => birth.run(),
        Ok(Fork::Parent { pid, .. }) => Up::Born(pid),
        Err(failure) => Up::Failed(failure),
    };
    let told = birth.channel.say(&message, None);
    process::exit_now(u8::from(told.is_err()))
}

fn open_namespaces(plan: &Plan) -> Result<Vec<(u64, OwnedFd)>, CreateError> {
    let open = |(kind, path): &(u64, std::path::PathBuf)| {
        let file = File::open(path).map_err(sys(format!("open namespace {}", path.display())))?;
        Ok((*kind, OwnedFd::from(file)))
    };
    plan.namespaces.join.iter().map(open).collect()
}

/// Descriptors for the process, `/dev/null` for those not given.
pub(crate) fn stdio(io: Io, process: &ProcessPlan) -> Result<Stdio, CreateError> {
    if let Some(size) = io.console {
        return Ok(Stdio::Terminal(size));
    }
    if process.terminal {
        let what = "process.terminal is true: a console is needed to pass the terminal to";
        return Err(Failure::Refused { what: what.into() }.into());
    }
    let null = || {
        let file = File::options().read(true).write(true).open("/dev/null");
        file.map(OwnedFd::from).map_err(sys("open /dev/null"))
    };
    let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Ok);
    Ok(Stdio::Given([or_null(io.stdin)?, or_null(io.stdout)?, or_null(io.stderr)?]))
}

/// What a process without rights on the host cannot open for itself, and identity-mapped mounts,
/// which need the mapping's namespace.
fn sources(plan: &Plan) -> Result<Sources, CreateError> {
    let userns = plan.has_userns();
    let mut out = Sources::default();
    for (index, item) in plan.rootfs.mounts.iter().enumerate() {
        if let MountKind::Bind { source, recursive, idmap } = &item.kind
            && (userns || idmap.is_some())
        {
            let tree = rootfs::open_bind(source, *recursive)?;
            if let Some(idmap) = idmap {
                map_owners(plan, &tree, idmap)
                    .map_err(sys(format!("map owners of {}", source.display())))?;
            }
            out.binds.push((index, tree));
        }
    }
    if !userns {
        return Ok(out);
    }
    if let Root::Overlay { .. } = &plan.rootfs.root {
        out.root = Some(rootfs::open_root(&plan.rootfs.root, plan.rootfs.label.as_deref())?);
    }
    for (index, device) in plan.rootfs.devices.iter().enumerate() {
        if device.kind != DeviceKind::Fifo {
            out.nodes.push((index, rootfs::open_bind(&device.path, false)?));
        }
    }
    Ok(out)
}

fn map_owners(plan: &Plan, tree: &OwnedFd, idmap: &IdMap) -> io::Result<()> {
    let maps = match (&idmap.maps, &plan.namespaces.maps) {
        (Some(maps), _) | (None, Some(maps)) => maps,
        (None, None) => {
            return Err(io::Error::other("an idmap mount needs uidMappings or a user namespace"));
        }
    };
    let namespace = user_namespace(maps)?;
    mount::set_idmap(tree, idmap.recursive, namespace.as_fd())
}

/// A user namespace with these maps. It needs a process for a moment only.
fn user_namespace(maps: &UserMaps) -> io::Result<OwnedFd> {
    let (parent, child) = channel::pair()?;
    match process::clone3(process::NEWUSER, None)? {
        Fork::Child => {
            drop(parent);
            // Lives until its maps are written and its namespace is open.
            process::exit_now(u8::from(child.hear(Down::Mapped).is_err()))
        }
        Fork::Parent { pid, pidfd } => {
            let opened = write_maps(pid, maps)
                .and_then(|()| File::open(format!("/proc/{pid}/ns/user")))
                .map(OwnedFd::from);
            let told = parent.say(Down::Mapped, &[]);
            process::wait(pidfd.as_fd())?;
            told?;
            opened
        }
    }
}

pub(crate) fn write_proc(path: &str, text: &str) -> io::Result<()> {
    let path = Path::new("/proc").join(path);
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn write_maps(pid: i32, maps: &UserMaps) -> io::Result<()> {
    write_proc(&format!("{pid}/uid_map"), &maps.uid)?;
    write_proc(&format!("{pid}/gid_map"), &maps.gid)
}

/// Brings a new process to the gate; returns its terminal.
fn raise(plan: &Plan, pid: i32, channel: &Parent) -> Result<Option<OwnedFd>, CreateError> {
    if let Some(maps) = &plan.namespaces.maps {
        write_maps(pid, maps).map_err(sys("write identity maps"))?;
        channel.say(Down::Mapped, &[]).map_err(sys("speak to the container's process"))?;
    }
    limit_process(pid, &plan.process)?;
    say_with(channel, Down::Placed, &place(plan)?)?;
    let mut console = None;
    let mut devices_limited = false;
    let mut limit_devices = || match std::mem::replace(&mut devices_limited, true) {
        true => Ok(()),
        false => plan.cgroup.set_devices(&plan.limits),
    };
    loop {
        match channel.hear().map_err(sys("hear the container's process"))? {
            Some((Up::Ready, _)) => {
                limit_devices()?;
                return Ok(console);
            }
            Some((Up::Mounted, _)) => {
                limit_devices()?;
                run_runtime_hooks(plan, pid)?;
                say(channel, Down::HooksRan)?;
            }
            Some((Up::Console, Some(fd))) => {
                console = Some(fd);
                say(channel, Down::Taken)?;
            }
            Some((Up::Listener, Some(fd))) => {
                if let Some(filter) = &plan.seccomp {
                    pass_listener(plan, filter, pid, &fd)?;
                }
                say(channel, Down::Taken)?;
            }
            Some((Up::Failed(failure), _)) => return Err(failure.into()),
            Some((other, _)) => {
                let what = format!("the container's process said {other:?} out of turn");
                return Err(Failure::Refused { what }.into());
            }
            None => return Err(CreateError::Died(Exit::Code(0))),
        }
    }
}

/// A closed channel is no news here: the next message, or its absence, tells why.
pub(crate) fn say(channel: &Parent, word: Down) -> Result<(), CreateError> {
    say_with(channel, word, &[])
}

/// As [`say`], with descriptors.
pub(crate) fn say_with(channel: &Parent, word: Down, fds: &[OwnedFd]) -> Result<(), CreateError> {
    match channel.say(word, fds) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(sys("speak to the container's process")),
    }
}

/// What needs the caller's privileges: hard limits above its own, and the OOM score. The process takes its limits
/// itself, last of all ([`init::become_user`](crate::init)): few open files would be too few to set it up.
pub(crate) fn limit_process(pid: i32, plan: &ProcessPlan) -> Result<(), CreateError> {
    for &(resource, _, hard) in &plan.rlimits {
        let (soft_now, hard_now) = tuning::limit(resource).map_err(sys("read resource limits"))?;
        if hard <= hard_now {
            continue;
        }
        tuning::set_limit(pid, resource, soft_now, hard).map_err(sys(format!(
            "raise hard resource limit {resource} from {hard_now} to {hard} (that needs CAP_SYS_RESOURCE)"
        )))?;
    }
    let Some(adjust) = plan.oom_score_adj else { return Ok(()) };
    match write_proc(&format!("{pid}/oom_score_adj"), &adjust.to_string()) {
        Ok(()) => Ok(()),
        Err(source) => {
            // Inherited and asked for may be the same, and then nothing has to be allowed.
            let now = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
            if now.trim() == adjust.to_string() {
                return Ok(());
            }
            let doing = format!(
                "set oom_score_adj from {} to {adjust} (lowering it needs CAP_SYS_RESOURCE)",
                now.trim()
            );
            Err(CreateError::Sys { doing, source })
        }
    }
}

/// Makes the cgroup ready; the process enters by the files that this returns.
fn place(plan: &Plan) -> Result<Vec<OwnedFd>, CreateError> {
    plan.cgroup.create_if_late()?;
    plan.cgroup.set_early(&plan.limits)?;
    Ok(plan.cgroup.doors()?)
}

fn run_runtime_hooks(plan: &Plan, pid: i32) -> Result<(), Failure> {
    let Some(hooks) = &plan.hooks else { return Ok(()) };
    let state = hooks.state("creating", pid);
    hooks::run_all(&hooks.prestart, &state)?;
    hooks::run_all(&hooks.create_runtime, &state)
}

/// Sends the notification descriptor where the spec says, with the container's state.
fn pass_listener(plan: &Plan, filter: &Filter, pid: i32, fd: &OwnedFd) -> Result<(), CreateError> {
    let Some(path) = &filter.listener else { return Ok(()) };
    let state = serde_json::json!({
        "ociVersion": crate::oci::OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": filter.metadata,
        "state": { "ociVersion": crate::oci::OCI_VERSION, "id": plan.id, "status": "creating", "pid": pid },
    });
    let attempt = || {
        let socket = socket::connect_stream(path)?;
        socket::send(&socket, state.to_string().as_bytes(), &[fd.as_fd()])
    };
    attempt().map_err(sys(format!("send the seccomp descriptor to {}", path.display())))
}

impl Created {
    /// The first process, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Refers to the first process for good; readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The terminal's master side, once, when [`Io::console`] asked for a terminal.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// The plan and the process, for a gate that is opened from elsewhere.
    pub(crate) fn into_parts(self) -> (Plan, Init) {
        (self.plan, Init { pid: self.pid, pidfd: self.pidfd })
    }

    /// Opens the gate, and returns when the program runs or could not be run.
    ///
    /// On an error the process is ended and reaped and the cgroup removed.
    pub fn start(self) -> Result<Init, StartError> {
        let Self { pid, pidfd, channel, plan, .. } = self;
        match go(&channel, pidfd.as_fd()) {
            Ok(()) => {
                if let Err(error) = plan.run_poststart(pid) {
                    tracing::warn!(id = %plan.id, %error, "poststart hook failed");
                }
                Ok(Init { pid, pidfd })
            }
            Err(e) => {
                let e = end(e, pidfd.as_fd());
                if let Err(error) = plan.cgroup.delete() {
                    tracing::warn!(id = %plan.id, %error, "cgroup left behind");
                }
                Err(e.into())
            }
        }
    }
}

/// Lets a process at its gate go on; its silence is success.
pub(crate) fn go(channel: &Parent, pidfd: BorrowedFd<'_>) -> Result<(), CreateError> {
    say(channel, Down::Go)?;
    match channel.hear().map_err(sys("hear the container's process"))? {
        None => match process::peek_wait(pidfd) {
            // Killed at the gate, or already done with its program: a code is the program's.
            Ok(Some(Ended::Signal(9))) => Err(CreateError::Died(Exit::Signal(9))),
            _ => Ok(()),
        },
        Some((Up::Failed(failure), _)) => Err(failure.into()),
        Some((other, _)) => {
            let what = format!("the container's process said {other:?} out of turn");
            Err(Failure::Refused { what }.into())
        }
    }
}

/// Opens a gate of fifos: success, or the failure the process reports.
pub(crate) fn open_fifos(start: &Path, status: &Path) -> io::Result<Option<Failure>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblock = i32::try_from(wharf_sys::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut options = fs::OpenOptions::new();
    let mut status = options.read(true).custom_flags(nonblock).open(status)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(nonblock).open(start)?.write_all(b"1")?;
    let mut bytes = Vec::new();
    loop {
        process::poll_readable(&[status.as_fd()], -1)?;
        match status.read_to_end(&mut bytes) {
            // It has said why, and has not ended yet.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => (),
            other => break other.map(drop)?,
        }
    }
    Ok(postcard::from_bytes(&bytes).ok())
}

impl Init {
    /// Waits for the end of the process and reaps it. Only its parent may.
    pub fn wait(&self) -> io::Result<Exit> {
        process::wait(self.pidfd.as_fd()).map(Exit::from)
    }
}

impl Plan {
    /// Runs the hooks that follow the start. By the OCI specification their failure is to be logged, and the container goes on.
    pub fn run_poststart(&self, pid: i32) -> Result<(), Failure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        hooks::run_all(&hooks.poststart, &hooks.state("running", pid))
    }

    /// Runs the hooks that follow the deletion: every one. Their failures are to be logged.
    pub fn run_poststop(&self) -> Vec<Failure> {
        let Some(hooks) = &self.hooks else { return Vec::new() };
        let state = hooks.state("stopped", 0);
        hooks.poststop.iter().filter_map(|hook| hook.run(&state).err()).collect()
    }
}
