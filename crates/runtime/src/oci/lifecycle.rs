//! Commands that make, start, signal, freeze and remove a container.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use wharf_base::fs::{Durability, write_atomic};
use wharf_sys::{process, socket};

use super::args::{Args, unknown};
use super::state::{Container, Record, Status, start_time};
use super::{Global, OciError, Outcome, document, file, foreground};
use crate::create::{self, ConsoleSize, Created, Init, Io};
use crate::host::HostFacts;
use crate::init::Gate;
use crate::plan::{Pivot, Plan, PlanContext, Root};

/// Flags of `create` and `run`.
#[derive(Debug, Default)]
struct Make {
    bundle: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    preserve_fds: u32,
    no_pivot: bool,
    no_keyring: bool,
    detach: bool,
    keep: bool,
}

impl Make {
    fn parse(command: &str, args: &mut Args) -> Result<(Self, String), OciError> {
        let mut out = Self::default();
        while let Some(flag) = args.flag() {
            match flag.as_str() {
                "bundle" | "b" => out.bundle = Some(args.value(&flag)?.into()),
                "console-socket" => out.console_socket = Some(args.value(&flag)?.into()),
                "pid-file" => out.pid_file = Some(args.value(&flag)?.into()),
                "pidfd-socket" => out.pidfd_socket = Some(args.value(&flag)?.into()),
                "preserve-fds" => out.preserve_fds = args.number(&flag)?,
                "no-pivot" => out.no_pivot = args.switch(&flag)?,
                "no-new-keyring" => out.no_keyring = args.switch(&flag)?,
                "detach" | "d" if command == "run" => out.detach = args.switch(&flag)?,
                "keep" if command == "run" => out.keep = args.switch(&flag)?,
                "no-subreaper" if command == "run" => args.no_value(&flag)?,
                other => return Err(unknown(command, other)),
            }
        }
        let id = args.id(command)?;
        args.done(command)?;
        Ok((out, id))
    }
}

/// `create`: the container waits for `start`.
pub(super) fn create(global: &Global, args: &mut Args) -> Outcome {
    let (flags, id) = Make::parse("create", args)?;
    use_own_copy()?;
    close_inherited(flags.preserve_fds)?;
    let dir = Container::reserve(global, &id)?;
    let made = make(global, &flags, &id, &dir).and_then(|(mut created, record)| {
        let settled = hand_console(&mut created, &flags)
            .and_then(|()| Container::record(dir.clone(), record))
            .and_then(|_| write_pid_file(flags.pid_file.as_deref(), created.pid()));
        if settled.is_err() {
            let (plan, init) = created.into_parts();
            destroy(&plan, &init)?;
        }
        settled
    });
    if made.is_err() {
        forget(&dir);
    }
    made.map(|()| 0)
}

/// Undoes what a failed creation left on disk; the failure itself is what the user hears of.
fn forget(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "state left behind");
    }
}

/// Never runs a container from the host's own file (CVE-2019-5736): unless this is already a
/// read-only copy of it, starts over from one.
pub(super) fn use_own_copy() -> Result<(), OciError> {
    let fail = |doing| move |source| OciError::Sys { doing, source };
    if wharf_sys::own::is_read_only().map_err(fail("look at /proc/self/exe"))? {
        return Ok(());
    }
    let own = wharf_sys::own::OwnProgram::open().map_err(fail("copy wharf's own program"))?;
    Err(fail("run the copy of wharf's own program")(own.become_it()))
}

/// What this program's caller left open is nobody's business in a container that waits for its start: a pipe that stays
/// open there never ends for who reads it.
fn close_inherited(preserved: u32) -> Result<(), OciError> {
    process::close_inherited(3 + preserved)
        .map_err(|source| OciError::Sys { doing: "close inherited descriptors", source })
}

/// A container alone in its cgroup can be limited, frozen and ended by it.
fn check_cgroup(plan: &Plan) -> Result<(), OciError> {
    if plan.cgroup.exists() && !plan.cgroup.pids()?.is_empty() {
        return Err(OciError::State("container's cgroup is not empty".into()));
    }
    if plan.cgroup.is_frozen()? {
        return Err(OciError::State("container's cgroup unexpectedly frozen".into()));
    }
    Ok(())
}

