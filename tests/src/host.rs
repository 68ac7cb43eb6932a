//! A host: network, mounts and processes of its own, with an engine on it.

use crate::docker::Output;
use crate::http::{self, Response};
use crate::image::{self, Image};
use crate::namespace::in_network;
use crate::program::{self, Talk};
use crate::terminal::Terminal;
use crate::world::{World, parent_of};
use crate::{PATIENCE, eventually, tools};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What runs the containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The engine under test.
    Wharf,
    /// The reference, from Debian's packages.
    Dockerd,
}

impl Engine {
    /// The engine that `WHARF_TEST_ENGINE` names; wharf without it.
    pub fn chosen() -> Engine {
        match std::env::var("WHARF_TEST_ENGINE").as_deref() {
            Ok("dockerd") => Engine::Dockerd,
            Ok("wharf") | Err(_) => Engine::Wharf,
            Ok(other) => panic!("WHARF_TEST_ENGINE={other}: say wharf or dockerd"),
        }
    }
}

/// Start-up of the host's process 1. It reaps orphans, as bash does, and ends with our pipe.
const INIT: &str = r#"
set -e
mkdir -p "$DIR/cgroup-tree"
mount --rbind /sys/fs/cgroup "$DIR/cgroup-tree"
mount -t sysfs sysfs /sys
mount --move "$DIR/cgroup-tree" /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
"$BUSYBOX" ip link set lo up
if [ -n "$LOWER" ]; then
    mkdir -p "$DIR/upper" "$DIR/work" "$DIR/root"
    mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
    for d in proc sys dev run tmp; do mount --rbind /$d "$DIR/root/$d"; done
    cp "$BUSYBOX" "$DIR/busybox"
    mkdir "$DIR/root/old"
    cd "$DIR/root"
    "$DIR/busybox" pivot_root . old
    "$DIR/busybox" umount -l /old
fi
echo ready
read -r _ || true
"#;

/// Turns standard input into the first socket that sd_listen_fds(3) announces.
const ACTIVATE: &str =
    r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec "$@""#;

/// One machine of a test. Dropping it checks that the engine has left nothing behind, then ends
/// every process on it.
pub struct Host {
    dir: PathBuf,
    engine: Engine,
    flags: Vec<String>,
    namespaces: Child,
    init: u32,
    daemon: Option<Daemon>,
    clean: Option<World>,
}

/// The engine's process, and the nsenter that waits for it.
struct Daemon {
    enter: Child,
    pid: u32,
}

impl Host {
    /// A host with the chosen engine.
    #[track_caller]
    pub fn start() -> Host {
        Host::with_flags(&[])
    }

    /// A host whose engine gets more flags.
    #[track_caller]
    pub fn with_flags(flags: &[&str]) -> Host {
        let mut host = Host::bare(Engine::chosen());
        host.set_flags(flags);
        host.start_daemon();
        host.clean = Some(host.world());
        host
    }

    /// A host with `busybox:latest` in its image store.
    #[track_caller]
    pub fn with_busybox() -> Host {
        let host = Host::start();
        host.load(image::busybox());
        host
    }

    /// A host without an engine.
    #[track_caller]
    pub fn bare(engine: Engine) -> Host {
        let lower = match engine {
            Engine::Wharf => PathBuf::new(),
            Engine::Dockerd => tools::path("dockerd"),
        };
        Host::on(engine, &lower)
    }

    /// A host without an engine whose programs are Debian's podman, containerd, crun and runc.
    #[track_caller]
    pub fn peers() -> Host {
        Host::on(Engine::Wharf, &tools::path("peers"))
    }

