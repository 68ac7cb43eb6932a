//! A bundle with busybox in a directory of its own, gone when dropped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    pub(crate) id: String,
    pub(crate) spec: Value,
}

/// Tools that cases call inside.
const TOOLS: &[&str] = &[
    "sh", "true", "false", "cat", "echo", "ls", "id", "sleep", "pwd", "mount", "hostname", "kill",
    "stat", "dd", "test", "readlink", "grep", "touch", "mkdir", "date", "nproc", "tty", "wc",
    "uname", "head", "umount", "chroot", "ps", "mknod", "rm", "ulimit", "env", "seq", "tail",
    "unshare",
];

/// Debian's static busybox: the one that the tests brought along, or the machine's own.
pub(crate) fn busybox() -> PathBuf {
    let choices = [std::env::var("WHARF_TEST_BUSYBOX").unwrap_or_default(), "/bin/busybox".into()];
    let found = choices.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("no busybox: run `cargo xtask tools cli`, or set WHARF_TEST_BUSYBOX")
}

/// Whether the host has one hierarchy of control groups.
pub(crate) fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

impl Bundle {
    pub(crate) fn new(command: &[&str]) -> Self {
        let id =
            format!("wharf-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&id);
        let rootfs = dir.join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "etc", "tmp", "root", "pad"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy(busybox(), rootfs.join("bin/busybox")).unwrap();
        for tool in TOOLS {
            symlink("busybox", rootfs.join("bin").join(tool)).unwrap();
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .unwrap();
        let spec = spec(&id, command);
        Self { dir, id, spec }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The command, with the configuration written.
    pub(crate) fn oci(&self, args: &[&str]) -> Command {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("oci").arg("--root").arg(self.dir.join("state")).args(args);
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.oci(args).output().unwrap()
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Output {
        self.call(&["run", &self.id])
    }

    /// `run`, which must succeed; its output without the last newline.
    pub(crate) fn output(&self) -> String {
        let out = self.run();
        assert!(out.status.success(), "{}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
        text(&out.stdout).trim_end().to_owned()
    }

    /// `run`, which must fail; its standard error.
    pub(crate) fn refusal(&self) -> String {
        let out = self.run();
        assert!(!out.status.success(), "ran: {}", text(&out.stdout));
        text(&out.stderr)
    }

    /// A container that sleeps, started in the background.
    pub(crate) fn sleeping() -> Self {
        let bundle = Self::new(&["sleep", "1000"]);
        bundle.ok(&["create", &bundle.id]);
        bundle.ok(&["start", &bundle.id]);
        bundle
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let path = self.dir.join("out");
        let file = fs::File::create(&path).unwrap();
        // Files and not pipes: a container in the background keeps a pipe open.
        let status =
            self.oci(args).stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        let said = fs::read_to_string(path).unwrap();
        assert!(status.success(), "{args:?}: {status}: {said}");
        said
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub(crate) fn set(&mut self, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap()[key] = value;
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]);
        if !std::thread::panicking() {
            assert!(leftovers(&self.id).is_empty(), "left behind: {:?}", leftovers(&self.id));
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Cgroup directories of that name.
fn leftovers(id: &str) -> Vec<PathBuf> {
    let trees = fs::read_dir("/sys/fs/cgroup").unwrap();
    let dirs = trees.map(|tree| tree.unwrap().path().join("wharf-test").join(id));
    dirs.filter(|dir| dir.exists()).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn bind(source: &Path, to: &str, options: &[&str]) -> Value {
    json!({"destination": to, "type": "bind", "source": source, "options": options})
}

/// Docker's default configuration in what matters here.
fn spec(id: &str, command: &[&str]) -> Value {
    let caps: Vec<String> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
    .map(|c| format!("CAP_{c}"))
    .to_vec();
    let kinds = ["mount", "pid", "ipc", "uts", "network", "cgroup"];
    let arch = wharf_runtime::seccomp::native_arch();
    let seccomp = wharf_runtime::seccomp::docker_default(&[], arch, (6, 1));
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": command, "cwd": "/",
            "env": ["PATH=/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": "rootfs"}, "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
        ],
        "linux": {
            "cgroupsPath": format!("/wharf-test/{id}"),
            "namespaces": kinds.map(|k| json!({"type": k})).to_vec(),
            "seccomp": seccomp,
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"}, {"allow": true, "type": "b", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"},
            ]},
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
