//! Other stock clients of the Engine API: docker-py and testcontainers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use wharf_test::{Host, Output, program, tools};

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

/// Runs the named check of `testcontainers_py.py` on a host of its own.
#[track_caller]
fn testcontainers(check: &str) {
    let host = Host::with_busybox();
    let mut c = host.enter(tools::path("python3"));
    c.arg(tools::workspace().join("tests/tests/testcontainers_py.py")).arg(check);
    c.env("DOCKER_HOST", format!("unix://{}", host.socket().display()));
    c.env("PYTHONPATH", tools::path("testcontainers"));
    // The reaper's image is on Docker Hub; what it does is checked below.
    c.env("TESTCONTAINERS_RYUK_DISABLED", "true");
    c.env("HOME", host.dir().join("home"));
    Output::of(&mut c, b"").ok();
}

/// testcontainers' reaper runs in a container, with the engine's socket in it, and removes what has the label of
/// a session that has ended.
#[test]
fn a_reaper_in_a_container_removes_by_label() {
    let host = Host::with_busybox();
    let label = "org.testcontainers.session-id=7";
    for name in ["mine", "other"] {
        let label = if name == "mine" { label } else { "org.testcontainers.session-id=8" };
        host.docker(["network", "create", "--label", label, name]).ok();
        host.docker(["volume", "create", "--label", label, name]).ok();
        let recipe = format!("FROM busybox\nLABEL {label}\nRUN echo {name} > /name\n");
        host.write(&format!("{name}/Dockerfile"), recipe.as_bytes());
        host.docker(["build", "-q", "-t", name, name]).ok();
        let run = ["run", "-d", "--name", name, "--label", label, "--network", name];
        let volume = format!("{name}:/data");
        let rest =
            ["-v", &volume, "-v", "/anonymous", "--stop-timeout", "0", name, "sleep", "1000"];
        host.docker(run.iter().chain(&rest)).ok();
    }
    let script = format!(
        "set -e; w='/wharf -H unix:///var/run/docker.sock'; by='--filter label={label}'\n\
         $w rm -fv $($w ps -aq --no-trunc $by)\n\
         $w network rm $($w network ls -q $by)\n\
         $w volume rm -f $($w volume ls -q $by)\n\
         $w rmi -f $($w images -q $by)\n\
         $w network prune -f $by; $w volume prune -af $by; $w image prune -af $by"
    );
    let socket = format!("{}:/var/run/docker.sock", host.socket().display());
    let wharf = format!("{}:/wharf:ro", tools::wharf().display());
    let run = ["run", "--rm", "-v", &socket, "-v", &wharf, "busybox", "sh", "-c", &script];
    host.docker(run).ok();
    let names = |args: &[&str]| {
        let mut names = host.docker(args).lines();
        names.retain(|n| ["mine", "other"].contains(&n.as_str()));
        names
    };
    assert_eq!(names(&["ps", "-a", "--format", "{{.Names}}"]), ["other"]);
    assert_eq!(names(&["network", "ls", "--format", "{{.Name}}"]), ["other"]);
    assert_eq!(names(&["volume", "ls", "-q"]), ["other"]);
    assert_eq!(names(&["images", "--format", "{{.Repository}}"]), ["other"]);
    assert_eq!(host.docker(["volume", "ls", "-q"]).lines().len(), 2, "an anonymous volume is left");
}

macro_rules! checks {
    ($with:ident: $($name:ident)*) => { $(#[test] fn $name() { $with(stringify!($name)); })* };
}

checks! {
    testcontainers: tc_ports_and_logs tc_wait_strategies tc_exec_and_settings tc_networks
    tc_image_from_dockerfile
}

checks! {
    python:
    py_system py_containers py_logs py_exec py_images py_volumes py_networks py_events py_archive
    py_attach py_errors py_build
}
