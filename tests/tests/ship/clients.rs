//! Stock clients at wharf's registry, and wharf at Debian's.

use crate::{archive, serve, skopeo, start};
use std::fs;
use wharf_test::host::Engine;
use wharf_test::server::debians;
use wharf_test::{Host, Output, image, tools};

const NAME: &str = "127.0.0.1:5000/team/busybox:1";
const REMOTE: &str = "docker://127.0.0.1:5000/team/busybox";

#[test]
fn skopeo_copies_in_out_and_across() {
    let host = Host::bare(Engine::Wharf);
    let _server = serve(&host, &[]);
    let one = format!("{REMOTE}:1");
    skopeo(&host, &["copy", "--dest-tls-verify=false", &archive(&host), &one]).ok();
    let shown = skopeo(&host, &["inspect", "--tls-verify=false", &one]).json();
    assert_eq!(shown["RepoTags"], serde_json::json!(["1"]), "{shown}");
    let both = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let across = "docker://127.0.0.1:5000/other/name:2";
    skopeo(&host, &["copy", both[0], both[1], &one, across]).ok();
    skopeo(&host, &["copy", both[0], across, "oci:layout:x"]).ok();
    skopeo(&host, &["copy", both[1], "oci:layout:x", "docker://127.0.0.1:5000/again:oci"]).ok();
    let config =
        |name: &str| skopeo(&host, &["inspect", "--tls-verify=false", "--config", name]).json();
    assert_eq!(config("docker://127.0.0.1:5000/again:oci")["rootfs"], config(&one)["rootfs"]);
    let tags = skopeo(&host, &["list-tags", "--tls-verify=false", REMOTE]).json();
    assert_eq!(tags["Tags"], serde_json::json!(["1"]));
    skopeo(&host, &["delete", "--tls-verify=false", &one]).ok();
    skopeo(&host, &["inspect", "--tls-verify=false", &one]).fails("unknown");
    skopeo(&host, &["inspect", "--tls-verify=false", across]).ok();
}

#[test]
fn docker_logs_in_pushes_and_is_refused() {
    let host = Host::with_busybox();
    let line =
        Output::run(host.enter(tools::wharf()).args(["registry", "passwd", "ann"]), b"secret\n");
    let users = host.write("htpasswd", line.ok().as_bytes());
    let rules = "[[rule]]\nrepository = 'team/*'\npull = ['*']\npush = ['ann']\n";
    let rules = host.write("registry.toml", rules.as_bytes());
    let (users, rules) = (users.to_str().unwrap(), rules.to_str().unwrap());
    let _server = serve(&host, &["--htpasswd", users, "--auth", "token", "--config", rules]);
    host.docker(["tag", "busybox", NAME]).ok();
    host.docker(["push", NAME]).fails("authentication required");
    host.docker_with(b"wrong", ["login", "-u", "ann", "--password-stdin", "127.0.0.1:5000"])
        .fails("unauthorized");
    host.docker_with(b"secret", ["login", "-u", "ann", "--password-stdin", "127.0.0.1:5000"])
        .says("Login Succeeded");
    host.docker(["push", NAME]).says("1: digest: sha256:");
    host.docker(["logout", "127.0.0.1:5000"]).ok();
    host.docker(["push", NAME]).fails("authentication required");
    host.docker(["rmi", "-f", NAME, "busybox"]).ok();
    host.docker(["pull", NAME]).says("Downloaded newer image");
    host.docker(["tag", NAME, "127.0.0.1:5000/private/x"]).ok();
    host.docker(["push", "127.0.0.1:5000/private/x"]).fails("push access denied");
}

#[test]
fn docker_pushes_what_exists_and_all_tags() {
    let host = Host::with_busybox();
    let _server = serve(&host, &[]);
    let none = "An image does not exist locally with the tag: 127.0.0.1:5000/team/busybox";
    host.docker(["push", NAME]).fails(none);
    for tag in ["1", "2"] {
        host.docker(["tag", "busybox", &format!("127.0.0.1:5000/team/busybox:{tag}")]).ok();
    }
    let out = host.docker(["push", "-a", "127.0.0.1:5000/team/busybox"]).ok();
    assert!(out.contains("1: digest:") && out.contains("2: digest:"), "{out}");
    assert!(out.contains("Pushed") && out.contains("Layer already exists"), "{out}");
    host.docker(["tag", "busybox", "127.0.0.1:5000/fresh"]).ok();
    host.docker(["push", "127.0.0.1:5000/fresh"]).says("Mounted from team/busybox");
    let quiet = host.docker(["push", "-q", "127.0.0.1:5000/fresh"]).ok();
    assert_eq!(quiet.trim(), "127.0.0.1:5000/fresh:latest");
    host.docker(["push", "--platform", "linux/s390x", "127.0.0.1:5000/fresh"])
        .fails("does not provide the specified platform");
    let events = host.events("event=push", "{{.Actor.Attributes.name}}");
    assert!(events.iter().any(|e| e.contains("fresh")), "{events:?}");
    let list = host.get("127.0.0.1:5000", "/v2/_catalog").unwrap().json();
    assert_eq!(list["repositories"], serde_json::json!(["fresh", "team/busybox"]));
}

