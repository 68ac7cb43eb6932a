//! Images between machines: wharf's registry under stock clients, and wharf as a client of others.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod builtin;
mod clients;
mod hosts;

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use wharf_test::host::child_of;
use wharf_test::{Host, Output, eventually, image, tools};

/// Where registries of these tests listen, each in a network of its own.
const PORT: u16 = 5000;

/// A registry's process, through the nsenter that waits for it. Dropping it ends both.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = child_of(self.0.id()).and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        // It may have ended by itself.
        pid.map(|pid| kill_process(pid, Signal::TERM));
        self.0.wait().unwrap();
    }
}

/// Starts `wharf registry serve` on the host's loopback.
#[must_use]
fn serve(host: &Host, flags: &[&str]) -> Server {
    let mut c = host.enter(tools::wharf());
    c.args(["registry", "serve", "--addr", "127.0.0.1:5000", "--root"]);
    c.arg(host.dir().join("registry")).args(flags);
    start(host, c)
}

/// Starts a registry, and waits until it answers.
#[must_use]
fn start(host: &Host, mut registry: Command) -> Server {
    let log = host.dir().join("registry.log");
    let out = File::create(&log).unwrap();
    registry.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let mut child = registry.spawn().unwrap();
    eventually("the registry answers", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the registry ended ({status}): {}", fs::read_to_string(&log).unwrap());
        }
        let answer = host.get("127.0.0.1:5000", "/v2/").ok()?;
        matches!(answer.status, 200 | 401).then_some(())
    });
    Server(child)
}

/// Debian's skopeo on that host.
fn skopeo(host: &Host, args: &[&str]) -> Output {
    let mut c = host.enter(tools::path("skopeo"));
    c.args(["--insecure-policy", "--tmpdir"]).arg(host.dir()).args(args);
    c.env("HOME", host.dir().join("home")).current_dir(host.dir());
    Output::run(&mut c, b"")
}

/// `busybox` as a file that clients read.
fn archive(host: &Host) -> String {
    let path = host.write("busybox.tar", &image::busybox().docker_archive());
    format!("docker-archive:{}", path.display())
}
