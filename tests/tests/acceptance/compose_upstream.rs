//! What the end-to-end tests of docker compose itself found missing, stock beside `wharf compose`.

use rustix::process::Signal;
use serde_json::json;
use wharf_test::program::Talk;
use wharf_test::{Host, eventually, image};

use crate::compose::{BOTH, Tool};
use Tool::Wharf;

const SLEEP: &str = "image: busybox, command: sleep 100000, stop_grace_period: 0s";

fn with(files: &[(&str, String)]) -> Host {
    let host = Host::with_busybox();
    for (name, text) in files {
        host.write(name, text.as_bytes());
    }
    host
}

fn running(host: &Host) -> Vec<String> {
    let mut names = host.docker(["ps", "--format", "{{.Names}}"]).lines();
    names.sort();
    names
}

#[test]
fn exec_takes_variables_from_here_and_reaches_containers_of_run() {
    let host = with(&[("compose.yaml", format!("name: p\nservices:\n  a: {{{SLEEP}}}\n"))]);
    host.write(".env", b"FROM_FILE=env\n");
    for tool in BOTH {
        tool.run(&host, &["up", "-d"]).ok();
        let mut exec = tool.command(&host);
        let exec = exec.current_dir(host.dir()).env("FROM_SHELL", "sh");
        let flags =
            ["exec", "-T", "-e", "FROM_SHELL", "-e", "FROM_FILE", "-e", "NOWHERE", "-e", "X=1"];
        let env = wharf_test::docker::Output::run(exec.args(flags).args(["a", "env"]), b"");
        env.says("FROM_SHELL=sh\n").says("FROM_FILE=env\n").says("X=1\n");
        assert!(!env.stdout.contains("NOWHERE"), "{tool:?}: {env}");
        tool.run(&host, &["down"]).ok();
        tool.run(&host, &["run", "-d", "a"]).ok();
        tool.run(&host, &["exec", "-T", "a", "echo", "here"]).says("here");
        tool.run(&host, &["exec", "-T", "--index", "1", "a", "true"]).fails("container #1");
        tool.run(&host, &["ps", "-a", "--format", "{{.Name}}"]).says("p-a-run-");
        tool.run(&host, &["down", "--remove-orphans"]).ok();
        host.docker(["ps", "-aq"])
            .lines()
            .iter()
            .for_each(|id| drop(host.docker(["rm", "-f", id])));
    }
}

#[test]
fn up_ends_with_what_it_was_called_for_and_stops_no_more() {
    let text = format!(
        "name: p\nservices:\n  main: {{image: busybox, command: echo hello, depends_on: [dep]}}\n  \
         stays: {{{SLEEP}, depends_on: [dep]}}\n  dep: {{{SLEEP}}}\n"
    );
    let host = with(&[("compose.yaml", text)]);
    for tool in BOTH {
        tool.run(&host, &["up", "--attach-dependencies", "main"]).says("exited with code 0");
        assert_eq!(running(&host), ["p-dep-1"], "{tool:?}");
        let up = Talk::start(tool.command(&host).current_dir(host.dir()).args(["up", "stays"]));
        eventually("stays runs", || (running(&host).len() == 2).then_some(()));
        up.signal(Signal::INT);
        up.finish();
        assert_eq!(running(&host), ["p-dep-1"], "{tool:?}");
        tool.run(&host, &["down", "--remove-orphans"]).ok();
    }
}

#[test]
fn files_that_nobody_asks_for_may_be_missing() {
    let text = format!(
        "services:\n  a: {{{SLEEP}}}\n  b: {{{SLEEP}, env_file: /nowhere/.env}}\n  \
         c: {{image: busybox, profiles: [p], env_file: c.env, command: \"sh -c 'echo $$WHO'\"}}\n"
    );
    let host = with(&[("compose.yaml", text), ("c.env", "WHO=c\n".to_owned())]);
    for tool in BOTH {
        tool.run(&host, &["up", "-d", "a"]).ok();
        tool.run(&host, &["run", "--rm", "-T", "c"]).says("c");
        tool.run(&host, &["up", "-d"]).fails("/nowhere/.env not found");
        tool.run(&host, &["down"]).ok();
    }
}

