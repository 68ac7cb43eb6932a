//! Commands about the processes of a running container: `exec` and `ps`.

use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};

use super::args::{Args, unknown};
use super::lifecycle::{
    console_size, inherit_stdio, send_console, send_pidfd, use_own_copy, write_pid_file,
};
use super::state::{Container, Status};
use super::{Global, OciError, Outcome, document, foreground, print};
use crate::cgroup::Cgroup;
use crate::create::{Init, Io};
use crate::exec::{ExecPlan, ExecProcess, Target};
use crate::host::HostFacts;

#[derive(Debug, Default)]
struct Flags {
    process: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    detach: bool,
    tty: bool,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<(u32, u32)>,
    groups: Vec<u32>,
    caps: Vec<String>,
    apparmor: Option<String>,
    label: Option<String>,
    no_new_privs: bool,
    preserve_fds: u32,
    ignore_paused: bool,
    /// Cgroups below the container's to enter: of these controllers, or of all, this path.
    cgroups: Vec<(Option<String>, String)>,
}

impl Flags {
    fn parse(args: &mut Args) -> Result<Self, OciError> {
        let mut out = Self::default();
        while let Some(flag) = args.flag() {
            match flag.as_str() {
                "process" | "p" => out.process = Some(args.value(&flag)?.into()),
                "console-socket" => out.console_socket = Some(args.value(&flag)?.into()),
                "pid-file" => out.pid_file = Some(args.value(&flag)?.into()),
                "pidfd-socket" => out.pidfd_socket = Some(args.value(&flag)?.into()),
                "detach" | "d" => out.detach = args.switch(&flag)?,
                "tty" | "t" => out.tty = args.switch(&flag)?,
                "cwd" => out.cwd = Some(args.value(&flag)?),
                "env" | "e" => out.env.push(args.value(&flag)?),
                "user" | "u" => out.user = Some(parse_user(&args.value(&flag)?)?),
                "additional-gids" | "g" => out.groups.push(args.number(&flag)?),
                "cap" | "c" => out.caps.push(args.value(&flag)?),
                "apparmor" => out.apparmor = Some(args.value(&flag)?),
                "process-label" => out.label = Some(args.value(&flag)?),
                "no-new-privs" => out.no_new_privs = args.switch(&flag)?,
                "preserve-fds" => out.preserve_fds = args.number(&flag)?,
                "ignore-paused" => out.ignore_paused = args.switch(&flag)?,
                "cgroup" => out.cgroups.extend(parse_cgroup(&args.value(&flag)?)?),
                "no-subreaper" => args.no_value(&flag)?,
                other => return Err(unknown("exec", other)),
            }
        }
        let all = out.cgroups.iter().any(|(controller, _)| controller.is_none());
        let mut names: Vec<_> = out.cgroups.iter().map(|(controller, _)| controller).collect();
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) || (all && names.len() > 1) {
            let why = "invalid --cgroup: name each controller once, or a path without one alone";
            return Err(OciError::Usage(why.into()));
        }
        Ok(out)
    }

    /// Where the process is accounted.
    fn cgroup(&self, container: &Cgroup) -> Result<Cgroup, OciError> {
        let enter = |group: Cgroup, (controller, path): &(Option<String>, String)| {
            group.below(controller.as_deref(), path)
        };
        Ok(self.cgroups.iter().try_fold(container.clone(), enter)?)
    }
}

/// `path`, or `controller[,controller…]:path`.
fn parse_cgroup(text: &str) -> Result<Vec<(Option<String>, String)>, OciError> {
    let Some((controllers, path)) = text.split_once(':') else {
        return Ok(vec![(None, text.to_owned())]);
    };
    let controllers = controllers.split(',').map(|name| match name {
        "" => Err(OciError::Usage(format!("invalid --cgroup argument {text:?}: empty controller"))),
        name => Ok((Some(name.to_owned()), path.to_owned())),
    });
    controllers.collect()
}

/// `uid[:gid]`, numbers only and all of them: what cannot be read is refused and never taken for
/// root (CVE-2026-30892). A lone uid means group 0, as for runc.
fn parse_user(text: &str) -> Result<(u32, u32), OciError> {
    let bad = || OciError::Usage(format!("parsing user {text:?}: must be uid[:gid], in numbers"));
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        // The last number means "no change" to the kernel.
        if !digits {
            return Err(bad());
        }
        part.parse::<u32>().ok().filter(|&n| n != u32::MAX).ok_or_else(bad)
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, number(gid)?)),
        None => Ok((number(text)?, 0)),
    }
}

/// `exec`: a further process.
pub(super) fn exec(global: &Global, args: &mut Args) -> Outcome {
    let flags = Flags::parse(args)?;
    let id = args.id("exec")?;
    let words = args.rest();
    let container = Container::open(global, &id)?;
    match container.status()? {
        Status::Stopped => {
            return Err(OciError::State("cannot exec in a stopped container".into()));
        }
        Status::Paused if !flags.ignore_paused => {
            return Err(OciError::State(
                "cannot exec in a paused container (use --ignore-paused to override)".into(),
            ));
        }
        _ => (),
    }
    use_own_copy()?;
    let process = described(global, &flags, words, &container)?;
    document::warn_of_ambient(global, &process);
    let parent = container.plan()?;
    let mut plan = ExecPlan::compile(&process, &parent, &HostFacts::probe()?)?;
    plan.preserve_fds(flags.preserve_fds);
    if flags.console_socket.is_none() && !flags.detach {
        plan.relay_terminal();
    }
    let target = Target::open(container.record.pid, flags.cgroup(&parent.cgroup)?)
        .map_err(|source| OciError::Sys { doing: "open the container's process", source })?;
    let io = if plan.terminal() {
        Io { console: Some(console_size(process.console_size())), ..Io::default() }
    } else {
        inherit_stdio()?
    };
    let mut started = crate::exec::exec(&target, &plan, io)?;
    global.debug(&format!("process {} runs in container {id}", started.pid));
    write_pid_file(flags.pid_file.as_deref(), started.pid)?;
    send_pidfd(flags.pidfd_socket.as_deref(), started.pid, "setns")?;
    supervise(&flags, &mut started)
}

