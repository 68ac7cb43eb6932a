//! The verbs of Compose one by one, `wharf compose` beside stock where stock has them.

use wharf_test::program::Talk;
use wharf_test::{Host, eventually};

use crate::compose::{BOTH, SHOP, Tool, ids, shop};
use Tool::{Stock, Wharf};

fn id(host: &Host, service: &str) -> String {
    Wharf.run(host, &["ps", "-aq", service]).ok()
}

fn started(host: &Host, service: &str) -> String {
    host.inspect(&id(host, service), "{{.State.StartedAt}}")
}

fn file(host: &Host, service: &str, path: &str) -> Option<String> {
    let out = Wharf.run(host, &["exec", "-T", service, "cat", path]);
    (out.code == 0).then(|| out.stdout.trim().to_owned())
}

#[test]
fn restart_takes_dependents_along_unless_told_not_to() {
    let text = "services:
  db: {image: busybox, command: sleep 100000, stop_grace_period: 0s}
  web:
    image: busybox
    command: sleep 100000
    stop_grace_period: 0s
    depends_on: {db: {condition: service_started, restart: true}}
  other:
    image: busybox
    command: sleep 100000
    stop_grace_period: 0s
    depends_on: [db]
";
    for tool in BOTH {
        let host = Host::with_busybox();
        host.write("compose.yaml", text.as_bytes());
        tool.run(&host, &["up", "-d"]).ok();
        let all = || ["db", "web", "other"].map(|s| started(&host, s));
        let first = all();
        tool.run(&host, &["restart", "--no-deps", "db"]).ok();
        let second = all();
        assert_ne!(second[0], first[0], "{tool:?}");
        assert_eq!(second[1..], first[1..], "{tool:?}");
        tool.run(&host, &["restart", "db"]).ok();
        let third = all();
        assert!(third[0] != second[0] && third[1] != second[1], "{tool:?}");
        assert_eq!(third[2], second[2], "{tool:?}");
        // Without the files the labels say it.
        let dir = host.dir().join("home");
        Wharf.run_in(&host, &dir, &["-p", &project(&host), "restart", "-t", "0", "db"]).ok();
        let fourth = all();
        assert!(fourth[0] != third[0] && fourth[1] != third[1] && fourth[2] == third[2]);
        tool.run(&host, &["down"]).ok();
    }
}

fn project(host: &Host) -> String {
    host.inspect(&id(host, "db"), "{{index .Config.Labels \"com.docker.compose.project\"}}")
}

#[test]
fn run_builds_quietly_when_asked_to() {
    let text = "services:\n  app:\n    build: {dockerfile_inline: \"FROM busybox\\nRUN echo buildstep > /made\\n\"}\n    command: cat /made\n";
    let host = Host::with_busybox();
    host.write("compose.yaml", text.as_bytes());
    // The engine's own files lie beside it.
    host.write(".dockerignore", b"*\n");
    let quiet = Wharf.run(&host, &["run", "--rm", "-T", "--quiet-build", "app"]);
    assert_eq!(quiet.ok(), "buildstep");
    assert!(!quiet.stderr.contains("RUN"), "{quiet}");
    let loud = Wharf.run(&host, &["run", "--rm", "-T", "--build", "app"]);
    assert_eq!(loud.ok(), "buildstep");
    assert!(loud.stderr.contains("RUN"), "{loud}");
    Wharf.run(&host, &["down", "--rmi", "local"]).ok();
}

#[test]
fn down_leaves_what_no_active_profile_names() {
    for tool in BOTH {
        let host = shop();
        host.write(
            "compose.yaml",
            SHOP.replace("command: echo tool", "command: sleep 100000\n    stop_grace_period: 0s")
                .as_bytes(),
        );
        tool.run(&host, &["--profile", "tools", "up", "-d", "tool"]).ok();
        tool.run(&host, &["down"]).ok();
        assert_eq!(ids(&host).len(), 1, "{tool:?}");
        tool.run(&host, &["down", "--remove-orphans"]).ok();
        assert_eq!(ids(&host).len(), 1, "{tool:?}: an inactive service is no orphan");
        tool.run(&host, &["--profile", "tools", "down"]).ok();
        assert_eq!(ids(&host), [""; 0], "{tool:?}");
    }
}

