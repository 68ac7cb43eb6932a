//! Health checks.

use wharf_test::{Host, eventually, image::on_busybox};

#[test]
fn health_goes_from_starting_over_healthy_to_unhealthy() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "--health-cmd",
        "test -e /fine && echo good || { echo bad; exit 1; }",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "--health-start-period",
        "60s",
        "--health-start-interval",
        "100ms",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let status = || host.inspect("box", "{{.State.Health.Status}}");
    assert_eq!(status(), "starting");
    assert!(host.docker(["ps"]).ok().contains("(health: starting)"));
    host.docker(["exec", "box", "touch", "/fine"]).ok();
    eventually("healthy", || (status() == "healthy").then_some(()));
    assert!(host.docker(["ps"]).ok().contains("(healthy)"));
    host.docker(["exec", "box", "rm", "/fine"]).ok();
    eventually("unhealthy", || (status() == "unhealthy").then_some(()));
    let log = host.inspect("box", "{{json .State.Health.Log}}");
    assert!(log.contains("bad\\n") && log.contains("\"ExitCode\":1"), "{log}");
    assert_eq!(host.inspect("box", "{{.State.Running}}"), "true");
    let events = host.events("event=health_status", "{{.Action}}");
    assert_eq!(events, ["health_status: healthy", "health_status: unhealthy"]);
    assert_eq!(host.docker(["ps", "-q", "--filter", "health=unhealthy"]).lines().len(), 1);
}

#[test]
fn a_check_that_hangs_is_killed_and_counts_as_failed() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "-d",
        "--name",
        "box",
        "--stop-timeout",
        "0",
        "--health-cmd",
        "sleep 500",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "200ms",
        "--health-retries",
        "1",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    eventually("unhealthy", || {
        (host.inspect("box", "{{.State.Health.Status}}") == "unhealthy").then_some(())
    });
    eventually("the check is gone", || {
        (!host.docker(["top", "box"]).ok().contains("sleep 500")).then_some(())
    });
}

#[test]
fn checks_of_the_image_apply_and_can_be_switched_off() {
    let host = Host::start();
    let check = serde_json::json!({ "Test": ["CMD", "true"], "Interval": 100_000_000 });
    host.load(&on_busybox("checked:1", &serde_json::json!({ "Healthcheck": check })));
    host.docker(["run", "-d", "--name", "on", "--stop-timeout", "0", "checked:1", "sleep", "1000"])
        .ok();
    eventually("healthy", || {
        (host.inspect("on", "{{.State.Health.Status}}") == "healthy").then_some(())
    });
    host.docker([
        "run",
        "-d",
        "--name",
        "off",
        "--stop-timeout",
        "0",
        "--no-healthcheck",
        "checked:1",
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(host.inspect("off", "{{if .State.Health}}yes{{else}}no{{end}}"), "no");
}

#[test]
fn a_probe_that_takes_too_long_shows_what_it_printed() {
    let host = Host::with_busybox();
    let probe = "echo this far; sleep 60";
    let health = ["--health-cmd", probe, "--health-interval", "50ms", "--health-timeout", "200ms"];
    let run = ["run", "-d", "--name", "box", "--stop-timeout", "0"];
    let rest = ["--health-retries", "1", "busybox", "sleep", "1000"];
    host.docker(run.iter().chain(&health).chain(&rest)).ok();
    let told = "Health check exceeded timeout (200ms): this far";
    eventually("a late probe", || {
        host.inspect("box", "{{json .State.Health.Log}}").contains(told).then_some(())
    });
}
