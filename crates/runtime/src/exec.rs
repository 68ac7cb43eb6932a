//! A further process in a running container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};
use wharf_sys::fs::{self, Mode, OFlags};
use wharf_sys::process::{self, Fork};
use wharf_sys::{security, tuning};

use crate::cgroup::{self, Cgroup};
use crate::channel::{self, Child, Down, Parent, Up};
use crate::create::{self, CreateError, Exit, Io, StartError, sys};
use crate::failure::Failure;
use crate::host::HostFacts;
use crate::init::{self, Stdio};
use crate::plan::{Filter, Plan, PlanError, ProcessPlan};
use crate::rootfs;

/// A running container, as far as another process needs it.
#[derive(Debug)]
pub struct Target {
    /// The container's first process.
    pub pid: i32,
    /// The same, for good.
    pub pidfd: OwnedFd,
    /// Where the new process is accounted.
    pub cgroup: Cgroup,
}

/// A process to add to a container, resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecPlan {
    process: ProcessPlan,
    /// `CLONE_NEW*` bits of the namespaces that are the container's own.
    namespaces: u64,
    seccomp: Option<Filter>,
    keyring: Option<std::ffi::CString>,
    /// As the container's first process has them.
    personality: Option<u32>,
    memory_policy: Option<(i32, Vec<u64>)>,
}

/// A process that [`exec`] started. It is a child of the caller.
#[derive(Debug)]
pub struct ExecProcess {
    /// The process id, as the caller sees it.
    pub pid: i32,
    /// Refers to the process for good; readable when it has ended.
    pub pidfd: OwnedFd,
    /// The terminal's master side, when [`Io::console`] asked for a terminal.
    pub console: Option<OwnedFd>,
}

impl ExecPlan {
    /// Resolves `process` for the container that `container` made.
    ///
    /// A process without capabilities of its own gets those of the container's first process.
    pub fn compile(
        process: &Process,
        container: &Plan,
        host: &HostFacts,
    ) -> Result<Self, PlanError> {
        let joined = container.namespaces.join.iter().fold(0, |all, (kind, _)| all | kind);
        let mut plan = crate::plan::compile_process(process, host, container.has_userns())?;
        if process.capabilities().is_none() {
            plan.caps = container.process.caps;
        }
        Ok(Self {
            process: plan,
            namespaces: container.namespaces.new | joined,
            seccomp: container.seccomp.clone(),
            keyring: container.keyring.clone(),
            personality: container.identity.personality,
            memory_policy: container.identity.memory_policy.clone(),
        })
    }

    /// Lets the program inherit that many descriptors from 3 on.
    pub fn preserve_fds(&mut self, count: u32) {
        self.process.preserve_fds = count;
    }

    /// Says that the terminal's output goes on to another terminal ([`PlanContext::relayed`](crate::PlanContext)).
    pub fn relay_terminal(&mut self) {
        self.process.relayed = true;
    }

    /// Whether the process wants a terminal.
    pub fn terminal(&self) -> bool {
        self.process.terminal
    }
}

/// Starts a process in the container of `target`; returns when its program runs or could not be run.
pub fn exec(target: &Target, plan: &ExecPlan, io: Io) -> Result<ExecProcess, StartError> {
    let stdio = create::stdio(io, &plan.process)?;
    let (parent, child) = channel::pair().map_err(sys("make a socket pair"))?;
    let group = target.cgroup.open_for_clone()?;
    let pid_ns =
        (plan.namespaces & process::NEWPID != 0).then_some((target.pidfd.as_fd(), process::NEWPID));
    // From its first moment in the container's pid namespace the new process is in sight of the
    // container: it must not be open to inspection, and flags are copied by clone.
    process::set_dumpable(false).map_err(sys("clear the dumpable flag"))?;
    let forked =
        create::in_pid_namespace(pid_ns, || process::clone3(0, group.as_ref().map(AsFd::as_fd)));
    match forked {
        Ok(Fork::Child) => {
            drop(parent);
            enter(target.pidfd.as_fd(), plan, stdio, &child)
        }
        Ok(Fork::Parent { pid, pidfd }) => {
            process::set_dumpable(true).map_err(sys("set the dumpable flag"))?;
            drop((child, stdio));
            finish(target, plan, pid, pidfd, &parent)
        }
        Err(e) => {
            process::set_dumpable(true).map_err(sys("set the dumpable flag"))?;
            Err(sys("clone3")(e).into())
        }
    }
}

