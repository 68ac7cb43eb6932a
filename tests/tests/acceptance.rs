//! The stock docker CLI against an engine.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
use wharf_test::Host;

#[test]
fn run_says_hello() {
    let host = Host::with_busybox();
    host.docker(["run", "--rm", "busybox", "echo", "hello"]).says("hello");
}
