//! What went wrong in other engines: one test for each mistake that no other file holds.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;
use wharf_test::{Host, image, image::Tar};

#[test]
fn volumes_of_an_image_cannot_lie_outside_of_its_files() {
    // CVE-2022-23648: a volume at `../..` was filled from the host.
    let host = Host::with_busybox();
    let secret = host.write("secret", b"host file");
    let up = format!("/../../../../../..{}", host.dir().display());
    host.load(&image::on_busybox("climber", &json!({ "Volumes": { up: {} } })));
    let cat = format!("cat {}; ls -a {}", secret.display(), host.dir().display());
    let out = host.docker(["run", "--rm", "climber", "sh", "-c", &cat]);
    assert!(!out.stdout.contains("host file") && !out.stdout.contains("secret"), "{out}");
}

#[test]
fn nothing_listens_where_any_container_on_the_hosts_network_could_connect() {
    // CVE-2020-15257: an abstract socket belongs to a network, not to a directory.
    let host = Host::with_busybox();
    host.sleeper("box");
    let sockets = ["run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix"];
    let sockets = host.docker(sockets).lines();
    assert!(sockets.len() > 1, "the engine's own sockets are not seen: {sockets:?}");
    let open: Vec<_> = sockets.iter().filter(|l| l.contains(" @")).collect();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn users_of_the_host_cannot_look_into_containers() {
    // CVE-2021-41091: programs with set-uid bits in a container are not for the host's users.
    let host = Host::with_busybox();
    host.sleeper("box");
    for dir in ["data", "data/containers"] {
        let mode = fs::metadata(host.dir().join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{dir}: {mode:o}");
    }
    let socket = fs::metadata(host.socket()).unwrap();
    assert_eq!((socket.mode() & 0o007, socket.uid()), (0, 0), "{:o}", socket.mode());
}

#[test]
fn groups_are_those_of_the_user_and_no_others() {
    // CVE-2022-36109: the process had no supplementary groups, or those of whoever started it.
    let host = Host::with_busybox();
    let groups = |user: &str, more: &[&str]| {
        let head = ["run", "--rm", "-u", user];
        let args = head.iter().chain(more).copied();
        host.docker(args.chain(["busybox", "id", "-G"])).ok()
    };
    assert_eq!(groups("alice", &[]), "1000 50");
    assert_eq!(groups("1000", &[]), "1000 50");
    assert_eq!(groups("alice:daemon", &[]), "1");
    assert_eq!(groups("alice", &["--group-add", "77"]), "1000 50 77");
    assert_eq!(groups("4321", &[]), "0");
    host.sleeper("box");
    assert_eq!(host.docker(["exec", "-u", "alice", "box", "id", "-G"]).ok(), "1000 50");
}

#[test]
fn no_capability_is_inherited_in_any_mode() {
    // CVE-2022-24769
    let host = Host::with_busybox();
    host.sleeper("box");
    let grep = ["grep", "CapInh", "/proc/self/status"];
    let run = |flags: &[&str]| {
        let args = ["run", "--rm"].iter().chain(flags).chain(&["busybox"]).chain(&grep);
        host.docker(args).ok()
    };
    let mut seen = vec![run(&[]), run(&["--cap-add", "ALL"]), run(&["--privileged"])];
    seen.push(run(&["-u", "1000", "--cap-add", "NET_ADMIN"]));
    for flags in [&["exec"][..], &["exec", "--privileged"]] {
        seen.push(host.docker(flags.iter().chain(&["box"]).chain(&grep)).ok());
    }
    assert!(seen.iter().all(|l| l.ends_with("\t0000000000000000")), "{seen:?}");
}

#[test]
fn a_network_without_ipv6_has_none() {
    // CVE-2024-32473: containers got link-local addresses, and took routes from neighbours.
    let host = Host::with_busybox();
    host.docker(["network", "create", "plain"]).ok();
    let script = "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 2>/dev/null || echo 1; ip -6 addr show dev eth0";
    for network in ["bridge", "plain"] {
        let out = host.docker(["run", "--rm", "--network", network, "busybox", "sh", "-c", script]);
        assert_eq!(out.ok(), "1", "on {network}");
    }
}

#[test]
fn links_on_the_way_to_a_volume_work_and_stay_inside() {
    // CVE-2026-42306: a copy met a link where a volume is mounted; the first remedy broke `/var/run`.
    let host = Host::with_busybox();
    let mut tar = Tar::default();
    tar.dir("run", 0o755);
    tar.dir("var", 0o755);
    tar.symlink("var/run", "/run");
    let layer =
        [&image::busybox_layer()[..image::busybox_layer().len() - 1024], &tar.finish()].concat();
    // busybox's own `var` comes first in the archive and is no obstacle.
    host.load(&image::Image::new("linked", layer, &json!({ "Cmd": ["sleep", "1000"] })));
    let args = ["run", "-d", "--name", "box", "--stop-timeout", "0", "-v", "data:/var/run/app"];
    host.docker(args.iter().chain(&["linked"])).ok();
    host.write("f", b"to the volume");
    host.docker(["cp", "f", "box:/var/run/app/f"]).ok();
    host.docker(["cp", "box:/run/app/f", "back"]).ok();
    assert_eq!(fs::read(host.dir().join("back")).unwrap(), b"to the volume");
    assert_eq!(host.docker(["exec", "box", "cat", "/var/run/app/f"]).ok(), "to the volume");
}
