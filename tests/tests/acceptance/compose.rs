//! Compose: Debian's docker-compose and `wharf compose`, each alone and both in turn on one project.

use std::path::Path;
use std::process::Command;

use wharf_test::docker::Output;
use wharf_test::{Host, eventually, tools};

/// Who speaks Compose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tool {
    /// Debian's newest docker-compose, 2.40.
    Stock,
    /// The one of Debian's stable release, 2.26.
    Stable,
    /// `wharf compose`.
    Wharf,
}

use Tool::{Stable, Stock, Wharf};

pub(crate) const BOTH: [Tool; 2] = [Stock, Wharf];

const ALL: [Tool; 3] = [Stock, Stable, Wharf];

impl Tool {
    #[track_caller]
    pub(crate) fn run(self, host: &Host, args: &[&str]) -> Output {
        self.run_in(host, host.dir(), args)
    }

    #[track_caller]
    pub(crate) fn run_in(self, host: &Host, dir: &Path, args: &[&str]) -> Output {
        Output::run(self.command(host).current_dir(dir).args(args), b"")
    }

    pub(crate) fn command(self, host: &Host) -> Command {
        match self {
            Stock => host.client(tools::path("docker-compose")),
            Stable => host.client(tools::path("docker-compose-stable")),
            Wharf => {
                let mut c = host.client(tools::wharf());
                c.arg("compose");
                c
            }
        }
    }

    fn other(self) -> Tool {
        if self == Stock { Wharf } else { Stock }
    }
}

pub(crate) const SHOP: &str = r#"
name: shop
services:
  db:
    image: busybox
    command: sh -c "echo ok > /data/state; exec httpd -f -p 80 -h /data"
    volumes: [data:/data]
    healthcheck: {test: "test -f /data/state", interval: 100ms, timeout: 5s, retries: 50}
    stop_grace_period: 0s
  init:
    image: busybox
    command: "true"
  web:
    image: busybox
    command: sh -c "wget -qO- http://db/state; exec sleep 100000"
    stop_grace_period: 0s
    environment: [COLOR=red, SIZE]
    depends_on:
      db: {condition: service_healthy}
      init: {condition: service_completed_successfully}
    secrets: [token]
    configs: [{source: motd, target: /motd}]
  tool:
    image: busybox
    profiles: [tools]
    command: echo tool
volumes: {data: {}}
secrets: {token: {environment: COLORS}}
configs: {motd: {content: "welcome $$you"}}
"#;

pub(crate) fn shop() -> Host {
    let host = Host::with_busybox();
    host.write("compose.yaml", SHOP.as_bytes());
    host.write(".env", b"COLORS=secret\n");
    host
}

pub(crate) fn ids(host: &Host) -> Vec<String> {
    let mut ids = host
        .docker(["ps", "-aq", "--no-trunc", "--filter", "label=com.docker.compose.project=shop"])
        .lines();
    ids.sort();
    ids
}

#[test]
fn a_project_comes_up_serves_and_goes() {
    for tool in ALL {
        let host = shop();
        tool.run(&host, &["up", "-d"]).ok();
        let ps = tool.run(&host, &["ps", "-a", "--format", "{{.Service}} {{.State}}"]).lines();
        assert_eq!(ps, ["db running", "init exited", "web running"], "{tool:?}");
        let log = eventually("web has asked db", || {
            let log = tool.run(&host, &["logs", "--no-color", "web"]).ok();
            log.contains("ok").then_some(log)
        });
        assert!(log.contains("web-1  | ok"), "{tool:?}: {log}");
        let exec = |script: &str| tool.run(&host, &["exec", "-T", "web", "sh", "-c", script]);
        assert_eq!(
            exec("echo $COLOR; cat /run/secrets/token /motd").ok(),
            "red\nsecretwelcome $you"
        );
        exec("exit 7").exits(7);
        let run =
            ["run", "--rm", "-T", "-e", "COLOR=blue", "web", "sh", "-c", "echo $COLOR; exit 3"];
        let out = tool.run(&host, &run);
        assert_eq!(out.exits(3).stdout.trim(), "blue", "{tool:?}");
        host.write("note", b"hello");
        tool.run(&host, &["cp", "note", "web:/note"]).ok();
        assert_eq!(exec("cat /note").ok(), "hello");
        tool.run(&host, &["up", "-d", "--scale", "web=3"]).ok();
        assert_eq!(tool.run(&host, &["ps", "-q", "web"]).lines().len(), 3, "{tool:?}");
        tool.run(&host, &["stop", "web"]).ok();
        tool.run(&host, &["start", "web"]).ok();
        tool.run(&host, &["--profile", "tools", "up", "tool"]).says("tool");
        tool.run(&host, &["--profile", "tools", "down", "-v", "--remove-orphans"]).ok();
        assert_eq!(ids(&host), [""; 0], "{tool:?}");
        let left = ["ls", "-q", "--filter", "label=com.docker.compose.project=shop"];
        assert_eq!(host.docker(["network"].iter().chain(&left)).lines(), [""; 0]);
        assert_eq!(host.docker(["volume"].iter().chain(&left)).lines(), [""; 0]);
    }
}

#[test]
fn both_tools_manage_one_project_in_turn() {
    for first in BOTH {
        let host = shop();
        first.run(&host, &["up", "-d"]).ok();
        let made = ids(&host);
        assert_eq!(made.len(), 3);
        for tool in [first.other(), first, first.other()] {
            tool.run(&host, &["up", "-d"]).ok();
            assert_eq!(ids(&host), made, "{tool:?} replaced what {first:?} had made");
        }
        // What has changed is replaced by either, and the rest stays.
        host.write("compose.yaml", SHOP.replace("COLOR=red", "COLOR=green").as_bytes());
        first.other().run(&host, &["up", "-d"]).ok();
        let now = ids(&host);
        assert_eq!(now.iter().filter(|id| made.contains(id)).count(), 2);
        first.run(&host, &["up", "-d"]).ok();
        assert_eq!(ids(&host), now);
        first.other().run(&host, &["down", "-v"]).ok();
        assert_eq!(ids(&host), [""; 0]);
    }
}