    /// A host without an engine on the root file system `lower`; on the machine's own if empty.
    #[track_caller]
    fn on(engine: Engine, lower: &Path) -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("wharf-test-{}-{n}", std::process::id()));
        fs::create_dir_all(dir.join("home")).unwrap();
        let mut namespaces = Command::new("unshare")
            .args(["--fork", "--kill-child", "--pid", "--mount-proc", "--net", "--mount"])
            .args(["--propagation", "private", "bash", "-c", INIT])
            .env("DIR", &dir)
            .env("LOWER", lower)
            .env("BUSYBOX", tools::path("busybox"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare");
        let mut first = String::new();
        BufReader::new(namespaces.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert_eq!(first, "ready\n", "the host's namespaces could not be made (root?)");
        let init = child_of(namespaces.id()).expect("unshare has a child");
        Host { dir, engine, flags: Vec::new(), namespaces, init, daemon: None, clean: None }
    }

    /// Gives the engine these flags from its next start on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|f| (*f).to_owned()).collect();
    }

    /// Starts the engine and waits until it answers.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        self.launch_daemon(None);
    }

    /// Starts the engine with an open listener, as a service manager does, and waits until it answers.
    #[track_caller]
    pub fn start_daemon_on(&mut self, listener: impl Into<OwnedFd>) {
        self.launch_daemon(Some(listener.into()));
    }

    #[track_caller]
    fn launch_daemon(&mut self, listener: Option<OwnedFd>) {
        assert!(self.daemon.is_none(), "the engine runs already");
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut enter = self
            .engine_command(listener.is_some())
            .stdin(listener.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start nsenter");
        let up = || {
            if let Some(status) = enter.try_wait().unwrap() {
                panic!("the engine ended ({status}); its log:\n{}", self.log());
            }
            let answer = self.api("GET", "/_ping", b"").ok()?;
            (answer.status == 200).then_some(())
        };
        eventually("the engine answers /_ping", up);
        let pid = child_of(enter.id()).expect("nsenter has a child");
        self.daemon = Some(Daemon { enter, pid });
    }

    /// Ends the engine by a signal and waits for its end. Its containers stay.
    #[track_caller]
    pub fn end_daemon(&mut self, signal: Signal) {
        let mut daemon = self.daemon.take().expect("the engine does not run");
        kill_process(Pid::from_raw(daemon.pid.try_into().unwrap()).unwrap(), signal).unwrap();
        let ended = program::wait(&mut daemon.enter, PATIENCE);
        assert!(ended.is_some(), "the engine did not end; its log:\n{}", self.log());
    }

    /// A fresh engine on the same state: `kill -9`, then start.
    #[track_caller]
    pub fn crash_daemon(&mut self) {
        self.end_daemon(Signal::KILL);
        self.start_daemon();
    }

    /// Runs the stock docker command line to its end.
    #[track_caller]
    pub fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.docker_with(b"", args)
    }

    /// Runs the stock docker command line with `stdin`.
    #[track_caller]
    pub fn docker_with<S: AsRef<OsStr>>(
        &self,
        stdin: &[u8],
        args: impl IntoIterator<Item = S>,
    ) -> Output {
        let mut c = self.docker_command();
        c.args(args);
        let words: Vec<_> = c.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        let line = format!("docker {}", words.join(" "));
        Output::new(line, &program::run(&mut c, stdin))
    }

    /// Starts the docker command line on pipes and leaves it running.
    #[track_caller]
    pub fn talk(&self, args: &[&str]) -> Talk {
        Talk::start(self.docker_command().args(args))
    }

    /// Starts the docker command line on a terminal.
    #[track_caller]
    pub fn terminal(&self, args: &[&str]) -> Terminal {
        Terminal::start(self.docker_command().args(args))
    }

    /// The docker command line, pointed at this host's engine and nothing else.
    pub fn docker_command(&self) -> Command {
        self.client(tools::path("docker"))
    }

    /// Any client of the Engine API, in an environment of its own.
    pub fn client(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new(program);
        c.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("TERM", "xterm")
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CLI_HINTS", "false")
            .current_dir(&self.dir);
        c
    }

    /// A program inside this host's namespaces.
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.init.to_string(), "-n", "-m", "-p", "--"]).arg(program);
        c
    }

    /// One request to the Engine API.
    pub fn api(&self, method: &str, target: &str, body: &[u8]) -> io::Result<Response> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut headers = vec![("Connection", "close")];
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        http::exchange(&mut stream, method, target, &headers, body)
    }

    /// A connection made from this host's network.
    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let address: SocketAddr = address.parse().expect("ADDRESS:PORT");
        let stream = in_network(self.init, || TcpStream::connect_timeout(&address, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// `curl http://address/path` from this host.
    pub fn get(&self, address: &str, path: &str) -> io::Result<Response> {
        let mut stream = self.connect(address)?;
        http::exchange(&mut stream, "GET", path, &[("Connection", "close")], b"")
    }

    /// Adds an image to the engine's store.
    #[track_caller]
    pub fn load(&self, image: &Image) {
        let path = self.write("image.tar", &image.docker_archive());
        self.docker(["load", "-q", "-i", path.to_str().unwrap()]).says("Loaded image");
        fs::remove_file(path).unwrap();
    }

    /// Starts a busybox container that stays, under this name.
    #[track_caller]
    pub fn sleeper(&self, name: &str) {
        self.docker([
            "run",
            "-d",
            "--name",
            name,
            "--stop-timeout",
            "0",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    }

    /// One field of `docker inspect`.
    #[track_caller]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.docker(["inspect", "--format", template, name]).ok()
    }

    /// The events up to now that pass `filter`, in this format. (`--until 0s` would cut at a
    /// full second.)
    #[track_caller]
    pub fn events(&self, filter: &str, format: &str) -> Vec<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let args = ["events", "--since", "1", "--until", &now, "--format", format];
        let filter = ["--filter", filter];
        self.docker(args.iter().chain(filter.iter().filter(|_| !filter[1].is_empty()))).lines()
    }

    /// Writes a file into the host's folder.
    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(&path, content).unwrap();
        path
    }

    /// A folder that tests may use; `docker` runs in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The engine's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The cgroup under which the engine puts its containers.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.dir.file_name().unwrap().to_str().unwrap())
    }

    /// The process that holds the host's namespaces.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// The engine's process.
    pub fn daemon(&self) -> u32 {
        self.daemon.as_ref().expect("the engine does not run").pid
    }

    /// Which engine runs here.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// What the engine has written to its standard output and error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Everything that the engine could leak, as it is now.
    pub fn world(&self) -> World {
        World::see(self.init, self.daemon.as_ref().map(|d| d.pid), &self.dir, &self.cgroup())
    }

    /// Removes every container and volume, and insists that the host is as it was at the start.
    /// The reference is let off: it keeps a few things that it made on first use.
    #[track_caller]
    pub fn assert_clean(&self) {
        let Some(clean) = &self.clean else { return };
        if self.engine == Engine::Dockerd {
            return;
        }
        let all = self.docker(["ps", "-aq"]).lines();
        if !all.is_empty() {
            let args = ["rm", "-fv"].into_iter().map(str::to_owned).chain(all);
            self.docker(args).ok();
        }
        self.docker(["volume", "prune", "-af"]).ok();
        self.docker(["network", "prune", "-f"]).ok();
        let mut left = String::new();
        let settled = || {
            left = self.world().beyond(clean);
            left.is_empty().then_some(())
        };
        // The reaper of a removed container may still be on its way out.
        if !crate::settles(settled) {
            panic!("left behind on the host:\n{left}\nthe engine's log:\n{}", self.log());
        }
    }

    fn tear_down(&mut self) {
        // Process 1 takes every process of its namespace along.
        self.namespaces.kill().expect("kill an own child");
        self.namespaces.wait().expect("wait for an own child");
        if let Some(daemon) = &mut self.daemon {
            daemon.enter.wait().expect("wait for an own child");
        }
        World::sweep(&self.cgroup());
        if std::env::var_os("WHARF_TEST_KEEP").is_none() {
            // A process in its last throes may still hold a directory.
            crate::settles(|| fs::remove_dir_all(&self.dir).ok());
        }
    }

    /// The engine's command line; with `activated`, what it has as standard input is a listener for it.
    fn engine_command(&self, activated: bool) -> Command {
        let enter = |program: &OsStr| {
            if !activated {
                return self.enter(program);
            }
            let mut c = self.enter("sh");
            c.args(["-c", ACTIVATE, "sh"]).arg(program);
            c
        };
        let mut c = match self.engine {
            Engine::Wharf => {
                let mut c = enter(tools::wharf().as_os_str());
                c.arg("daemon");
                c
            }
            Engine::Dockerd => {
                let mut c = enter("dockerd".as_ref());
                c.args([
                    "--storage-driver",
                    "overlay2",
                    "--feature",
                    "containerd-snapshotter=false",
                ]);
                c
            }
        };
        c.arg("--data-root").arg(self.dir.join("data"));
        c.arg("--exec-root").arg(self.dir.join("exec"));
        c.arg("--pidfile").arg(self.dir.join("pid"));
        c.arg("-H").arg(format!("unix://{}", self.socket().display()));
        c.arg("--cgroup-parent").arg(self.cgroup());
        c.args(&self.flags);
        c.env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.join("home"))
            .current_dir("/");
        if let Some(filter) = std::env::var_os("WHARF_LOG") {
            c.env("WHARF_LOG", filter);
        }
        c
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- the engine's log\n{}\n---", tail.join("\n"));
        }
        let check = !failed && self.daemon.is_some();
        let clean = catch_unwind(AssertUnwindSafe(|| check.then(|| self.assert_clean())));
        self.tear_down();
        if let Err(leak) = clean {
            resume_unwind(leak);
        }
    }
}

/// The single child of `pid`.
/// The first child of a process: what an nsenter or unshare waits for.
pub fn child_of(pid: u32) -> Option<u32> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(candidate) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if parent_of(&entry.path()) == Some(pid) {
            return Some(candidate);
        }
    }
    None
}