#[test]
fn variables_of_compose_may_stand_in_env_files() {
    let text = format!("name: p\nservices:\n  a: {{{SLEEP}}}\n");
    let more = format!("name: p\nservices:\n  old: {{{SLEEP}}}\n");
    let host = with(&[("compose.yaml", text), ("old.yaml", more)]);
    for tool in BOTH {
        for (line, left) in [("REMOVE_ORPHANS=true", 1), ("IGNORE_ORPHANS=true", 2)] {
            tool.run(&host, &["-f", "old.yaml", "up", "-d"]).ok();
            host.write(".env", format!("COMPOSE_{line}\n").as_bytes());
            let up = tool.run(&host, &["up", "-d"]);
            up.ok();
            assert!(!up.stderr.contains("orphan"), "{tool:?}: {up}");
            assert_eq!(running(&host).len(), left, "{tool:?} {line}");
            host.write(".env", b"");
            tool.run(&host, &["down", "--remove-orphans"]).ok();
        }
        tool.run(&host, &["-f", "old.yaml", "up", "-d"]).ok();
        let run = tool.run(&host, &["run", "--rm", "-T", "a", "true"]);
        run.ok();
        assert!(run.stderr.contains("Found orphan containers ([p-old-1])"), "{tool:?}: {run}");
        tool.run(&host, &["down", "--remove-orphans"]).ok();
    }
}

#[test]
fn what_is_not_brought_up_may_be_referred_to() {
    let text = format!(
        "name: p\nservices:\n  app: {{{SLEEP}, volumes_from: [db]}}\n  \
         net: {{image: served, command: sleep 100000, stop_grace_period: 0s, network_mode: \"service:db\"}}\n  \
         db: {{{SLEEP}, volumes: [/data], expose: [80]}}\n"
    );
    let host = with(&[("compose.yaml", text)]);
    // What the image offers is no conflict with the network of another container.
    host.load(&image::on_busybox("served:latest", &json!({"ExposedPorts": {"80/tcp": {}}})));
    for tool in BOTH {
        tool.run(&host, &["up", "-d"]).ok();
        let before = running(&host);
        assert_eq!(before, ["p-app-1", "p-db-1", "p-net-1"], "{tool:?}");
        let id = |name: &str| host.inspect(name, "{{.Id}}");
        let (app, net) = (id("p-app-1"), id("p-net-1"));
        tool.run(&host, &["up", "-d", "--no-deps", "app", "net"]).ok();
        assert_eq!((id("p-app-1"), id("p-net-1")), (app, net), "{tool:?}");
        tool.run(&host, &["ps", "--format", "{{.Service}} {{.Ports}}", "db"]).says("db 80/tcp\n");
        tool.run(&host, &["down"]).ok();
    }
}

#[test]
fn logs_follow_what_starts_later() {
    let text = format!(
        "name: p\nservices:\n  a: {{{SLEEP}}}\n  b: {{image: busybox, command: echo late}}\n"
    );
    let host = with(&[("compose.yaml", text)]);
    for tool in BOTH {
        tool.run(&host, &["up", "-d", "a"]).ok();
        let mut logs =
            Talk::start(tool.command(&host).current_dir(host.dir()).args(["logs", "-f"]));
        eventually("late is shown", || {
            tool.run(&host, &["up", "-d", "--force-recreate", "b"]).ok();
            logs.shows("late").then_some(())
        });
        logs.signal(Signal::INT);
        logs.finish();
        tool.run(&host, &["down"]).ok();
    }
}

