//! The inside of a container's birth: from a copy of the creating process to the program.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use wharf_sys::fs::{self, Mode, OFlags};
use wharf_sys::process;
use wharf_sys::security::{self, CapSets};
use wharf_sys::{errno, host, tty, tuning};

use crate::cgroup;
use crate::channel::{Child, Down, Up};
use crate::create::ConsoleSize;
use crate::failure::{ExecFault, Failure};
use crate::hooks;
use crate::plan::{CapPlan, Filter, Identity, Plan, ProcessPlan};
use crate::rootfs::{Mounted, Mounter, Sources};
use crate::tree::{self, Want};

/// The program's standard descriptors, or a terminal to be made for it.
pub(crate) enum Stdio {
    Given([OwnedFd; 3]),
    Terminal(ConsoleSize),
}

/// What the process waits for before it runs the program, and where it then reports.
pub(crate) enum Gate {
    /// The creating process, on the channel.
    Channel,
    /// Any process that knows the two fifos: a byte on the first opens; the second takes the
    /// failure, and its end means success.
    Fifos { start: OwnedFd, status: OwnedFd },
}

/// All the first process starts from.
pub(crate) struct Birth<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stdio: Stdio,
    pub(crate) sources: Sources,
    pub(crate) gate: Gate,
    pub(crate) channel: Child,
    /// Namespaces to join here, opened before: the bit and the file.
    pub(crate) join: Vec<(u64, OwnedFd)>,
}

const SYS_ADMIN: u64 = 1 << 21;

impl Birth<'_> {
    /// Becomes the program, or reports why not and ends.
    pub(crate) fn run(self) -> ! {
        let Self { plan, stdio, sources, gate, channel, join } = self;
        let prepared = prepare(plan, stdio, sources, &channel, join);
        let outcome = prepared.and_then(|program| {
            channel.say(&Up::Ready, None).map_err(|e| Failure::step("report readiness", &e))?;
            match gate {
                Gate::Channel => {
                    channel.hear(Down::Go).map_err(|e| Failure::step("wait for the start", &e))?;
                    Ok((program, None))
                }
                Gate::Fifos { start, status } => {
                    let mut byte = [0];
                    File::from(start)
                        .read_exact(&mut byte)
                        .map_err(|e| Failure::step("wait for the start", &e))?;
                    Ok((program, Some(status)))
                }
            }
        });
        let (failure, status) = match outcome {
            Ok((program, status)) => (run_program(plan, &program), status),
            Err(failure) => (failure, None),
        };
        report(failure, &channel, status)
    }
}

/// Reports a failure to whoever waits, and ends.
fn report(failure: Failure, channel: &Child, status: Option<OwnedFd>) -> ! {
    let code = failure.exit_code();
    match status {
        Some(status) => {
            let bytes = postcard::to_stdvec(&failure).unwrap_or_default();
            // Nobody is left to tell that telling failed; the exit code still speaks.
            drop(File::from(status).write_all(&bytes));
        }
        None => drop(channel.say(&Up::Failed(failure), None)),
    }
    process::exit_now(code)
}

