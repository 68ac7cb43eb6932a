//! Bad input and bad days: each mistake is told before anything is started, and after each break the
//! next `up` finishes the work.

use rustix::process::Signal;
use wharf_test::host::Engine;
use wharf_test::program::Talk;
use wharf_test::{Host, eventually};

use crate::compose::Tool::Wharf;

/// Nothing but the engine's own is on the host.
fn nothing_made(host: &Host) {
    assert_eq!(host.docker(["ps", "-aq"]).lines(), [""; 0]);
    assert_eq!(host.docker(["network", "ls", "--filter", "type=custom", "-q"]).lines(), [""; 0]);
    assert_eq!(host.docker(["volume", "ls", "-q"]).lines(), [""; 0]);
}

#[test]
fn every_kind_of_bad_input_is_refused_before_anything_is_started() {
    let host = Host::with_busybox();
    let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let of = format!("*a{}", n - 1);
        text + &format!("x-a{n}: &a{n} [{}]\n", [of.as_str(); 9].join(","))
    });
    let bomb = format!("x-{bomb}services: {{a: {{image: busybox, command: *a8}}}}\n");
    for (text, words) in [
        (bomb.as_str(), "aliases"),
        ("services: &a\n  x: *a", "contains it"),
        ("include: [compose.yaml]\nservices: {a: {image: x}}", "include cycle"),
        ("include: ['oci://localhost/x']\nservices: {a: {image: x}}", "oci://localhost/x"),
        ("services:\n  a: {image: \"${V:?is needed}\"}", "compose.yaml:2:14: "),
        (
            "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}",
            "dependency cycle",
        ),
        (
            "services:\n  a: {image: busybox, ports: ['80:80']}\n  b: {image: busybox, ports: ['80:81']}\n",
            "services \"a\" and \"b\" both publish the host port 80/tcp",
        ),
        (
            "services:\n  a: {image: busybox, scale: 2, ports: ['80:80']}\n",
            "cannot share the host port 80",
        ),
        (
            "services:\n  web: {image: busybox}\n  Web: {image: busybox}\n",
            "services \"Web\" and \"web\" differ only in upper and lower case",
        ),
        (
            "services:\n  a: {image: busybox, networks: [n]}\n  b: {image: busybox}\nnetworks: {n: {ipam: {config: [{subnet: 10.99.0.0/16}]}}}\n",
            "overlap",
        ),
        (
            "services:\n  a: {image: busybox, networks: [n, m]}\nnetworks:\n  n: {ipam: {config: [{subnet: 10.8.0.0/16}]}}\n  m: {ipam: {config: [{subnet: 10.8.1.0/24}]}}\n",
            "overlap",
        ),
    ] {
        // A route that a network must not cover.
        let busybox = wharf_test::tools::path("busybox");
        let route = ["ip", "route", "replace", "10.99.7.0/24", "dev", "lo"];
        assert!(host.enter(&busybox).args(route).status().unwrap().success());
        host.write("compose.yaml", text.as_bytes());
        Wharf.run(&host, &["up", "-d"]).fails(words);
        assert_eq!(host.docker(["ps", "-q"]).lines(), [""; 0], "started in spite of {words}");
        // Networks that were made before another was refused stay until the next down, as in stock.
        host.docker(["network", "prune", "-f"]).ok();
    }
    nothing_made(&host);
}

#[test]
fn a_port_that_another_container_has_is_told_by_that_containers_name() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "rival", "-p", "81:80", "busybox", "sleep", "1000"]).ok();
    let text = "services:\n  a: {image: busybox, command: sleep 1000}\n  b: {image: busybox, ports: ['81:80']}\n";
    host.write("compose.yaml", text.as_bytes());
    Wharf.run(&host, &["up", "-d"]).fails("81/tcp is taken by container rival");
    assert_eq!(host.docker(["ps", "-a", "--format", "{{.Names}}"]).lines(), ["rival"]);
    host.docker(["rm", "-f", "rival"]).ok();
}

fn many(count: u32, color: &str) -> String {
    let mut text = "name: many\nservices:\n".to_owned();
    for n in 0..count {
        let depends = if n == 0 { String::new() } else { format!(", depends_on: [s{}]", n - 1) };
        text += &format!(
            "  s{n}: {{image: busybox, command: sleep 100000, stop_grace_period: 0s, environment: {{COLOR: {color}}}, volumes: ['data:/d']{depends}}}\n"
        );
    }
    text + "volumes: {data: {}}\n"
}

/// Names and colours of what runs, as `up` should have left it.
fn whole(host: &Host, count: u32, color: &str) {
    let mut names = host.docker(["ps", "--format", "{{.Names}}"]).lines();
    names.sort();
    let mut wanted: Vec<String> = (0..count).map(|n| format!("many-s{n}-1")).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    assert_eq!(host.docker(["ps", "-a", "-q"]).lines().len(), wanted.len());
    for name in wanted {
        let env = host.inspect(&name, "{{json .Config.Env}}");
        assert!(env.contains(&format!("COLOR={color}")), "{name}: {env}");
    }
}

#[test]
fn after_a_daemon_that_was_killed_in_the_middle_of_up_the_next_up_finishes() {
    let mut host = Host::with_busybox();
    if host.engine() == Engine::Dockerd {
        return;
    }
    const COUNT: u32 = 12;
    // At several points of the first up, and then of one that replaces everything.
    for (round, color) in ["red", "green", "blue", "red"].into_iter().enumerate() {
        host.write("compose.yaml", many(COUNT, color).as_bytes());
        let mut c = Wharf.command(&host);
        let mut up = Talk::start(c.current_dir(host.dir()).args(["up", "-d"]));
        let at = format!("s{}-1", 2 * round + 1);
        up.expect(&at);
        up.expect(if round == 0 { "Creat" } else { "Recreate" });
        host.end_daemon(Signal::KILL);
        let (code, text) = up.finish();
        assert_ne!(code, 0, "round {round}: {text}");
        host.start_daemon();
        Wharf.run(&host, &["up", "-d"]).ok();
        whole(&host, COUNT, color);
    }
    Wharf.run(&host, &["down", "-v"]).ok();
    nothing_made(&host);
}

#[test]
fn an_up_that_was_interrupted_is_finished_by_the_next() {
    let host = Host::with_busybox();
    host.write("compose.yaml", many(12, "red").as_bytes());
    for n in [1, 4, 7] {
        let mut c = Wharf.command(&host);
        let mut up = Talk::start(c.current_dir(host.dir()).args(["up", "-d", "--force-recreate"]));
        up.expect(&format!("s{n}-1"));
        up.signal(Signal::KILL);
        up.finish();
        // What was asked for last may still be going on.
        eventually("the engine is at rest", || {
            let out = Wharf.run(&host, &["up", "-d"]);
            (out.code == 0).then_some(())
        });
        whole(&host, 12, "red");
    }
    Wharf.run(&host, &["down", "-v"]).ok();
}
