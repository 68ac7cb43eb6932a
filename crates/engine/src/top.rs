//! `docker top`: the container's processes, read from `/proc` as `ps` would show them.

use wharf_spec::docker::TopResponse;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::inner::Inner;
use crate::state::State;

/// A column of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    User,
    Uid,
    Gid,
    Pid,
    Ppid,
    Pgid,
    Cpu,
    MemShare,
    Start,
    Tty,
    Time,
    ElapsedTime,
    Command,
    Program,
    Rss,
    Vsz,
    State,
    Nice,
    Threads,
}

use Column as C;

/// Names that `-o` takes, what they show, and their title.
const NAMES: &[(&str, Column, &str)] = &[
    ("user", C::User, "USER"),
    ("euser", C::User, "EUSER"),
    ("uname", C::User, "USER"),
    ("uid", C::Uid, "UID"),
    ("euid", C::Uid, "EUID"),
    ("gid", C::Gid, "GID"),
    ("egid", C::Gid, "EGID"),
    ("pid", C::Pid, "PID"),
    ("ppid", C::Ppid, "PPID"),
    ("pgid", C::Pgid, "PGID"),
    ("pgrp", C::Pgid, "PGRP"),
    ("c", C::Cpu, "C"),
    ("%cpu", C::Cpu, "%CPU"),
    ("pcpu", C::Cpu, "%CPU"),
    ("%mem", C::MemShare, "%MEM"),
    ("pmem", C::MemShare, "%MEM"),
    ("stime", C::Start, "STIME"),
    ("start", C::Start, "STARTED"),
    ("tty", C::Tty, "TT"),
    ("tt", C::Tty, "TT"),
    ("time", C::Time, "TIME"),
    ("cputime", C::Time, "TIME"),
    ("etime", C::ElapsedTime, "ELAPSED"),
    ("cmd", C::Command, "CMD"),
    ("args", C::Command, "COMMAND"),
    ("command", C::Command, "COMMAND"),
    ("comm", C::Program, "COMMAND"),
    ("ucmd", C::Program, "CMD"),
    ("rss", C::Rss, "RSS"),
    ("vsz", C::Vsz, "VSZ"),
    ("stat", C::State, "STAT"),
    ("state", C::State, "S"),
    ("s", C::State, "S"),
    ("ni", C::Nice, "NI"),
    ("nice", C::Nice, "NI"),
    ("nlwp", C::Threads, "NLWP"),
    ("thcount", C::Threads, "THCNT"),
];

type Titled = (Column, String);

impl Inner {
    /// Blocks on `/proc` only.
    pub(crate) fn top(&self, c: &Container, ps_args: &str) -> Result<TopResponse> {
        match c.state() {
            State::Restarting(_) => return Err(EngineError::restarting(c.id.as_str())),
            s if s.run().is_none() => return Err(EngineError::not_running(c.id.as_str())),
            _ => (),
        }
        let columns = columns(ps_args)?;
        let record = c.record();
        let mut pids = self
            .cgroup(&record)
            .pids()
            .map_err(|e| EngineError::system("list the container's processes", e))?;
        pids.sort_unstable();
        let host = Host::read();
        let row = |pid: i32| {
            let p = Process::read(pid)?;
            Some(columns.iter().map(|(column, _)| p.show(*column, &host)).collect())
        };
        // Processes that end meanwhile are left out.
        let processes = pids.into_iter().filter_map(row).collect();
        self.emit(&record, "top", &[]);
        let titles = columns.iter().map(|(_, title)| title.clone()).collect();
        Ok(TopResponse { titles, processes })
    }
}