#[test]
fn wharf_ships_through_debians_registry() {
    let host = Host::with_busybox();
    let _server = debians(&host);
    host.docker(["tag", "busybox", NAME]).ok();
    host.docker(["push", NAME]).says("Pushed");
    host.docker(["push", NAME]).says("Layer already exists");
    host.docker(["tag", "busybox", "127.0.0.1:5000/second"]).ok();
    host.docker(["push", "127.0.0.1:5000/second"]).says("Mounted from team/busybox");
    host.docker(["rmi", "-f", NAME, "127.0.0.1:5000/second", "busybox"]).ok();
    host.docker(["run", "--rm", NAME, "echo", "back"]).says("back");
}

#[test]
fn wharf_copies_and_makes_lists_without_an_engine() {
    let host = Host::bare(Engine::Wharf);
    let _server = serve(&host, &[]);
    let one = format!("{REMOTE}:1");
    skopeo(&host, &["copy", "--dest-tls-verify=false", &archive(&host), &one]).ok();
    let wharf = |args: &[&str]| {
        let mut c = host.enter(tools::wharf());
        c.args(args).env("HOME", host.dir().join("home")).env_remove("DOCKER_CONFIG");
        Output::run(&mut c, b"")
    };
    wharf(&["image", "copy", NAME, "127.0.0.1:5000/copy"]).says("127.0.0.1:5000/copy:1@sha256:");
    wharf(&["image", "copy", "127.0.0.1:5000/none", "127.0.0.1:5000/copy"])
        .fails("no such manifest");
    let list = "127.0.0.1:5000/list:latest";
    wharf(&["manifest", "create", list, NAME, "127.0.0.1:5000/copy:1"])
        .says("Created manifest list");
    wharf(&["manifest", "create", list, NAME]).fails("use --amend");
    wharf(&[
        "manifest",
        "annotate",
        "--arch",
        "arm64",
        "--variant",
        "v8",
        list,
        "127.0.0.1:5000/copy:1",
    ])
    .ok();
    wharf(&["manifest", "push", "--purge", list]).says("sha256:");
    let shown = wharf(&["manifest", "inspect", list]).json();
    let platforms: Vec<_> = shown["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert!(platforms.contains(&"arm64") && platforms.len() == 2, "{shown}");
    assert_eq!(wharf(&["manifest", "inspect", "-v", list]).json().as_array().unwrap().len(), 2);
    wharf(&["image", "copy", "--platform", "linux/arm64", list, "127.0.0.1:5000/arm"]).ok();
    let shown = wharf(&["manifest", "inspect", "127.0.0.1:5000/arm"]).json();
    assert!(shown.get("layers").is_some(), "{shown}");
    wharf(&["image", "copy", list, "127.0.0.1:5000/all"]).ok();
    skopeo(&host, &["inspect", "--raw", "--tls-verify=false", "docker://127.0.0.1:5000/all"])
        .says("arm64");
    wharf(&["manifest", "rm", list]).fails("no such manifest list");
}

#[test]
fn podman_pushes_and_pulls() {
    let host = Host::peers();
    let binary = host.dir().join("wharf");
    fs::copy(tools::wharf(), &binary).unwrap();
    let mut registry = host.enter(&binary);
    registry.args(["registry", "serve", "--root"]).arg(host.dir().join("registry"));
    let _server = start(&host, registry);
    let mount = ["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"];
    Output::of(host.enter(host.dir().join("busybox")).args(mount), b"").ok();
    let podman = |args: &[&str]| {
        let mut c = host.enter("podman");
        c.arg("--root").arg(host.dir().join("podman")).args(args);
        c.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        c.env("HOME", host.dir().join("home")).current_dir("/");
        Output::run(&mut c, b"")
    };
    let archive = host.write("busybox.tar", &image::busybox().docker_archive());
    podman(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
    podman(&["push", "--tls-verify=false", "busybox", NAME]).ok();
    podman(&["rmi", "-a", "-f"]).ok();
    podman(&["pull", "--tls-verify=false", NAME]).ok();
    podman(&["image", "exists", NAME]).ok();
}