/// 2.26 hashes what it does not know of differently, so what another tool made may be made anew by it;
/// but it finds everything, and the project works.
#[test]
fn an_older_compose_takes_over_a_project() {
    let host = shop();
    for tool in [Wharf, Stable, Wharf] {
        tool.run(&host, &["up", "-d", "--wait", "db", "web"]).ok();
        let ps = tool.run(&host, &["ps", "--services"]).lines();
        assert_eq!(ps, ["db", "web"], "{tool:?}");
        assert_eq!(ids(&host).len(), 3, "{tool:?} made more of what was there");
    }
    Stable.run(&host, &["down", "-v"]).ok();
    assert_eq!(ids(&host), [""; 0]);
}

#[test]
fn config_is_equal_to_the_byte() {
    let host = shop();
    let full = include_str!("compose.yaml");
    let over = "services:\n  web:\n    ports: !override ['81:80']\n    labels: !reset {}\n    environment: {A: over}\n";
    host.write("full.yaml", full.as_bytes());
    host.write("over.yaml", over.as_bytes());
    host.write("web.env", b"FROM_FILE=1\nTWICE=\"$FROM_FILE$FROM_FILE\"\n");
    for files in
        [&["-f", "compose.yaml"][..], &["-f", "full.yaml"], &["-f", "full.yaml", "-f", "over.yaml"]]
    {
        for verb in [
            &["config"][..],
            &["config", "--format", "json"],
            &["config", "--hash", "*"],
            &["config", "--profiles"],
            &["--profile", "tools", "config", "web"],
        ] {
            let args = [files, verb].concat();
            let (stock, own) = (Stock.run(&host, &args).ok(), Wharf.run(&host, &args).ok());
            assert_eq!(own, stock, "{args:?}");
        }
        for list in ["--services", "--images", "--volumes", "--networks"] {
            let args = [files, &["config", list]].concat();
            let sorted = |tool: Tool| {
                let mut lines = tool.run(&host, &args).lines();
                lines.sort();
                lines
            };
            assert_eq!(sorted(Wharf), sorted(Stock), "{args:?}");
        }
    }
}

#[test]
fn a_file_of_2015_runs_as_it_is() {
    let host = Host::with_busybox();
    let text = r#"
db:
  image: busybox
  command: sh -c "echo row > /tmp/table; exec httpd -f -p 3306 -h /tmp"
  expose: [3306]
  environment: [PASSWORD=123456]
service1:
  image: busybox
  links: [db:default]
  command: sh -c "wget -qO- $$DEFAULT_PORT_3306_TCP_ADDR:$$DEFAULT_PORT_3306_TCP_PORT/table; echo $$DEFAULT_ENV_PASSWORD; exec sleep 100000"
"#;
    let dir = host.write("old/docker-compose.yml", text.as_bytes());
    let dir = dir.parent().unwrap();
    Wharf.run_in(&host, dir, &["up", "-d"]).ok();
    eventually("service1 has read from db", || {
        let log = Wharf.run_in(&host, dir, &["logs", "--no-log-prefix", "service1"]).ok();
        (log.contains("row") && log.contains("123456")).then_some(())
    });
    Wharf.run_in(&host, dir, &["config"]).says("services:");
    Wharf.run_in(&host, dir, &["down", "-t", "0"]).ok();
    assert_eq!(host.docker(["ps", "-aq"]).lines(), [""; 0]);
}

#[test]
fn mistakes_are_told_before_anything_is_started() {
    let host = Host::with_busybox();
    for (text, words) in [
        ("services:\n  a:\n    imagee: x\n", "compose.yaml:3:5: "),
        (
            "services:\n  a: {image: \"${V:?is needed}\"}",
            "required variable V is missing a value: is needed",
        ),
        (
            "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [a]}",
            "dependency cycle",
        ),
        (
            "services:\n  a: {image: busybox, networks: [n]}\nnetworks: {n: {external: true}}",
            "could not be found",
        ),
        ("services: &a\n  x: *a", "contains it"),
        ("include: [compose.yaml]\nservices: {a: {image: x}}", "include cycle"),
    ] {
        host.write("compose.yaml", text.as_bytes());
        Wharf.run(&host, &["up", "-d"]).fails(words);
    }
    assert_eq!(host.docker(["ps", "-aq"]).lines(), [""; 0]);
    assert_eq!(host.docker(["network", "ls", "--filter", "type=custom", "-q"]).lines(), [""; 0]);
}

#[test]
fn a_service_that_dies_fails_up_and_the_next_up_goes_on() {
    let host = Host::with_busybox();
    let text = |command: &str| {
        format!(
            "services:\n  job: {{image: busybox, command: '{command}'}}\n  web:\n    image: busybox\n    command: sleep 100000\n    stop_grace_period: 0s\n    depends_on: {{job: {{condition: service_completed_successfully}}}}\n"
        )
    };
    host.write("compose.yaml", text("false").as_bytes());
    for tool in BOTH {
        tool.run(&host, &["up", "-d"])
            .fails("service \"job\" didn't complete successfully: exit 1");
    }
    host.write("compose.yaml", text("true").as_bytes());
    Wharf.run(&host, &["up", "-d", "--wait"]).ok();
    assert_eq!(Wharf.run(&host, &["ps", "--services"]).ok(), "web");
    Wharf.run(&host, &["down"]).ok();
}