fn supervise(flags: &Flags, started: &mut ExecProcess) -> Outcome {
    let mut console = started.console.take();
    if let (Some(path), Some(master)) = (&flags.console_socket, &console) {
        send_console(path, master)?;
        console = None;
    }
    if flags.detach {
        return Ok(0);
    }
    let pidfd = started
        .pidfd
        .try_clone()
        .map_err(|source| OciError::Sys { doing: "copy a descriptor", source })?;
    let init = Init { pid: started.pid, pidfd };
    foreground::Supervisor::new()?.wait(&init, console).map(crate::Exit::code)
}

/// The process: from a file, or the container's own with what the flags change.
fn described(
    global: &Global,
    flags: &Flags,
    words: Vec<String>,
    container: &Container,
) -> Result<Process, OciError> {
    if let Some(path) = &flags.process {
        return document::process(global, path);
    }
    if words.is_empty() {
        return Err(OciError::Usage("process args cannot be empty".into()));
    }
    let spec = document::spec(global, &container.record.bundle)?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(words));
    process.set_terminal(Some(flags.tty));
    if let Some(cwd) = &flags.cwd {
        process.set_cwd(cwd.into());
    }
    if !flags.env.is_empty() {
        process.env_mut().get_or_insert_default().extend(flags.env.iter().cloned());
    }
    if let Some((uid, gid)) = flags.user {
        process.user_mut().set_uid(uid);
        process.user_mut().set_gid(gid);
    }
    if !flags.groups.is_empty() {
        let groups = process.user_mut().additional_gids_mut().get_or_insert_default();
        groups.extend(&flags.groups);
    }
    if let Some(profile) = &flags.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &flags.label {
        process.set_selinux_label(Some(label.clone()));
    }
    if flags.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    add_caps(&mut process, &flags.caps)?;
    Ok(process)
}

fn add_caps(process: &mut Process, names: &[String]) -> Result<(), OciError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut caps = process.capabilities().clone().unwrap_or_default();
    let more: Vec<Capability> = names
        .iter()
        .map(|name| {
            serde_json::from_value(name.as_str().into())
                .map_err(|_| OciError::Usage(format!("unknown capability {name:?}")))
        })
        .collect::<Result<_, _>>()?;
    // Not inheritable (CVE-2022-29162), and ambient only where the container has inheritable ones, as runc does.
    let with = |set: &Option<Capabilities>| -> Option<Capabilities> {
        Some(set.iter().flatten().copied().chain(more.iter().copied()).collect())
    };
    let new: LinuxCapabilities = {
        caps.set_bounding(with(caps.bounding()));
        caps.set_effective(with(caps.effective()));
        caps.set_permitted(with(caps.permitted()));
        if caps.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            caps.set_ambient(with(caps.ambient()));
        }
        caps
    };
    process.set_capabilities(Some(new));
    Ok(())
}

/// `ps`: the processes of the container, as the host sees them.
pub(super) fn ps(global: &Global, args: &mut Args) -> Outcome {
    let mut json = false;
    while let Some(flag) = args.flag() {
        match flag.as_str() {
            "format" | "f" => match args.value(&flag)?.as_str() {
                "json" => json = true,
                "table" => json = false,
                other => return Err(OciError::Usage(format!("invalid format option {other:?}"))),
            },
            other => return Err(unknown("ps", other)),
        }
    }
    let id = args.id("ps")?;
    let options = args.rest();
    // Options of ps(1) choose columns; without it there is one set of columns, which -ef shows.
    if !options.is_empty() && options != ["-ef"] {
        return Err(OciError::Usage(format!(
            "ps: options {options:?} are not supported: use --format json"
        )));
    }
    let container = Container::open(global, &id)?;
    let pids = container.plan()?.cgroup.pids()?;
    if json {
        return print(&format!("{}\n", serde_json::json!(pids)));
    }
    let mut text = format!("{:<8} {:>7} {:>7} CMD\n", "UID", "PID", "PPID");
    for pid in pids {
        text.push_str(&line(pid).unwrap_or_default());
    }
    print(&text)
}

/// One line of the table; a process may be gone by now.
fn line(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next());
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let name = if command.is_empty() { format!("[{}]", field("Name:")?) } else { command };
    Some(format!("{:<8} {:>7} {:>7} {name}\n", field("Uid:")?, pid, field("PPid:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_errors() {
        for (text, user) in
            [("1", (1, 0)), ("1:2", (1, 2)), ("0", (0, 0)), ("4294967294:7", (4_294_967_294, 7))]
        {
            assert_eq!(parse_user(text).unwrap(), user, "{text}");
        }
        for bad in [
            "",
            "name",
            "name:grp",
            ":1",
            "1:",
            "+1",
            "-1",
            "1:2:3",
            "99999999999",
            "4294967295",
            " 1",
            "0x1",
        ] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
    }
}