/// Everything up to the gate; returns the program's path.
fn prepare(
    plan: &Plan,
    stdio: Stdio,
    sources: Sources,
    channel: &Child,
    join: Vec<(u64, OwnedFd)>,
) -> Result<CString, Failure> {
    let step = |what: &'static str| move |e: io::Error| Failure::step(what, &e);
    process::set_dumpable(false).map_err(step("clear the dumpable flag"))?;
    if plan.namespaces.maps.is_some() {
        channel.hear(Down::Mapped).map_err(step("wait for the identity maps"))?;
    }
    for (kind, file) in join {
        process::setns(file.as_fd(), kind).map_err(step("join a namespace"))?;
    }
    if plan.has_userns() {
        become_root_of_userns().map_err(step("become root of the user namespace"))?;
    }
    // A session of its own, so that no terminal of the caller is the container's (and init dies with it).
    process::setsid().map_err(|e| Failure::step("start a session", &e.into()))?;
    if let Some(name) = &plan.keyring {
        match security::join_session_keyring(name) {
            // A kernel without keyrings has none to protect.
            Err(e) if e.raw_os_error() != Some(errno::NOSYS) => {
                return Err(Failure::step("join a session keyring", &e));
            }
            _ => (),
        }
    }
    let mut placed =
        Placed { channel, done: false, new_ns: plan.namespaces.new & process::NEWCGROUP != 0 };
    let mounted = mount(plan, sources, &mut placed)?;
    name_things(&plan.identity)?;
    // Hooks and terminal speak on the same channel: the word that is due must be heard first.
    placed.wait()?;
    run_create_hooks(plan, channel)?;
    let terminal = connect(&mounted, stdio, plan, channel)?;
    set_sysctls(&plan.identity.sysctls, mounted.proc.as_ref())?;
    let attr = open_attr(&plan.process, mounted.proc.as_ref())?;
    tree::find_or_make(mounted.root.as_fd(), &plan.process.cwd, Want::Dir)
        .map_err(|e| Failure::step(format!("mkdir {}", plan.process.cwd.display()), &e))?;
    mounted.restrict(&plan.rootfs)?;
    mounted.enter(&plan.rootfs)?;
    drop((mounted, terminal));
    let program = become_user(&plan.process, attr)?;
    // A listener has to be handed over while its taker is there, which is before the gate.
    if let Some(filter) = plan.seccomp.as_ref().filter(|f| f.listener.is_some()) {
        load_filter(filter, channel)?;
    }
    Ok(program)
}

/// Waits, once, for the cgroup to be there, and enters it.
struct Placed<'a> {
    channel: &'a Child,
    done: bool,
    new_ns: bool,
}

impl Placed<'_> {
    fn wait(&mut self) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        let doors = self.channel.take(Down::Placed);
        let doors = doors.map_err(|e| Failure::step("wait for the cgroup", &e))?;
        cgroup::enter(doors)?;
        if self.new_ns {
            // Only now: the namespace's root is the cgroup its maker is in.
            process::unshare(process::NEWCGROUP)
                .map_err(|e| Failure::step("make a cgroup namespace", &e))?;
        }
        self.done = true;
        Ok(())
    }
}

fn mount(plan: &Plan, sources: Sources, placed: &mut Placed<'_>) -> Result<Mounted, Failure> {
    let cgroup_ns = placed.new_ns;
    Mounter {
        plan: &plan.rootfs,
        cgroup: &plan.cgroup,
        cgroup_ns,
        sources,
        before_cgroup: &mut || placed.wait(),
    }
    .mount()
}

/// In a user namespace the process has all capabilities but still a foreign identity.
pub(crate) fn become_root_of_userns() -> io::Result<()> {
    match process::set_groups(&[]) {
        // A namespace whose maker was not privileged forbids it; its groups are mapped away.
        Err(e) if e.raw_os_error() != Some(errno::PERM) => return Err(e),
        _ => (),
    }
    process::set_identity(0, 0)
}

fn name_things(identity: &Identity) -> Result<(), Failure> {
    if identity.loopback {
        host::loopback_up().map_err(|e| Failure::step("bring up the loopback interface", &e))?;
    }
    if let Some(name) = &identity.hostname {
        host::set_hostname(name).map_err(|e| Failure::step(format!("sethostname {name:?}"), &e))?;
    }
    if let Some(name) = &identity.domainname {
        host::set_domainname(name)
            .map_err(|e| Failure::step(format!("setdomainname {name:?}"), &e))?;
    }
    set_habits(identity.personality, identity.memory_policy.as_ref())
}

/// How the kernel treats the process: as which machine it appears, and where its memory is.
pub(crate) fn set_habits(
    personality: Option<u32>,
    memory: Option<&(i32, Vec<u64>)>,
) -> Result<(), Failure> {
    if let Some(domain) = personality {
        tuning::set_personality(domain).map_err(|e| Failure::step("set personality", &e))?;
    }
    if let Some((mode, nodes)) = memory {
        tuning::set_memory_policy(*mode, nodes)
            .map_err(|e| Failure::step("set memory policy", &e))?;
    }
    Ok(())
}