/// The outside: limits, cgroup, terminal, and whether the program runs.
fn finish(
    target: &Target,
    plan: &ExecPlan,
    pid: i32,
    pidfd: OwnedFd,
    channel: &Parent,
) -> Result<ExecProcess, StartError> {
    let mut console = None;
    let outcome = place(target, plan, pid).and_then(|doors| {
        create::say_with(channel, Down::Placed, &doors)?;
        supervise(channel, &mut console)
    });
    match outcome {
        Ok(()) => Ok(ExecProcess { pid, pidfd, console }),
        Err(e) => Err(create::end(e, pidfd.as_fd()).into()),
    }
}

fn place(target: &Target, plan: &ExecPlan, pid: i32) -> Result<Vec<OwnedFd>, CreateError> {
    create::limit_process(pid, &plan.process)?;
    match target.cgroup.doors() {
        // A container without a cgroup directory (it was deleted under it) has nothing to enter.
        Err(_) if !target.cgroup.exists() => Ok(Vec::new()),
        other => Ok(other?),
    }
}

fn supervise(channel: &Parent, console: &mut Option<OwnedFd>) -> Result<(), CreateError> {
    loop {
        match channel.hear().map_err(sys("hear the new process"))? {
            None => return Ok(()),
            Some((Up::Console, fd)) => {
                *console = fd;
                create::say(channel, Down::Taken)?;
            }
            // The listener of the container's filter belongs to whoever watches the container; a
            // process that needs one cannot be added without one.
            Some((Up::Listener, fd)) => {
                drop(fd);
                create::say(channel, Down::Taken)?;
            }
            Some((Up::Failed(failure), _)) => return Err(failure.into()),
            Some((other, _)) => {
                let what = format!("the new process said {other:?} out of turn");
                return Err(Failure::Refused { what }.into());
            }
        }
    }
}

/// The inside: into the namespaces, then as the first process does.
fn enter(target: BorrowedFd<'_>, plan: &ExecPlan, stdio: Stdio, channel: &Child) -> ! {
    let failure = match prepare(target, plan, stdio, channel) {
        Ok(program) => init::run(&plan.process, &program, plan.seccomp.as_ref()),
        Err(failure) => failure,
    };
    let code = failure.exit_code();
    // Nobody is left to tell that telling failed; the exit code still speaks.
    drop(channel.say(&Up::Failed(failure), None));
    process::exit_now(code)
}

fn prepare(
    target: BorrowedFd<'_>,
    plan: &ExecPlan,
    stdio: Stdio,
    channel: &Child,
) -> Result<std::ffi::CString, Failure> {
    let step = |what: &'static str| move |e: io::Error| Failure::step(what, &e);
    if let Some(cpus) = &plan.process.affinity.0 {
        tuning::set_affinity(cpus).map_err(step("set cpu affinity"))?;
    }
    let kinds = plan.namespaces & !process::NEWPID;
    if kinds != 0 {
        process::setns(target, kinds).map_err(step("join the container's namespaces"))?;
    }
    let doors = channel.take(Down::Placed).map_err(step("wait for the cgroup"))?;
    cgroup::enter(doors)?;
    if plan.process.userns {
        init::become_root_of_userns().map_err(step("become root of the user namespace"))?;
    }
    if let Some(name) = &plan.keyring {
        match security::join_session_keyring(name) {
            Err(e) if e.raw_os_error() != Some(wharf_sys::errno::NOSYS) => {
                return Err(Failure::step("join the session keyring", &e));
            }
            _ => (),
        }
    }
    process::setsid().map_err(|e| step("start a session")(e.into()))?;
    match stdio {
        Stdio::Given(fds) => init::give(&fds, plan.process.uid)?,
        Stdio::Terminal(size) => {
            let root = fs::openat(fs::CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| step("open /")(e.into()))?;
            let master = rootfs::open_ptmx(root.as_fd())
                .map_err(step("open a terminal in the container's /dev/pts"))?;
            let terminal = init::open_terminal(&master, size, &plan.process)?;
            init::hand_over(&Up::Console, master, channel)?;
            drop(terminal);
        }
    }
    init::set_habits(plan.personality, plan.memory_policy.as_ref())?;
    let label = init::open_attr(&plan.process, None)?;
    init::become_user(&plan.process, label)
}

impl ExecProcess {
    /// Waits for the end of the process and reaps it.
    pub fn wait(&self) -> io::Result<Exit> {
        process::wait(self.pidfd.as_fd()).map(Exit::from)
    }
}

impl Target {
    /// The running container of that first process.
    pub fn open(pid: i32, cgroup: Cgroup) -> io::Result<Self> {
        Ok(Self { pid, pidfd: process::pidfd_open(pid)?, cgroup })
    }

    /// The directory through which the container's files can be reached.
    pub fn root(&self) -> std::path::PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("root")
    }
}