#[test]
fn verbs_keep_to_the_services_of_the_files() {
    let one = format!(
        "name: p\nservices:\n  one: {{{SLEEP}, depends_on: [base]}}\n  base: {{{SLEEP}}}\n"
    );
    let two = format!("name: p\nservices:\n  two: {{{SLEEP}}}\n");
    let host = with(&[("one.yaml", one), ("two.yaml", two)]);
    for tool in BOTH {
        for file in ["one.yaml", "two.yaml"] {
            tool.run(&host, &["-f", file, "up", "-d"]).ok();
        }
        tool.run(&host, &["-f", "two.yaml", "stop"]).ok();
        assert_eq!(running(&host), ["p-base-1", "p-one-1"], "{tool:?}");
        let again = tool.run(&host, &["-f", "two.yaml", "stop"]);
        again.ok();
        assert!(again.stderr.contains("Container p-two-1  Stopped"), "{tool:?}: {again}");
        let away = host.dir().join("home");
        tool.run_in(&host, &away, &["-p", "p", "stop"]).ok();
        tool.run_in(&host, &away, &["-p", "p", "start", "one"]).ok();
        assert_eq!(running(&host), ["p-base-1", "p-one-1"], "{tool:?}");
        tool.run(&host, &["-f", "one.yaml", "pause", "one"]).ok();
        tool.run(&host, &["-f", "one.yaml", "pause", "one"]).fails("already paused");
        tool.run(&host, &["-f", "one.yaml", "unpause", "one"]).ok();
        tool.run_in(&host, &away, &["-p", "p", "down"]).ok();
    }
}

#[test]
fn wait_takes_the_project_down_with_its_first_container() {
    let text = format!(
        "name: p\nservices:\n  job: {{image: busybox, command: sleep 1}}\n  a: {{{SLEEP}}}\n"
    );
    let host = with(&[("compose.yaml", text)]);
    for tool in BOTH {
        tool.run(&host, &["up", "-d"]).ok();
        let away = host.dir().join("home");
        tool.run_in(&host, &away, &["-p", "p", "wait", "--down-project", "job"]).ok();
        assert_eq!(host.docker(["ps", "-aq"]).ok(), "", "{tool:?}");
    }
}

#[test]
fn a_healthcheck_that_stock_refuses_is_refused() {
    let check = "healthcheck: {test: \"true\", start_interval: 1s}";
    let host = with(&[("compose.yaml", format!("services:\n  a: {{{SLEEP}, {check}}}\n"))]);
    for tool in BOTH {
        tool.run(&host, &["up", "-d"])
            .fails("healthcheck.start_interval requires healthcheck.start_period to be set");
        tool.run(&host, &["down"]).ok();
    }
}

#[test]
fn variables_are_listed_in_every_format() {
    let text = "services:\n  a: {image: \"x:${TAG:-1}\", environment: [\"A=${B:?must}\", \"C=${D+alt}\"]}\n";
    let host = with(&[("compose.yaml", text.to_owned())]);
    for format in ["json", "yaml"] {
        let of = |tool: Tool| tool.run(&host, &["config", "--variables", "--format", format]).ok();
        assert_eq!(of(Wharf), of(Tool::Stock), "{format}");
    }
}

#[test]
fn hooks_run_before_every_stop() {
    let hook = "pre_stop: [{command: [sh, -c, \"echo $$HOSTNAME >> /shared/stops\"]}]";
    let text = format!(
        "name: p\nservices:\n  a: {{{SLEEP}, volumes: [\"./shared:/shared\"], {hook}}}\n  \
         job: {{image: busybox, command: sleep 1}}\n"
    );
    let host = with(&[("compose.yaml", text), ("shared/stops", String::new())]);
    let stops =
        || std::fs::read_to_string(host.dir().join("shared/stops")).unwrap().lines().count();
    for tool in BOTH {
        host.write("shared/stops", b"");
        tool.run(&host, &["up", "-d", "a"]).ok();
        tool.run(&host, &["stop"]).ok();
        assert_eq!(stops(), 1, "{tool:?} stop");
        tool.run(&host, &["up", "--abort-on-container-exit"]).ok();
        assert_eq!(stops(), 2, "{tool:?} up");
        tool.run(&host, &["start", "a"]).ok();
        tool.run(&host, &["down"]).ok();
        assert_eq!(stops(), 3, "{tool:?} down");
    }
}