fn run_create_hooks(plan: &Plan, channel: &Child) -> Result<(), Failure> {
    let Some(hooks) = &plan.hooks else { return Ok(()) };
    if hooks.before_pivot() {
        let exchange = || {
            channel.say(&Up::Mounted, None)?;
            channel.hear(Down::HooksRan)
        };
        exchange().map_err(|e| Failure::step("wait for hooks", &e))?;
    }
    hooks::run_all(&hooks.create_container, &hooks.state("creating", own_pid()))
}

fn own_pid() -> i32 {
    process::getpid().as_raw_nonzero().get()
}

/// Gives the process its standard descriptors. The terminal stays open until the root is entered.
fn connect(
    mounted: &Mounted,
    stdio: Stdio,
    plan: &Plan,
    channel: &Child,
) -> Result<Option<OwnedFd>, Failure> {
    let size = match stdio {
        Stdio::Given(fds) => {
            give(&fds, plan.process.uid)?;
            return Ok(None);
        }
        Stdio::Terminal(size) => size,
    };
    let master = mounted.open_terminal()?;
    let terminal = open_terminal(&master, size, &plan.process)?;
    if plan.rootfs.own_dev {
        mounted.mount_console(&terminal)?;
    }
    hand_over(&Up::Console, master, channel)?;
    Ok(Some(terminal))
}

/// Makes the other side of a terminal this process's own.
pub(crate) fn open_terminal(
    master: &OwnedFd,
    size: ConsoleSize,
    process: &ProcessPlan,
) -> Result<OwnedFd, Failure> {
    let attempt = || {
        let terminal = tty::open_peer(master)?;
        if size != ConsoleSize::default() {
            tty::set_size(&terminal, size.rows, size.cols)?;
        }
        if process.relayed {
            tty::keep_new_lines(&terminal)?;
        }
        own_stdio(&terminal, process.uid)?;
        tty::make_controlling(&terminal)?;
        process::become_stdio(&terminal, &terminal, &terminal)?;
        Ok(terminal)
    };
    attempt().map_err(|e| Failure::step("set up the terminal", &e))
}

/// Sends a descriptor to the parent and waits until it has it.
pub(crate) fn hand_over(what: &Up, fd: OwnedFd, channel: &Child) -> Result<(), Failure> {
    let attempt = || {
        channel.say(what, Some(fd.as_fd()))?;
        channel.hear(Down::Taken)
    };
    attempt().map_err(|e| Failure::step("hand over a descriptor", &e))
}

/// Makes three descriptors the standard ones.
pub(crate) fn give(fds: &[OwnedFd; 3], uid: u32) -> Result<(), Failure> {
    let attempt = || {
        for fd in fds {
            own_stdio(fd, uid)?;
        }
        process::become_stdio(&fds[0], &fds[1], &fds[2])
    };
    attempt().map_err(|e| Failure::step("set up standard descriptors", &e))
}

/// The program's user may reopen its output (`/dev/stderr`) only when the pipe is the user's.
fn own_stdio(fd: &OwnedFd, uid: u32) -> io::Result<()> {
    let stat = fs::fstat(fd)?;
    if stat.st_uid == uid || fs::is_char_device(fd.as_fd(), 1, 3)? {
        return Ok(());
    }
    match std::os::unix::fs::fchown(fd, Some(uid), None) {
        // Sockets and foreign owners stay as they are; the program can still use the descriptor.
        Err(e)
            if ![errno::INVAL, errno::PERM, errno::ROFS].map(Some).contains(&e.raw_os_error()) =>
        {
            Err(e)
        }
        _ => Ok(()),
    }
}

/// Writes kernel parameters through a procfs of this process's own making: no mount of the image
/// can stand in for it (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881).
fn set_sysctls(sysctls: &[(String, String)], proc: Option<&OwnedFd>) -> Result<(), Failure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let private;
    let proc = match proc {
        Some(proc) => proc,
        None => {
            private = private_proc()?;
            &private
        }
    };
    for (path, value) in sysctls {
        let attempt =
            || tree::open_to_write(proc, format!("sys/{path}"))?.write_all(value.as_bytes());
        attempt().map_err(|e| Failure::step(format!("write sysctl {path} = {value:?}"), &e))?;
    }
    Ok(())
}