const WATCHED: &str = r#"
services:
  web:
    build: {context: ./image}
    command: sh -c "cat /srv/*; exec sleep 100000"
    stop_grace_period: 0s
    develop:
      watch:
        - {action: sync, path: ./static, target: /srv, ignore: [skipped/]}
        - {action: sync+restart, path: ./conf, target: /etc/app, initial_sync: true}
        - {action: rebuild, path: ./image/Dockerfile}
        - action: sync+exec
          path: ./code
          target: /code
          exec: {command: [sh, -c, "cat /code/* > /reloaded; echo reloading"]}
"#;

fn watched() -> Host {
    let host = Host::with_busybox();
    host.write("compose.yaml", WATCHED.as_bytes());
    host.write("image/Dockerfile", b"FROM busybox\nRUN mkdir /srv && echo one > /version\n");
    host.write("static/a", b"first\n");
    host.write("static/skipped/x", b"never\n");
    host.write("conf/main", b"setting\n");
    host.write("code/x", b"old\n");
    host
}

#[test]
fn watch_copies_restarts_rebuilds_and_runs_commands() {
    let host = watched();
    let mut watch = Talk::start(Wharf.command(&host).current_dir(host.dir()).arg("watch"));
    watch.expect("Watch enabled");
    assert_eq!(file(&host, "web", "/etc/app/main").as_deref(), Some("setting"));
    assert_eq!(file(&host, "web", "/version").as_deref(), Some("one"));
    // Copied, in a directory that did not exist, and taken away again.
    host.write("static/new/deep/b", b"second\n");
    host.write("static/skipped/y", b"never\n");
    let sees = |path: &str, text: Option<&str>| {
        eventually(path, || (file(&host, "web", path).as_deref() == text).then_some(()));
    };
    sees("/srv/new/deep/b", Some("second"));
    assert_eq!(file(&host, "web", "/srv/skipped/y"), None);
    std::fs::remove_file(host.dir().join("static/new/deep/b")).unwrap();
    sees("/srv/new/deep/b", None);
    // A command in the container.
    host.write("code/x", b"new\n");
    watch.expect("reloading");
    sees("/reloaded", Some("new"));
    // A restart of the same container.
    let (made, since) = (id(&host, "web"), started(&host, "web"));
    host.write("conf/main", b"changed\n");
    eventually("a restart", || (started(&host, "web") != since).then_some(()));
    sees("/etc/app/main", Some("changed"));
    assert_eq!(id(&host, "web"), made);
    // A new image and a new container.
    host.write("image/Dockerfile", b"FROM busybox\nRUN mkdir /srv && echo two > /version\n");
    watch.expect("successfully built");
    sees("/version", Some("two"));
    assert_ne!(id(&host, "web"), made);
    // What cannot be built is told, and watching goes on.
    host.write("image/Dockerfile", b"FROM busybox\nRUN exit 3\n");
    watch.expect("Error handling changed files");
    host.write("image/Dockerfile", b"FROM busybox\nRUN mkdir /srv && echo three > /version\n");
    sees("/version", Some("three"));
    watch.signal(rustix::process::Signal::INT);
    let (code, text) = watch.finish();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Watch disabled"));
    Wharf.run(&host, &["down", "--rmi", "local"]).ok();
}

#[test]
fn up_watches_and_shows_the_output_of_what_it_replaces() {
    let host = watched();
    let mut up = Talk::start(Wharf.command(&host).current_dir(host.dir()).args(["up", "--watch"]));
    up.expect("Watch enabled");
    host.write("static/a", b"written\n");
    up.expect("Syncing service \"web\"");
    host.write("image/Dockerfile", b"FROM busybox\nRUN mkdir /srv && echo fresh > /srv/version\n");
    up.expect("fresh");
    assert_eq!(Wharf.run(&host, &["ps", "--services"]).ok(), "web");
    up.signal(rustix::process::Signal::INT);
    up.finish();
    assert_eq!(Wharf.run(&host, &["ps", "--services"]).ok(), "");
    Wharf.run(&host, &["down", "--rmi", "local"]).ok();
    let nothing = "services: {web: {image: busybox}}";
    host.write("compose.yaml", nothing.as_bytes());
    Wharf
        .run(&host, &["up", "--watch"])
        .fails("none of the selected services is configured for watch");
    Wharf.run(&host, &["watch"]).fails("none of the selected services is configured for watch");
}

