//! Members as processes: wharf's, and Debian's etcd.

use rustix::process::{Pid, Signal, kill_process};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use wharf_test::{Output, eventually, program, tools};

/// A running member; it ends with the test.
pub(crate) struct Member {
    command: Command,
    child: Child,
    pub(crate) port: u16,
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A directory of its own for a test; gone at its end.
pub(crate) struct Scratch(PathBuf);

pub(crate) fn scratch(name: &str) -> Scratch {
    let dir = std::env::temp_dir().join(format!("wharf-etcd-{}-{name}", std::process::id()));
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).unwrap();
    Scratch(dir)
}

impl std::ops::Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A member that is still on its way out may hold files.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Member {
    /// `wharf etcd` on `data`.
    pub(crate) fn wharf(data: &Path) -> Member {
        Member::wharf_with(data, "http", &[])
    }

    pub(crate) fn wharf_with(data: &Path, scheme: &str, flags: &[&str]) -> Member {
        let port = free_port();
        let mut command = Command::new(tools::wharf());
        command.args(["etcd", "--log-level", "warn", "--data-dir"]).arg(data);
        command.arg("--listen-client-urls").arg(format!("{scheme}://127.0.0.1:{port}"));
        command.args(flags);
        Member::start(command, port)
    }

    /// Debian's etcd, as member `n` of a cluster whose members have these client and peer ports.
    pub(crate) fn etcd(data: &Path, n: usize, ports: &[(u16, u16)]) -> Member {
        let (client, peer) = ports[n];
        let url = |port| format!("http://127.0.0.1:{port}");
        let all: Vec<_> =
            ports.iter().enumerate().map(|(n, p)| format!("m{n}={}", url(p.1))).collect();
        let mut command = Command::new(tools::path("etcd"));
        command.arg("--data-dir").arg(data).args(["--name", &format!("m{n}")]);
        for (flag, value) in [
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", all.join(",")),
            ("--log-level", "error".to_owned()),
        ] {
            command.args([flag, &value]);
        }
        // It tells of every election.
        command.stderr(Stdio::null());
        Member::start(command, client)
    }

    fn start(mut command: Command, port: u16) -> Member {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        Member { command, child, port }
    }

    /// Waits until somebody listens.
    pub(crate) fn listening(self) -> Member {
        eventually("the member to listen", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()
        });
        self
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the member that was killed anew.
    pub(crate) fn restart(&mut self) {
        self.child = self.command.spawn().unwrap();
    }

    /// Ends the member in good order.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(program::wait(&mut self.child, wharf_test::PATIENCE).is_some(), "did not stop");
    }

    /// Runs etcdctl against the member.
    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        self.ctl_with(words, b"")
    }

    pub(crate) fn ctl_with(&self, words: &[&str], stdin: &[u8]) -> Output {
        let mut command = ctl();
        command.arg(format!("--endpoints=127.0.0.1:{}", self.port)).args(words);
        Output::of(&mut command, stdin)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have been stopped before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Debian's etcdctl.
pub(crate) fn ctl() -> Command {
    let mut command = Command::new(tools::path("etcdctl"));
    command.env("ETCDCTL_API", "3").args(["--dial-timeout=30s", "--command-timeout=60s"]);
    command
}