/// A procfs nobody else can see or mount over.
pub(crate) fn private_proc() -> Result<OwnedFd, Failure> {
    crate::rootfs::new_fs("proc", Some("proc"), &[], None, 0)
        .map_err(|e| Failure::step("open a private procfs", &e))
}

/// The file and text by which a security module is told the label of the program to come.
pub(crate) struct ExecLabel {
    file: File,
    text: String,
}

/// Opens the label file while the genuine procfs is at hand.
pub(crate) fn open_attr(
    process: &ProcessPlan,
    proc: Option<&OwnedFd>,
) -> Result<Option<ExecLabel>, Failure> {
    let (path, text) = match (&process.apparmor, &process.selinux) {
        (Some(profile), _) => ("self/attr/apparmor/exec", format!("exec {profile}")),
        (None, Some(label)) => ("self/attr/exec", label.clone()),
        (None, None) => return Ok(None),
    };
    let private;
    let proc = match proc {
        Some(proc) => proc,
        None => {
            private = private_proc()?;
            &private
        }
    };
    // `self` is a link within procfs, so this one path may follow links, but not leave the mount.
    let open = |path: &str| -> io::Result<File> {
        let fd = fs::open_in_root(proc, path, OFlags::WRONLY)?;
        if fs::fs_magic(fd.as_fd())? != fs::PROC_MAGIC {
            return Err(io::Error::other("not procfs"));
        }
        Ok(fd.into())
    };
    let file = open(path)
        .or_else(|_| open("self/attr/exec"))
        .map_err(|e| Failure::step(format!("open /proc/{path}"), &e))?;
    Ok(Some(ExecLabel { file, text }))
}

/// Takes the process's identity and finds its program: all that is left is the gate.
pub(crate) fn become_user(
    process: &ProcessPlan,
    label: Option<ExecLabel>,
) -> Result<CString, Failure> {
    if let Some(mut label) = label {
        label
            .file
            .write_all(label.text.as_bytes())
            .map_err(|e| Failure::step(format!("apply label {:?}", label.text), &e))?;
    }
    tune(process)?;
    // Before the change of user: root may enter what the user may not. After it: the reverse, on
    // file systems that refuse root.
    let early = enter_cwd(process);
    take_identity(process)?;
    if early.is_err() {
        enter_cwd(process)?;
    }
    if let Some(mask) = process.umask {
        process::umask(Mode::from_raw_mode(mask));
    } else {
        process::umask(Mode::from_raw_mode(0o022));
    }
    find_program(process)
}

fn tune(process: &ProcessPlan) -> Result<(), Failure> {
    if let Some(priority) = process.io_priority {
        tuning::set_io_priority(priority).map_err(|e| Failure::step("set io priority", &e))?;
    }
    if let Some(scheduler) = process.scheduler {
        tuning::set_scheduler(scheduler).map_err(|e| Failure::step("set scheduler", &e))?;
    }
    for &(resource, soft, hard) in &process.rlimits {
        let what = || format!("set resource limit {resource} to {soft}:{hard}");
        tuning::set_limit(0, resource, soft, hard).map_err(|e| Failure::step(what(), &e))?;
    }
    Ok(())
}

/// Enters the working directory, which must be inside the root (CVE-2024-21626): no link of
/// procfs is followed, and the kernel must know a path from `/` to it.
fn enter_cwd(process: &ProcessPlan) -> Result<(), Failure> {
    let cwd = &process.cwd;
    let step = |e: io::Error| {
        Failure::step(format!("chdir to cwd ({:?}) set in config.json failed", cwd.display()), &e)
    };
    let root = fs::openat(fs::CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| step(e.into()))?;
    let dir = fs::open_in_root(&root, cwd, OFlags::PATH | OFlags::DIRECTORY).map_err(step)?;
    process::fchdir(dir).map_err(|e| step(e.into()))?;
    match process::getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Failure::Refused {
            what: format!("cwd {:?} is outside of the container's root", cwd.display()),
        }),
    }
}