fn make(
    global: &Global,
    flags: &Make,
    id: &str,
    dir: &Path,
) -> Result<(Created, Record), OciError> {
    let here = || fs::canonicalize(flags.bundle.as_deref().unwrap_or(Path::new(".")));
    let bundle = here().map_err(file("find", flags.bundle.clone().unwrap_or_default()))?;
    let spec = document::spec(global, &bundle)?;
    if let Some(process) = spec.process() {
        document::warn_of_ambient(global, process);
    }
    let plan = plan(&spec, &bundle, id, flags)?;
    check_cgroup(&plan)?;
    global.debug(&format!("container {id} is to be made from {}", bundle.display()));
    let plan_bytes = postcard::to_stdvec(&plan)
        .map_err(|e| OciError::Sys { doing: "write the plan", source: io::Error::other(e) })?;
    let path = dir.join("plan");
    // Nobody reads it before the record is there, which is written after it.
    write_atomic(&path, &plan_bytes, 0o600, Durability::Process).map_err(file("write", path))?;
    let io = stdio(&plan, flags, &spec)?;
    let gate = fifos(dir)?;
    let created = create::create_gated(&plan, io, gate)?;
    global.debug(&format!("its process {} waits for the start", created.pid()));
    let started = start_time(created.pid()).map_or(0, |(started, _)| started);
    let rootfs = match &plan.rootfs.root {
        Root::Dir(path) => path.clone(),
        Root::Overlay { upper, .. } => upper.clone(),
    };
    let record = Record {
        id: id.to_owned(),
        pid: created.pid(),
        started,
        bundle,
        rootfs,
        created: jiff::Timestamp::now().to_string(),
        annotations: spec
            .annotations()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    };
    Ok((created, record))
}

fn plan(spec: &Spec, bundle: &Path, id: &str, flags: &Make) -> Result<Plan, OciError> {
    let host = HostFacts::probe()?;
    let root = spec.root().as_ref().map_or_else(|| "rootfs".into(), |r| r.path().clone());
    let mut ctx = PlanContext::new(id, bundle, Root::Dir(root), &host);
    ctx.preserve_fds = flags.preserve_fds;
    ctx.relayed = flags.console_socket.is_none() && !flags.detach;
    ctx.keyring = !flags.no_keyring;
    if flags.no_pivot {
        ctx.pivot = Pivot::Chroot;
    }
    Ok(Plan::compile(spec, &ctx)?)
}

/// The caller's own descriptors, or a terminal that goes to the console socket.
fn stdio(plan: &Plan, flags: &Make, spec: &Spec) -> Result<Io, OciError> {
    if !plan.process.terminal {
        if flags.console_socket.is_some() {
            let problem = "cannot use console socket if runc will not detach or allocate tty";
            return Err(OciError::Usage(problem.into()));
        }
        return inherit_stdio();
    }
    let size = spec.process().as_ref().and_then(|p| p.console_size());
    Ok(Io { console: Some(console_size(size)), ..Io::default() })
}

pub(super) fn console_size(size: Option<oci_spec::runtime::Box>) -> ConsoleSize {
    let number = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    size.map_or_else(ConsoleSize::default, |s| ConsoleSize {
        rows: number(s.height()),
        cols: number(s.width()),
    })
}

pub(super) fn inherit_stdio() -> Result<Io, OciError> {
    // A closed descriptor is a missing one.
    let own = |fd: std::os::fd::BorrowedFd<'_>| process::dup_above(fd, 3).ok();
    Ok(Io {
        stdin: own(io::stdin().as_fd()),
        stdout: own(io::stdout().as_fd()),
        stderr: own(io::stderr().as_fd()),
        console: None,
    })
}

fn fifos(dir: &Path) -> Result<Gate, OciError> {
    let open = |name: &str| {
        let path = dir.join(name);
        wharf_sys::fs::make_fifo(&path, 0o600).map_err(file("create", &path))?;
        // Read and write, so that opening waits for nobody.
        let fifo = fs::OpenOptions::new().read(true).write(true).open(&path);
        fifo.map(OwnedFd::from).map_err(file("open", path))
    };
    Ok(Gate::Fifos { start: open("start")?, status: open("status")? })
}

fn hand_console(created: &mut Created, flags: &Make) -> Result<(), OciError> {
    send_pidfd(flags.pidfd_socket.as_deref(), created.pid(), "standard")?;
    let Some(master) = created.take_console() else { return Ok(()) };
    match &flags.console_socket {
        Some(path) => send_console(path, &master),
        None => Err(OciError::Usage(
            "cannot allocate tty if runc will detach without setting console socket".into(),
        )),
    }
}

pub(super) fn send_console(path: &Path, master: &OwnedFd) -> Result<(), OciError> {
    let attempt = || {
        let socket = socket::connect_stream(path)?;
        socket::send(&socket, b"/dev/ptmx", &[master.as_fd()])
    };
    attempt().map_err(file("send the terminal to", path))
}

