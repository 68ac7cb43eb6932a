//! A place for test containers: a root file system, a launcher, cgroups of their own.

use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use wharf_keeper::client::{Event, Launched, Launcher, Program};
use wharf_keeper::log::{LogConfig, LogFormat, LogMode, LogQuery, LogReader, LogRender};
use wharf_keeper::protocol::{AttachOptions, Exit, IoConfig, Launch, Slow};
use wharf_keeper::{Keeper, LaunchError};
use wharf_runtime::{ExecPlan, HostFacts, Plan, PlanContext, Root};

/// What one test needs. Dropping it ends what is left of its containers.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) facts: HostFacts,
    plans: std::sync::Arc<wharf_base::sync::Mutex<Vec<Plan>>>,
}

/// Debian's static busybox: the one that the tests brought along, or the machine's own.
fn busybox() -> PathBuf {
    let choices = [std::env::var("WHARF_TEST_BUSYBOX").unwrap_or_default(), "/bin/busybox".into()];
    let found = choices.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("no busybox: run `cargo xtask tools cli`, or set WHARF_TEST_BUSYBOX")
}

impl Host {
    pub(crate) fn new() -> Host {
        let host = Host::at(tempfile::tempdir().unwrap());
        let bin = host.dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for dir in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(host.dir.path().join("rootfs").join(dir)).unwrap();
        }
        fs::copy(busybox(), bin.join("busybox")).unwrap();
        for name in ["sh", "cat", "sleep", "stty", "head", "dd", "yes", "seq", "tail"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        host
    }

    pub(crate) fn at(dir: tempfile::TempDir) -> Host {
        let program =
            Program { path: Some(std::env::current_exe().unwrap()), args: vec!["launcher".into()] };
        Host {
            dir,
            launcher: Launcher::spawn(program).unwrap(),
            facts: HostFacts::probe().unwrap(),
            plans: std::sync::Arc::default(),
        }
    }

    /// A container that runs `script` in a shell.
    pub(crate) fn shell(&self, script: &str) -> Launch {
        self.container(&["sh", "-c", script])
    }

    pub(crate) fn container(&self, args: &[&str]) -> Launch {
        self.limited(args, json!({}))
    }

    pub(crate) fn limited(&self, args: &[&str], resources: serde_json::Value) -> Launch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("wharf-test-{}-{n}", std::process::id());
        let dir = self.dir.path().join(&id);
        fs::create_dir(&dir).unwrap();
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
            },
            "root": {"path": self.dir.path().join("rootfs")},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "resources": resources,
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
                ],
            },
        });
        let spec = serde_json::from_value(spec).unwrap();
        let root = Root::Dir(self.dir.path().join("rootfs"));
        let plan = Plan::compile(&spec, &PlanContext::new(&id, &dir, root, &self.facts)).unwrap();
        self.plans.lock().push(plan.clone());
        let log = LogConfig {
            format: LogFormat::JsonFile,
            path: dir.join("log"),
            max_size: 20 << 20,
            max_files: 5,
            compress: false,
            attrs: Vec::new(),
            mode: LogMode::Blocking,
        };
        Launch { id, plan, io: IoConfig::default(), log, dir }
    }

    pub(crate) fn exec_plan(&self, container: &Plan, args: &[&str], terminal: bool) -> ExecPlan {
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/", "terminal": terminal,
        });
        let process = serde_json::from_value(process).unwrap();
        ExecPlan::compile(&process, container, &self.facts).unwrap()
    }

    pub(crate) async fn launch(&self, launch: Launch) -> Result<Launched, LaunchError> {
        self.launcher.launch(launch, Vec::new()).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for plan in self.plans.lock().iter() {
            drop(plan.cgroup.kill_all());
            drop(plan.cgroup.delete());
        }
    }
}

/// Both output streams, held, without input.
pub(crate) fn output() -> AttachOptions {
    AttachOptions {
        stdin: false,
        stdout: true,
        stderr: true,
        detach_keys: Vec::new(),
        slow: Slow::Hold,
    }
}

/// A client's end, and the keeper's.
pub(crate) fn stream() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = wharf_sys::channel::stream_pair().unwrap();
    (UnixStream::from_std(ours.into()).unwrap(), theirs)
}

/// Reads to the end and takes Docker's frames apart: standard output, standard error.
pub(crate) async fn frames(mut client: UnixStream) -> (String, String) {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    let (mut out, mut err, mut rest) = (Vec::new(), Vec::new(), &bytes[..]);
    while let [stream, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
        let len = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
        if *stream == 1 { &mut out } else { &mut err }.extend_from_slice(&tail[..len]);
        rest = &tail[len..];
    }
    assert!(rest.is_empty());
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Reads until `end` has come.
pub(crate) async fn until(client: &mut UnixStream, end: &str) -> String {
    let mut got = String::new();
    while !got.ends_with(end) {
        let mut byte = [0];
        assert_eq!(client.read(&mut byte).await.unwrap(), 1, "got only {got:?}");
        got.push(char::from(byte[0]));
    }
    got
}

/// The exit, acknowledged, with the keeper's own end awaited.
pub(crate) async fn finish(mut launched: Launched) -> Exit {
    let exit = launched.watch.exit().await.unwrap();
    let keeper = pidfd(parent(launched.started.pid).unwrap_or(1));
    drop(keeper);
    acknowledge(&launched.keeper).await;
    assert!(launched.watch.next().await.is_err());
    exit
}

pub(crate) async fn acknowledge(keeper: &Keeper) {
    keeper.acknowledge().await.unwrap();
}

pub(crate) fn log_of(path: &Path, format: LogFormat) -> String {
    let mut reader = LogReader::open(path.to_owned(), format, LogQuery::default()).unwrap();
    let mut out = Vec::new();
    reader.fill(&mut out, usize::MAX, LogRender::default()).unwrap();
    String::from_utf8(out).unwrap()
}

/// The parent of a process, if it exists.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn pidfd(pid: i32) -> Option<OwnedFd> {
    wharf_sys::process::pidfd_open(pid).ok()
}

/// Kills a process and waits until it has ended.
pub(crate) fn kill(pid: i32) {
    use std::os::fd::AsFd as _;
    let fd = pidfd(pid).unwrap();
    wharf_sys::process::pidfd_signal(fd.as_fd(), 9).unwrap();
    gone(&fd);
}

/// Waits until a process has ended.
pub(crate) fn gone(fd: &OwnedFd) {
    use std::os::fd::AsFd as _;
    assert!(wharf_sys::process::poll_readable(&[fd.as_fd()], 10_000).unwrap()[0]);
}

pub(crate) fn cgroup_exists(plan: &Plan) -> bool {
    plan.cgroup.dirs().iter().any(|(_, dir): &(String, PathBuf)| dir.exists())
}

pub(crate) async fn exited(launched: &mut Launched) -> Exit {
    loop {
        if let Event::Exited(exit) = launched.watch.next().await.unwrap() {
            return exit;
        }
    }
}

pub(crate) fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}
