//! Registries as processes on a host.

use crate::host::child_of;
use crate::{Host, eventually, tools};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

/// Where registries of these tests listen, each in a network of its own.
pub const PORT: u16 = 5000;

/// A registry's process, through the nsenter that waits for it. Dropping it ends both.
pub struct Server(Child);

impl Server {
    /// The registry's own process.
    pub fn pid(&self) -> u32 {
        child_of(self.0.id()).expect("nsenter has a child")
    }
}

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
pub fn serve(host: &Host, flags: &[&str]) -> Server {
    let mut c = host.enter(tools::wharf());
    c.args(["registry", "serve", "--addr", "127.0.0.1:5000", "--root"]);
    c.arg(host.dir().join("registry")).args(flags);
    start(host, c)
}

/// Starts Debian's docker-registry on the host's loopback.
#[must_use]
pub fn debians(host: &Host) -> Server {
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{PORT}'}}\n",
        host.dir().join("storage").display()
    );
    let config = host.write("registry.yml", text.as_bytes());
    let mut registry = host.enter(tools::path("docker-registry"));
    registry.arg("serve").arg(config);
    start(host, registry)
}

/// Starts a registry, and waits until it answers at the usual address.
#[must_use]
pub fn start(host: &Host, registry: Command) -> Server {
    start_at(host, registry, "127.0.0.1:5000")
}

/// Starts a registry, and waits until it can be reached at `address`.
#[must_use]
pub fn start_at(host: &Host, mut registry: Command, address: &str) -> Server {
    let log = host.dir().join("registry.log");
    let out = File::create(&log).unwrap();
    registry.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let mut child = registry.spawn().unwrap();
    eventually("the registry answers", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the registry ended ({status}): {}", fs::read_to_string(&log).unwrap());
        }
        host.connect(address).ok().map(drop)
    });
    Server(child)
}
