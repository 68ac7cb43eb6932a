//! Other stock clients of the Engine API: docker-py.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use wharf_test::{Host, program, tools};

/// Runs the named check of `docker_py.py` against a host of its own.
#[track_caller]
fn python(check: &str) {
    let host = Host::with_busybox();
    let mut c = host.client(tools::path("python3"));
    c.arg(tools::workspace().join("tests/tests/docker_py.py")).arg(check);
    let done = program::run(&mut c, b"");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
}

macro_rules! checks {
    ($($name:ident)*) => { $(#[test] fn $name() { python(stringify!($name)); })* };
}

checks! {
    py_system py_containers py_logs py_exec py_images py_volumes py_networks py_events py_archive
    py_attach py_errors py_build
}