#[test]
fn up_follows_containers_that_start_again_and_ends_with_the_chosen_status() {
    let host = Host::with_busybox();
    let text = "services:
  flaky:
    image: busybox
    command: sh -c 'echo x >> /n; echo run $$(wc -l < /n); test $$(wc -l < /n) -ge 3'
    restart: on-failure
  job: {image: busybox, command: sh -c 'exit 5'}
  main: {image: busybox, command: sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'}
";
    host.write("compose.yaml", text.as_bytes());
    let up = Wharf.run(&host, &["up", "--no-color", "flaky"]);
    up.says("run 1").says("run 3").says("exited with code 0");
    for tool in BOTH {
        tool.run(&host, &["up", "--exit-code-from", "main", "main", "job"]).exits(9);
    }
    Wharf.run(&host, &["up", "--abort-on-container-failure", "main", "job"]).exits(5);
    Wharf.run(&host, &["up", "-d", "--watch"]).fails("--detach cannot be combined with --watch");
    Wharf.run(&host, &["down", "-t", "0"]).ok();
}

#[test]
fn config_explains_where_values_come_from() {
    let host = Host::with_busybox();
    let base = "services:\n  web:\n    image: shop:${TAG}\n    env_file: web.env\n";
    let over = "services:\n  web:\n    user: ${WHO:-nobody}\n";
    host.write("compose.yaml", base.as_bytes());
    host.write("compose.override.yaml", over.as_bytes());
    host.write(".env", b"TAG=7\n");
    host.write("web.env", b"MODE=fast\n");
    let text = Wharf.run(&host, &["config", "--explain"]).ok();
    let dir = host.dir().display();
    for line in [
        format!("services.web.image shop:7 {dir}/compose.yaml:3:12 (TAG from {dir}/.env)"),
        format!("services.web.user nobody {dir}/compose.override.yaml:3:11 (WHO is not set)"),
        format!("services.web.environment.MODE fast env_file {dir}/web.env"),
        "services.web.networks.default null default".to_owned(),
    ] {
        let found =
            text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == line);
        assert!(found, "no {line:?} in\n{text}");
    }
    let json = Wharf.run(&host, &["config", "--explain", "--format", "json"]).json();
    assert!(json.as_array().is_some_and(|a| a.iter().any(|o| o["Value"] == "shop:7")));
}

#[test]
fn a_dry_run_changes_nothing() {
    let host = shop();
    Wharf.run(&host, &["--dry-run", "up", "-d"]).says("create shop-web-1");
    assert_eq!(ids(&host), [""; 0]);
    Wharf.run(&host, &["up", "-d"]).ok();
    let since = started(&host, "web");
    for verb in
        [&["stop"][..], &["kill"], &["restart"], &["down", "-v"], &["rm", "-sf"], &["pause"]]
    {
        Wharf.run(&host, &[&["--dry-run"], verb].concat()).ok();
        Wharf.run(&host, &[verb, &["--dry-run"]].concat()).ok();
    }
    assert_eq!((ids(&host).len(), started(&host, "web")), (3, since));
    Wharf.run(&host, &["--dry-run", "exec", "-T", "web", "true"]).fails("cannot be tried");
    Wharf.run(&host, &["down", "-v"]).ok();
}

#[test]
fn viz_draws_what_stock_draws() {
    let host = shop();
    let flags = ["alpha", "viz", "--networks", "--ports", "--image", "--spaces"];
    let sorted = |tool: Tool| {
        let mut lines = tool.run(&host, &flags).lines();
        lines.sort();
        lines
    };
    assert_eq!(sorted(Wharf), sorted(Stock));
    Wharf.run(&host, &["viz"]).says("digraph \"shop\" {\n\tlayout=dot;\n");
}