/// What `ps_args` ask for. Selections such as `-e` or `a` mean nothing here: all processes are shown.
fn columns(ps_args: &str) -> Result<Vec<Titled>> {
    let mut own: Vec<Titled> = Vec::new();
    let mut format: &[(Column, &str)] = FULL;
    let mut words = ps_args.split_whitespace();
    while let Some(word) = words.next() {
        let list = match word {
            "-o" | "o" | "-O" | "--format" => Some(words.next().unwrap_or_default()),
            "-eo" | "-ao" | "-axo" | "axo" | "-Ao" => Some(words.next().unwrap_or_default()),
            _ => word.strip_prefix("-o").or_else(|| word.strip_prefix("--format=")),
        };
        if let Some(list) = list {
            for name in list.split(',').filter(|n| !n.is_empty()) {
                own.push(column(name)?);
            }
            continue;
        }
        format = match word.trim_start_matches('-') {
            flags if !flags.chars().all(|f| "aAdeflFuwxHTL".contains(f)) => {
                return Err(EngineError::invalid(format!(
                    "ps option {word:?} is not supported by wharf: use -ef, aux, -o and a list of columns"
                )));
            }
            flags if flags.contains('u') && !word.starts_with('-') => USERS,
            flags if flags.contains('f') || flags.contains('F') => FULL,
            flags if flags.contains('l') => FULL,
            _ if word == ps_args.trim() => SHORT,
            _ => format,
        };
    }
    if !own.is_empty() {
        if !own.iter().any(|(c, _)| *c == C::Pid) {
            return Err(EngineError::invalid(
                "Couldn't find PID field in ps output: add pid to the columns",
            ));
        }
        return Ok(own);
    }
    Ok(format.iter().map(|(c, title)| (*c, (*title).to_owned())).collect())
}

const FULL: &[(Column, &str)] = &[
    (C::User, "UID"),
    (C::Pid, "PID"),
    (C::Ppid, "PPID"),
    (C::Cpu, "C"),
    (C::Start, "STIME"),
    (C::Tty, "TTY"),
    (C::Time, "TIME"),
    (C::Command, "CMD"),
];

const USERS: &[(Column, &str)] = &[
    (C::User, "USER"),
    (C::Pid, "PID"),
    (C::Cpu, "%CPU"),
    (C::MemShare, "%MEM"),
    (C::Vsz, "VSZ"),
    (C::Rss, "RSS"),
    (C::Tty, "TTY"),
    (C::State, "STAT"),
    (C::Start, "START"),
    (C::Time, "TIME"),
    (C::Command, "COMMAND"),
];

const SHORT: &[(Column, &str)] =
    &[(C::Pid, "PID"), (C::Tty, "TTY"), (C::Time, "TIME"), (C::Program, "CMD")];

fn column(text: &str) -> Result<Titled> {
    let (name, own) = text.split_once('=').map_or((text, None), |(n, t)| (n, Some(t)));
    let found = NAMES.iter().find(|(n, ..)| *n == name.to_ascii_lowercase());
    let (_, column, title) = found.ok_or_else(|| {
        EngineError::invalid(format!("ps column {name:?} is not supported by wharf"))
    })?;
    Ok((*column, own.unwrap_or(title).to_owned()))
}

/// What all rows refer to.
struct Host {
    uptime: u64,
    now: i64,
    memory: u64,
    passwd: String,
}

impl Host {
    fn read() -> Host {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let uptime = text("/proc/uptime");
        let uptime = uptime.split(['.', ' ']).next().and_then(|s| s.parse().ok()).unwrap_or(0);
        let memory = text("/proc/meminfo");
        let memory = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
        let now = wharf_base::clock::Clock::system().unix_nanos() / 1_000_000_000;
        // As dockerd's ps does, names are the host's: the columns say who it is there.
        Host { uptime, now, memory, passwd: text("/etc/passwd") }
    }

    fn user(&self, uid: &str) -> String {
        let name = |line: &str| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            (id == uid).then(|| name.to_owned())
        };
        self.passwd.lines().find_map(name).unwrap_or_else(|| uid.to_owned())
    }
}