/// For a caller that wants the process for good and not its number; `kind` is what runc names it.
pub(super) fn send_pidfd(path: Option<&Path>, pid: i32, kind: &str) -> Result<(), OciError> {
    let Some(path) = path else { return Ok(()) };
    let attempt = || {
        let pidfd = process::pidfd_open(pid)?;
        let socket = socket::connect_stream(path)?;
        socket::send(&socket, kind.as_bytes(), &[pidfd.as_fd()])
    };
    attempt().map_err(file("send the process to", path))
}

pub(super) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<(), OciError> {
    let Some(path) = path else { return Ok(()) };
    write_atomic(path, pid.to_string().as_bytes(), 0o644, Durability::Process)
        .map_err(file("write", path))
}

/// `start`: opens the gate.
pub(super) fn start(global: &Global, args: &mut Args) -> Outcome {
    let id = args.only_id("start")?;
    let container = Container::lock(global, &id)?;
    match container.status()? {
        Status::Created => open_gate(global, &container).map(|()| 0),
        Status::Stopped => Err(OciError::State("cannot start a container that has stopped".into())),
        _ => Err(OciError::State("cannot start an already running container".into())),
    }
}

fn open_gate(global: &Global, container: &Container) -> Result<(), OciError> {
    let failure = create::open_fifos(&container.start_fifo(), &container.status_fifo())
        .map_err(|source| OciError::Sys { doing: "start the container", source })?;
    for fifo in [container.start_fifo(), container.status_fifo()] {
        fs::remove_file(&fifo).map_err(file("remove", fifo))?;
    }
    match failure {
        Some(failure) => Err(OciError::Create(failure.into())),
        None => {
            if let Err(failure) = container.plan()?.run_poststart(container.record.pid) {
                global.warn(&format!("poststart hook failed: {failure}"));
            }
            Ok(())
        }
    }
}

/// `run`: create, start and, unless detached, wait and delete.
pub(super) fn run(global: &Global, args: &mut Args) -> Outcome {
    let (flags, id) = Make::parse("run", args)?;
    use_own_copy()?;
    close_inherited(flags.preserve_fds)?;
    let dir = Container::reserve(global, &id)?;
    let outcome = run_reserved(global, &flags, &id, &dir);
    if outcome.is_err() {
        forget(&dir);
    }
    outcome
}

fn run_reserved(global: &Global, flags: &Make, id: &str, dir: &Path) -> Outcome {
    let (mut created, record) = make(global, flags, id, dir)?;
    let attached = flags.console_socket.is_none() && !flags.detach;
    let console = if attached { created.take_console() } else { None };
    let settled = hand_console(&mut created, flags)
        .and_then(|()| Container::record(dir.to_owned(), record))
        .and_then(|c| write_pid_file(flags.pid_file.as_deref(), created.pid()).map(|()| c));
    let (plan, init) = created.into_parts();
    let container = match settled {
        Ok(container) => container,
        Err(e) => {
            destroy(&plan, &init)?;
            return Err(e);
        }
    };
    let supervised = if flags.detach { None } else { Some(foreground::Supervisor::new()?) };
    if let Err(e) = open_gate(global, &container) {
        destroy(&plan, &init)?;
        return Err(e);
    }
    global.debug("its program runs");
    let Some(supervisor) = supervised else { return Ok(0) };
    let exit = supervisor.wait(&init, console)?;
    plan.cgroup.kill_all()?;
    plan.cgroup.delete()?;
    run_poststop(global, &plan);
    if !flags.keep {
        container.remove()?;
    }
    Ok(exit.code())
}

fn run_poststop(global: &Global, plan: &Plan) {
    for failure in plan.run_poststop() {
        global.warn(&format!("poststop hook failed: {failure}"));
    }
}

fn destroy(plan: &Plan, init: &Init) -> Result<(), OciError> {
    drop(process::pidfd_signal(init.pidfd.as_fd(), 9));
    drop(init.wait());
    Ok(plan.cgroup.delete()?)
}

/// `kill`: a signal to the first process, or to all.
pub(super) fn kill(global: &Global, args: &mut Args) -> Outcome {
    let mut all = false;
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "all" | "a" => all = args.switch(&flag)?,
            other => return Err(unknown("kill", other)),
        }
    }
    let id = args.id("kill")?;
    let signal = parse_signal(args.word().as_deref().unwrap_or("SIGTERM"))?;
    args.done("kill")?;
    let container = Container::open(global, &id)?;
    let status = container.status()?;
    let plan = container.plan()?;
    // Without a pid namespace of its own the container's processes do not die with the first.
    let own_pids = plan.namespaces.new & process::NEWPID != 0;
    if all || (!own_pids && signal == 9) {
        return match (status, plan.cgroup.exists()) {
            (Status::Stopped, false) if !all => Err(not_running()),
            (_, false) => Ok(0),
            (_, true) if signal == 9 => Ok(plan.cgroup.kill_all().map(|()| 0)?),
            (_, true) => Ok(plan.cgroup.signal_all(signal).map(|()| 0)?),
        };
    }
    if status == Status::Stopped {
        return Err(not_running());
    }
    process::kill(container.record.pid, signal)
        .map_err(|source| OciError::Sys { doing: "signal the container", source })?;
    if status == Status::Paused && signal == 9 {
        plan.cgroup.thaw()?;
    }
    Ok(0)
}