fn take_identity(process: &ProcessPlan) -> Result<(), Failure> {
    let step = |what: &'static str| move |e: io::Error| Failure::step(what, &e);
    if let Some(caps) = &process.caps {
        security::limit_bounding_set(caps.bounding, process.last_cap)
            .map_err(step("limit the bounding set"))?;
    }
    process::keep_capabilities(true).map_err(step("keep capabilities"))?;
    match process::set_groups(&process.groups) {
        // In a user namespace without setgroups there are none to set.
        Err(e)
            if process.userns
                && process.groups.is_empty()
                && e.raw_os_error() == Some(errno::PERM) => {}
        other => other.map_err(step("setgroups"))?,
    }
    process::set_identity(process.uid, process.gid)
        .map_err(|e| Failure::step(format!("take user {}:{}", process.uid, process.gid), &e))?;
    process::keep_capabilities(false).map_err(step("stop keeping capabilities"))?;
    if process.no_new_privs {
        process::set_no_new_privs(true).map_err(|e| step("set no_new_privs")(e.into()))?;
    }
    if let Some(caps) = &process.caps {
        // Loading a filter without no_new_privs needs SYS_ADMIN a moment longer.
        let extra = if process.no_new_privs { 0 } else { SYS_ADMIN };
        let sets = CapSets {
            effective: caps.effective | extra,
            permitted: caps.permitted | extra,
            inheritable: caps.inheritable,
        };
        security::set_capabilities(sets)
            .or_else(|e| {
                // Where the caller itself lacks it, the filter says so when it is loaded.
                if extra == 0 { Err(e) } else { security::set_capabilities(final_sets(caps)) }
            })
            .map_err(step("apply capabilities"))?;
    }
    Ok(())
}

fn final_sets(caps: &CapPlan) -> CapSets {
    CapSets { effective: caps.effective, permitted: caps.permitted, inheritable: caps.inheritable }
}

/// Finds the program as the process will be: its user, its directory, its `PATH`.
fn find_program(process: &ProcessPlan) -> Result<CString, Failure> {
    let name = &process.args[0];
    let fail = |fault| Failure::Exec { program: name.to_string_lossy().into_owned(), fault };
    let text = Path::new(OsStr::from_bytes(name.as_bytes()));
    if name.as_bytes().contains(&b'/') {
        return match executable(text) {
            Ok(()) => Ok(name.clone()),
            Err(fault) => Err(fail(fault)),
        };
    }
    let path = process.env.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH="));
    for dir in path.unwrap_or_default().split(|&b| b == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let candidate: PathBuf = Path::new(OsStr::from_bytes(dir)).join(text);
        if !name.is_empty() && executable(&candidate).is_ok() {
            return CString::new(candidate.into_os_string().as_bytes())
                .map_err(|_| fail(ExecFault::NotInPath));
        }
    }
    Err(fail(ExecFault::NotInPath))
}

fn executable(path: &Path) -> Result<(), ExecFault> {
    let code = |e: &io::Error| e.raw_os_error().unwrap_or(errno::INVAL);
    let meta = std::fs::metadata(path).map_err(|e| ExecFault::Stat(code(&e)))?;
    if meta.is_dir() {
        return Err(ExecFault::Directory);
    }
    // Without any execute bit not even root may.
    if meta.mode() & 0o111 == 0 || fs::can_execute(path).is_err() {
        return Err(ExecFault::Denied);
    }
    Ok(())
}

/// Installs the filter; a notification descriptor goes to the parent.
pub(crate) fn load_filter(filter: &Filter, channel: &Child) -> Result<(), Failure> {
    let listener = security::load_filter(&filter.program, filter.flags)
        .map_err(|e| Failure::step("load the seccomp filter", &e))?;
    listener.map_or(Ok(()), |fd| hand_over(&Up::Listener, fd, channel))
}

