//! Ladder step 4: events.

use wharf_test::Host;

#[test]
fn the_life_of_a_container_in_events() {
    let host = Host::with_busybox();
    host.docker(["run", "--name", "box", "--label", "k=v", "busybox", "sh", "-c", "exit 3"])
        .exits(3);
    host.docker(["rm", "box"]).ok();
    let actions = host.events("container=box", "{{.Type}} {{.Action}}");
    let at = |action: &str| {
        let line = format!("container {action}");
        let found = actions.iter().position(|l| *l == line);
        found.unwrap_or_else(|| panic!("no {line} in {actions:?}"))
    };
    assert!(at("create") < at("attach") && at("attach") < at("start"));
    assert!(at("start") < at("die") && at("die") < at("destroy"));
    let die = host.events("event=die", "{{json .Actor}}");
    let die: serde_json::Value = serde_json::from_str(&die[0]).unwrap();
    for (name, value) in [("exitCode", "3"), ("k", "v"), ("name", "box"), ("image", "busybox")] {
        assert_eq!(die["Attributes"][name], value, "{die}");
    }
}

#[test]
fn live_events_arrive_while_they_happen() {
    let host = Host::with_busybox();
    let format = "{{.Action}}:{{.Actor.Attributes.name}}";
    let mut events = host.talk(&["events", "--filter", "type=container", "--format", format]);
    // An event may come before the subscription stands; create until one is seen.
    let mut n = 0;
    wharf_test::eventually("the subscription stands", || {
        n += 1;
        host.docker(["create", "--name", &format!("probe{n}"), "busybox"]).ok();
        events.shows("create:probe").then_some(())
    });
    host.docker(["run", "--rm", "--name", "live", "busybox", "true"]).ok();
    events.expect("start:live");
    events.expect("die:live");
    events.expect("destroy:live");
}

#[test]
fn kill_stop_pause_and_exec_are_told() {
    let host = Host::with_busybox();
    host.sleeper("box");
    host.docker(["exec", "box", "true"]).ok();
    host.docker(["pause", "box"]).ok();
    host.docker(["unpause", "box"]).ok();
    host.docker(["rename", "box", "dee"]).ok();
    host.docker(["stop", "dee"]).ok();
    let lines = host.events("type=container", "{{.Action}}");
    let told = [
        // The space is Docker's: command, space, arguments.
        "exec_create: true ",
        "exec_start: true ",
        "exec_die",
        "pause",
        "unpause",
        "rename",
        "kill",
        "die",
        "stop",
    ];
    for action in told {
        assert!(lines.iter().any(|l| l == action), "{action} in {lines:?}");
    }
}

#[test]
fn volumes_networks_and_images_tell_too() {
    let host = Host::with_busybox();
    host.docker(["tag", "busybox", "other:1"]).ok();
    host.docker(["rmi", "other:1"]).ok();
    host.docker(["run", "--rm", "-v", "data:/d", "busybox", "true"]).ok();
    host.docker(["volume", "rm", "data"]).ok();
    let lines = host.events("", "{{.Type}} {{.Action}}");
    let told = [
        "image load",
        "image tag",
        "image untag",
        "volume create",
        "volume mount",
        "volume unmount",
        "volume destroy",
        "network connect",
        "network disconnect",
    ];
    for line in told {
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    }
}