/// One process. Times in hundredths of a second, as the kernel counts them for programs.
#[derive(Debug, Default)]
struct Process {
    pid: String,
    uid: String,
    gid: String,
    program: String,
    command: String,
    /// Fields of `/proc/PID/stat` from the state on.
    stat: Vec<String>,
    rss_kib: u64,
    vsz_kib: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let (stat, status) = (text("stat")?, text("status")?);
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process::parse(pid, &stat, &status, &line))
    }

    fn parse(pid: i32, stat: &str, status: &str, line: &[u8]) -> Process {
        // The name is in brackets and may itself have brackets and blanks in it.
        let (open, close) = (stat.find('(').unwrap_or(0), stat.rfind(')').unwrap_or(0));
        let program = stat.get(open + 1..close).unwrap_or_default().to_owned();
        let rest = stat.get(close + 1..).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let kib = |name: &str| field(name).first().and_then(|n| n.parse().ok()).unwrap_or(0);
        // The second number of Uid and Gid is the effective one.
        let id = |name: &str| field(name).get(1).cloned().unwrap_or_default();
        let args: Vec<String> =
            line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        let command = args.join(" ").trim_end().to_owned();
        let command = if command.is_empty() { format!("[{program}]") } else { command };
        Process {
            pid: pid.to_string(),
            uid: id("Uid:"),
            gid: id("Gid:"),
            program,
            command,
            stat: rest.split_whitespace().map(str::to_owned).collect(),
            rss_kib: kib("VmRSS:"),
            vsz_kib: kib("VmSize:"),
        }
    }

    fn number(&self, index: usize) -> u64 {
        self.stat.get(index).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    fn word(&self, index: usize) -> String {
        self.stat.get(index).cloned().unwrap_or_default()
    }

    fn show(&self, column: Column, host: &Host) -> String {
        let cpu = (self.number(11) + self.number(12)) / 100;
        let age = host.uptime.saturating_sub(self.number(19) / 100);
        match column {
            C::User => host.user(&self.uid),
            C::Uid => self.uid.clone(),
            C::Gid => self.gid.clone(),
            C::Pid => self.pid.clone(),
            C::Ppid => self.word(1),
            C::Pgid => self.word(2),
            C::Cpu => (cpu * 100).checked_div(age).unwrap_or(0).to_string(),
            C::MemShare => {
                let tenths = self.rss_kib * 1000 / host.memory.max(1);
                format!("{}.{}", tenths / 10, tenths % 10)
            }
            C::Start => clock_time(host.now - i64::try_from(age).unwrap_or(0)),
            C::Tty => terminal(self.number(4)),
            C::Time => format!("{:02}:{:02}:{:02}", cpu / 3600, cpu / 60 % 60, cpu % 60),
            C::ElapsedTime => elapsed(age),
            C::Command => self.command.clone(),
            C::Program => self.program.clone(),
            C::Rss => self.rss_kib.to_string(),
            C::Vsz => self.vsz_kib.to_string(),
            C::State => self.word(0),
            C::Nice => self.word(16),
            C::Threads => self.word(17),
        }
    }
}

fn terminal(device: u64) -> String {
    match (device >> 8 & 0xfff, device & 0xff) {
        (0, _) => "?".into(),
        (136..=143, minor) => format!("pts/{minor}"),
        (4, minor) => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn clock_time(unix: i64) -> String {
    match jiff::Timestamp::from_second(unix) {
        Ok(t) => t.strftime("%H:%M").to_string(),
        Err(_) => "?".into(),
    }
}

fn elapsed(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h) {
        (0, 0) => format!("{m:02}:{s:02}"),
        (0, _) => format!("{h:02}:{m:02}:{s:02}"),
        _ => format!("{d}-{h:02}:{m:02}:{s:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn titles(args: &str, expected: &[&str]) {
        let got: Vec<String> = columns(args).unwrap().into_iter().map(|(_, t)| t).collect();
        assert_eq!(got, expected, "{args}");
    }

    #[test]
    fn usual_arguments() {
        let full = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
        titles("-ef", &full);
        titles("", &full);
        titles("-e -f", &full);
        assert_eq!(columns("aux").unwrap()[0].1, "USER");
        titles("-o pid,comm", &["PID", "COMMAND"]);
        titles("-eo pid,args=X", &["PID", "X"]);
        titles("-opid,user", &["PID", "USER"]);
        for bad in ["-o comm", "-o pid,flavour", "--sort=x", "-p1"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 34817 7 0 0 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        let status = "Uid:\t0\t33\t0\t0\nGid:\t0\t34\t0\t0\nVmRSS:\t 2048 kB\n";
        let p = Process::parse(7, stat, status, b"x\0-y\0");
        let host = Host { uptime: 11, now: 100, memory: 4096, passwd: "web:x:33:34::/:\n".into() };
        let show = |c| p.show(c, &host);
        assert_eq!((p.program.as_str(), show(C::Command).as_str()), ("a) b (c", "x -y"));
        assert_eq!(
            (show(C::User), show(C::Ppid), show(C::Time)),
            ("web".into(), "1".into(), "00:00:03".into())
        );
        assert_eq!(
            (show(C::Tty), show(C::Cpu), show(C::MemShare)),
            ("pts/1".into(), "30".into(), "50.0".into())
        );
    }
}