/// The last steps, after the gate. Returns only with the reason why the program does not run.
fn run_program(plan: &Plan, program: &CString) -> Failure {
    if let Some(hooks) = plan.hooks.as_ref().filter(|h| !h.start_container.is_empty()) {
        let state = hooks.state("created", own_pid());
        if let Err(failure) = hooks::run_all(&hooks.start_container, &state) {
            return failure;
        }
    }
    if plan.reaper
        && let Err(e) = wharf_sys::reaper::split_off()
    {
        return Failure::step("start an init process", &e);
    }
    let filter = plan.seccomp.as_ref().filter(|f| f.listener.is_none());
    run(&plan.process, program, filter)
}

/// Closes what is not the program's, filters, drops the last capability, and becomes the program.
pub(crate) fn run(process: &ProcessPlan, program: &CString, filter: Option<&Filter>) -> Failure {
    match last_steps(process, filter) {
        Ok(env) => {
            let error = process::execve(program, &process.args, &env);
            let errno = error.raw_os_error().unwrap_or(errno::INVAL);
            let fault = match foreign(program) {
                Some(machine) if errno == wharf_sys::errno::NOEXEC => ExecFault::Foreign(machine),
                _ => ExecFault::Execve(errno),
            };
            Failure::Exec { program: program.to_string_lossy().into_owned(), fault }
        }
        Err(failure) => failure,
    }
}

/// Looks at a program that the kernel did not take.
fn foreign(program: &CString) -> Option<u16> {
    let mut head = [0; 20];
    let path = Path::new(OsStr::from_bytes(program.as_bytes()));
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).ok()?;
    crate::failure::foreign_machine(&head)
}

fn last_steps(process: &ProcessPlan, filter: Option<&Filter>) -> Result<Vec<CString>, Failure> {
    let step = |what: &'static str| move |e: io::Error| Failure::step(what, &e);
    let env = with_home(process);
    match &process.affinity.1 {
        Some(cpus) => tuning::set_affinity(cpus).map_err(step("set cpu affinity"))?,
        // Not the processors that the caller is bound to, but all of the cgroup's: the kernel leaves out the others.
        None => drop(tuning::set_affinity(&[u64::MAX; 128])),
    }
    process::cloexec_from(3 + process.preserve_fds).map_err(step("close descriptors"))?;
    process::reset_signals();
    if let Some(filter) = filter {
        security::load_filter(&filter.program, filter.flags)
            .map_err(step("load the seccomp filter"))?;
    }
    if let Some(caps) = &process.caps {
        if !process.no_new_privs {
            security::set_capabilities(final_sets(caps)).map_err(step("apply capabilities"))?;
        }
        if caps.ambient != 0 {
            security::set_ambient(caps.ambient, process.last_cap)
                .map_err(step("apply ambient capabilities"))?;
        }
    }
    Ok(env)
}

/// The environment with `HOME`, which runc takes from the image's user list when it is not given, or empty.
fn with_home(process: &ProcessPlan) -> Vec<CString> {
    let mut env = process.env.clone();
    env.retain(|e| e.as_bytes() != b"HOME=");
    if !env.iter().any(|e| e.as_bytes().starts_with(b"HOME=")) {
        let list = std::fs::read("/etc/passwd").unwrap_or_default();
        let mut entry = b"HOME=".to_vec();
        entry.extend_from_slice(home_of(&list, process.uid).unwrap_or(b"/"));
        env.extend(CString::new(entry));
    }
    env
}

fn home_of(list: &[u8], uid: u32) -> Option<&[u8]> {
    let wanted = uid.to_string();
    list.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let id = fields.nth(2)?;
        (id == wanted.as_bytes()).then(|| fields.nth(2))?.filter(|home| !home.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_found_by_number_only() {
        let list =
            b"root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/evil:/bin/sh\nme:x:1000:7::/home/me:\n";
        assert_eq!(home_of(list, 1000), Some(&b"/home/me"[..]));
        assert_eq!(home_of(list, 0), Some(&b"/root"[..]));
        assert_eq!(home_of(list, 5), None);
        assert_eq!(home_of(b"short:line\n", 0), None);
    }
}