#[test]
fn what_is_watched_may_be_made_later() {
    let text = "name: p\nservices:\n  a:\n    image: busybox\n    command: sleep 100000\n    \
                stop_grace_period: 0s\n    develop: {watch: [{action: sync, path: ./later, target: /later}]}\n";
    let host = with(&[("compose.yaml", text.to_owned())]);
    for tool in BOTH {
        let mut watch = Talk::start(tool.command(&host).current_dir(host.dir()).arg("watch"));
        watch.expect("Watch enabled");
        host.write("later/x", b"here");
        eventually("the file is copied", || {
            let cat = tool.run(&host, &["exec", "-T", "a", "cat", "/later/x"]);
            (cat.stdout == "here").then_some(())
        });
        watch.signal(Signal::INT);
        watch.finish();
        tool.run(&host, &["down"]).ok();
        std::fs::remove_dir_all(host.dir().join("later")).unwrap();
    }
}

#[test]
fn what_is_built_can_be_had_as_a_bake_file() {
    let text = r#"
name: p
services:
  a:
    image: reg/a:1
    build:
      context: .
      dockerfile: other.Dockerfile
      args: {B: "1", NOWHERE: }
      labels: [l=1]
      target: t
      cache_from: [reg/c]
      no_cache: true
      network: host
      shm_size: 1g
      extra_hosts: ["h:1.2.3.4"]
      tags: [reg/a:2]
      secrets: [s1, {source: s2, target: t2}]
      ssh: [k=/tmp/k]
      platforms: [linux/amd64, linux/arm64]
      ulimits: {nofile: {soft: 1, hard: 2}}
      entitlements: [network.host]
      additional_contexts: {res: ../res, other: "service:b"}
  b: {build: {dockerfile_inline: "FROM x\n", context: sub}}
  c: {image: busybox}
secrets: {s1: {file: ./s1}, s2: {environment: S2}}
"#;
    let host = with(&[("compose.yaml", text.to_owned()), ("s1", String::new())]);
    host.write("sub/x", b"");
    for flags in [&["build", "--print"][..], &["build", "--print", "--build-arg", "Z=1", "b"]] {
        let [ours, stock] = BOTH.map(|tool| {
            let mut file = tool.run(&host, flags).json();
            // Stock compose lists them in the order of a Go map, each time another.
            let targets = file["group"]["default"]["targets"].as_array_mut().unwrap();
            targets.sort_by_key(ToString::to_string);
            file
        });
        assert_eq!(ours, stock);
    }
    Wharf.run(&host, &["build", "--builder", "nope"]).fails("no builder \"nope\" found");
}

#[test]
fn a_container_that_is_started_again_at_once_stays_in_reach() {
    let host = Host::with_busybox();
    let script = "trap 'exit 0' TERM; while :; do sleep 0.01; done";
    host.docker(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).ok();
    for _ in 0..20 {
        for verb in ["stop", "start", "restart"] {
            assert_eq!(
                host.api("POST", &format!("/containers/box/{verb}"), b"").unwrap().status,
                204
            );
        }
        host.docker(["exec", "box", "true"]).ok();
    }
    host.docker(["rm", "-f", "box"]).ok();
}

#[test]
fn links_pass_where_neighbours_are_kept_apart() {
    let host = Host::with_flags(&["--icc=false"]);
    host.load(image::busybox());
    let run = |name: &str, flags: &[&str], command: &str| {
        let args = ["run", "-d", "--name", name, "--stop-timeout", "0"];
        host.docker(args.iter().chain(flags).chain(&["busybox", "sh", "-c", command])).ok();
    };
    run("db", &["--expose", "80"], "echo data > /tmp/x; exec httpd -f -p 80 -h /tmp");
    run("web", &["--link", "db:store"], "sleep 1000");
    run("other", &[], "sleep 1000");
    let ask = |name: &str| {
        let ip = host.inspect("db", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
        host.docker(["exec", name, "timeout", "2", "wget", "-qO-", &format!("http://{ip}/x")])
    };
    eventually("the link leads there", || (ask("web").code == 0).then_some(()));
    assert_ne!(ask("other").code, 0);
    // Elsewhere, and still linked.
    host.docker(["stop", "db"]).ok();
    run("taker", &[], "sleep 1000");
    host.docker(["start", "db"]).ok();
    eventually("the link leads there again", || (ask("web").code == 0).then_some(()));
    host.docker(["rm", "--link", "web/store"]).ok();
    assert_ne!(ask("web").code, 0);
}