fn not_running() -> OciError {
    OciError::State("container not running".into())
}

/// A signal by number or name, with or without `SIG`.
fn parse_signal(text: &str) -> Result<i32, OciError> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let bad = || OciError::Usage(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|n| *n == name) {
        return i32::try_from(at + 1).map_err(|_| bad());
    }
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        more => more.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(more), _) => offset(more, '+').map(|n| 34 + n),
        (_, Some(less)) => offset(less, '-').map(|n| 64 - n),
        _ => None,
    };
    number.filter(|n| (34..=64).contains(n)).ok_or_else(bad)
}

/// `delete`: removes a stopped container, or kills it first.
pub(super) fn delete(global: &Global, args: &mut Args) -> Outcome {
    let mut force = false;
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "force" | "f" => force = args.switch(&flag)?,
            other => return Err(unknown("delete", other)),
        }
    }
    let id = args.id("delete")?;
    args.done("delete")?;
    let container = match Container::lock(global, &id) {
        // What never came to be is gone: a creation killed half way leaves a directory.
        Err(OciError::State(_)) if force => {
            let dir = global.root.join(&id);
            if dir.exists() {
                fs::remove_dir_all(&dir).map_err(file("remove", dir))?;
            }
            return Ok(0);
        }
        other => other?,
    };
    let status = container.status()?;
    let plan = container.plan()?;
    match status {
        Status::Stopped => (),
        // One at the gate has run nothing.
        Status::Created => kill_and_wait(&container)?,
        _ if force => kill_and_wait(&container)?,
        other => {
            let text =
                format!("cannot delete container {id} that is not stopped: {}", other.name());
            return Err(OciError::State(text));
        }
    }
    if plan.cgroup.exists() {
        plan.cgroup.kill_all()?;
    }
    delete_cgroup(&plan)?;
    run_poststop(global, &plan);
    container.remove()?;
    Ok(0)
}

/// Processes that were just killed leave their cgroup a moment later.
pub(super) fn delete_cgroup(plan: &Plan) -> Result<(), OciError> {
    let mut tries = 0;
    loop {
        match plan.cgroup.delete() {
            Err(e) if tries == 500 => return Err(e.into()),
            Err(_) => process::pause_for(std::time::Duration::from_millis(2)),
            Ok(()) => return Ok(()),
        }
        tries += 1;
    }
}

fn kill_and_wait(container: &Container) -> Result<(), OciError> {
    let fail = |doing| move |source| OciError::Sys { doing, source };
    let pidfd = match process::pidfd_open(container.record.pid) {
        Err(e) if e.raw_os_error() == Some(wharf_sys::errno::SRCH) => return Ok(()),
        other => other.map_err(fail("open the container's process"))?,
    };
    // The number may be another process's by now.
    if start_time(container.record.pid)
        .is_none_or(|(started, _)| started != container.record.started)
    {
        return Ok(());
    }
    process::pidfd_signal(pidfd.as_fd(), 9).map_err(fail("kill the container"))?;
    container.plan()?.cgroup.thaw()?;
    let ended =
        process::poll_readable(&[pidfd.as_fd()], 10_000).map_err(fail("wait for the end"))?;
    match ended.first() {
        Some(true) => Ok(()),
        _ => Err(OciError::State(
            "the container's process does not end: it is stuck in the kernel".into(),
        )),
    }
}

/// `pause`.
pub(super) fn pause(global: &Global, args: &mut Args) -> Outcome {
    let id = args.only_id("pause")?;
    let container = Container::lock(global, &id)?;
    match container.status()? {
        Status::Running | Status::Created => Ok(container.plan()?.cgroup.freeze().map(|()| 0)?),
        other => {
            Err(OciError::State(format!("container not running or created: {}", other.name())))
        }
    }
}

/// `resume`.
pub(super) fn resume(global: &Global, args: &mut Args) -> Outcome {
    let id = args.only_id("resume")?;
    let container = Container::lock(global, &id)?;
    match container.status()? {
        Status::Paused => Ok(container.plan()?.cgroup.thaw().map(|()| 0)?),
        _ => Err(OciError::State("container not paused".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("kill", 9),
            ("9", 9),
            ("0", 0),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("sigsys", 31),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "SIG", "65", "-1", "NOPE", "RTMIN+99", "RTMINX"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
