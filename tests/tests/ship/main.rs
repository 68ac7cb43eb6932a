//! Images between machines: wharf's registry under stock clients, and wharf as a client of others.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod builtin;
mod clients;
mod hosts;
mod lies;
mod trust;

use wharf_test::server::{PORT, serve, start};
use wharf_test::{Host, Output, image, tools};

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
