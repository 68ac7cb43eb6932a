//! Ladder step 2: load, save, tag, rmi, history, inspect.

use std::fs;
use wharf_test::host::Engine;
use wharf_test::{Host, image};

#[test]
fn load_understands_both_layouts() {
    let host = Host::start();
    let docker = host.write("docker.tar", &image::busybox().docker_archive());
    host.docker(["load", "-i", docker.to_str().unwrap()]).says("Loaded image: busybox:latest");
    host.docker(["rmi", "busybox"]).says("Untagged: busybox:latest");
    // The reference reads OCI layouts only with its other image store.
    let Engine::Wharf = host.engine() else { return };
    let oci = host.write("oci.tar", &image::busybox().oci_archive());
    host.docker(["load", "-i", oci.to_str().unwrap()]).says("Loaded image");
    host.docker(["run", "--rm", "busybox", "echo", "loaded"]).says("loaded");
}

#[test]
fn load_reads_from_standard_input_and_gzip() {
    let host = Host::start();
    host.docker_with(&image::busybox().docker_archive(), ["load"]).says("busybox:latest");
    host.docker(["rmi", "busybox"]).ok();
    host.write("i.tar", &image::busybox().docker_archive());
    let status = std::process::Command::new("gzip").arg(host.dir().join("i.tar")).status().unwrap();
    assert!(status.success());
    host.docker(["load", "-i", "i.tar.gz"]).says("busybox:latest");
}

#[test]
fn inspect_shows_configuration_layers_and_size() {
    let host = Host::with_busybox();
    let found = host.docker(["image", "inspect", "busybox"]).json();
    let found = &found[0];
    assert_eq!(found["Id"], image::busybox().id());
    assert_eq!(found["RepoTags"][0], "busybox:latest");
    assert_eq!(found["Config"]["Cmd"][0], "sh");
    assert_eq!(found["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert_eq!(found["Created"], "2024-01-02T03:04:05Z");
    assert!(found["Size"].as_u64().unwrap() > 1_000_000);
    assert_eq!(found["Os"], "linux");
}

#[test]
fn save_and_load_round_trip() {
    let host = Host::with_busybox();
    host.docker(["tag", "busybox", "second:2"]).ok();
    host.docker(["save", "-o", "both.tar", "busybox", "second:2"]).ok();
    let id = host.inspect("busybox", "{{.Id}}");
    host.docker(["rmi", "busybox", "second:2"]).ok();
    assert_eq!(host.docker(["images", "-q"]).ok(), "");
    host.docker(["load", "-i", "both.tar"]).ok();
    assert_eq!(host.inspect("busybox", "{{.Id}}"), id);
    assert_eq!(host.inspect("second:2", "{{.Id}}"), id);
}

#[test]
fn tags_are_names_and_the_last_removal_deletes() {
    let host = Host::with_busybox();
    host.docker(["tag", "busybox", "registry.example.test:5000/team/box:v1"]).ok();
    let rows = host.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines();
    assert!(rows.contains(&"registry.example.test:5000/team/box:v1".to_owned()), "{rows:?}");
    let first = host.docker(["rmi", "registry.example.test:5000/team/box:v1"]).ok();
    assert!(first.contains("Untagged") && !first.contains("Deleted"), "{first}");
    let last = host.docker(["rmi", "busybox"]).ok();
    assert!(last.contains("Deleted: sha256:"), "{last}");
    host.docker(["run", "--pull", "never", "busybox"])
        .exits(125)
        .fails("No such image: busybox:latest");
}

#[test]
fn an_image_in_use_cannot_go() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    host.docker(["rmi", "busybox"]).fails("conflict: unable to remove repository reference");
    let id = host.inspect("busybox", "{{.Id}}");
    host.docker(["rm", "box"]).ok();
    host.docker(["rmi", &id]).ok();
}

#[test]
fn history_and_filters() {
    let host = Host::with_busybox();
    host.docker(["history", "busybox"]).says("wharf test fixture");
    assert_eq!(host.docker(["images", "-q", "--filter", "reference=busy*"]).lines().len(), 1);
    assert_eq!(host.docker(["images", "-q", "--filter", "reference=other"]).ok(), "");
    assert_eq!(host.docker(["images", "-q", "--filter", "dangling=true"]).ok(), "");
}

#[test]
fn bad_references_and_archives_are_named() {
    let host = Host::with_busybox();
    host.docker(["tag", "busybox", "UPPER:case"]).fails("invalid reference format");
    host.docker(["tag", "missing", "x"]).fails("No such image: missing:latest");
    host.docker(["rmi", "missing"]).fails("No such image: missing:latest");
    host.docker_with(b"this is no tar archive", ["load"]).exits(1);
    let whole = image::busybox().docker_archive();
    host.docker_with(&whole[..whole.len() / 2], ["load"]).exits(1);
    fs::write(host.dir().join("junk.tar"), vec![7; 4096]).unwrap();
    host.docker(["load", "-i", "junk.tar"]).exits(1);
    assert_eq!(host.docker(["images", "-q"]).lines().len(), 1);
}

#[test]
fn layers_with_hostile_entries_do_not_escape() {
    let host = Host::start();
    let outside = host.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    for (n, build) in HOSTILE.iter().enumerate() {
        let mut tar = image::Tar::default();
        build(&mut tar, outside.to_str().unwrap());
        let layer = tar.finish();
        let image =
            image::Image::new(&format!("evil:{n}"), layer, &serde_json::json!({ "Cmd": ["x"] }));
        // Refusing and taming are both right; a file outside is not.
        host.docker_with(&image.docker_archive(), ["load"]);
        host.docker(["create", &format!("evil:{n}")]);
        let escaped: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
        assert!(escaped.is_empty(), "case {n}: {escaped:?}");
    }
    assert!(!std::path::Path::new("/tmp/wharf-escape").exists());
}

/// Ways out that unpackers have fallen for.
const HOSTILE: &[fn(&mut image::Tar, &str)] = &[
    |tar, _| tar.file("../../../../../../../../../tmp/wharf-escape", 0o644, b"x"),
    |tar, _| tar.file("/../../../../../../../../tmp/wharf-escape", 0o644, b"x"),
    |tar, out| {
        tar.symlink("door", out);
        tar.file("door/through", 0o644, b"x");
    },
    |tar, out| {
        tar.symlink("a", out);
        tar.symlink("b", "a");
        tar.file("b/through", 0o644, b"x");
    },
    |tar, out| {
        tar.hardlink("stolen", &format!("{out}/../log"));
    },
    |tar, out| {
        tar.dir("d", 0o755);
        tar.symlink("d/../door", out);
        tar.file("door/.wh.x", 0o644, b"");
        tar.file("door/x", 0o644, b"x");
    },
];

#[test]
fn a_list_by_reference_shows_only_the_names_that_fit() {
    let host = Host::with_busybox();
    for name in ["a:1", "a:2", "b:1"] {
        host.docker(["tag", "busybox", name]).ok();
    }
    let list = host.api("GET", "/images/json?filters=%7B%22reference%22%3A%5B%22a%22%5D%7D", b"");
    let list = list.unwrap().json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["RepoTags"], serde_json::json!(["a:1", "a:2"]));
}

#[test]
fn images_of_one_second_have_an_order() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    for name in ["c:1", "c:2", "c:3"] {
        host.docker(["commit", "box", name]).ok();
    }
    let list = ["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter"];
    let between = list.iter().chain(&["since=c:1", "--filter", "before=c:3"]);
    assert_eq!(host.docker(between).lines(), ["c:2"]);
}

#[test]
fn a_repository_is_saved_with_all_its_tags() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    host.docker(["commit", "box", "kept:1"]).ok();
    host.docker(["commit", "-m", "other", "box", "kept:2"]).ok();
    host.docker(["save", "-o", "kept.tar", "kept"]).ok();
    host.docker(["rmi", "kept:1", "kept:2"]).ok();
    host.docker(["load", "-i", "kept.tar"]).says("kept:2");
    host.docker(["image", "inspect", "kept:1", "kept:2"]).ok();
}

#[test]
fn pruning_leaves_one_name_to_an_image_in_use() {
    let host = Host::with_busybox();
    host.docker(["tag", "busybox", "busybox:a"]).ok();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    host.docker(["image", "prune", "-af"]).says("untagged: busybox:a");
    host.docker(["image", "inspect", "busybox:latest"]).ok();
    host.docker(["image", "inspect", "busybox:a"]).fails("No such image");
}

#[test]
fn changes_of_a_commit_know_the_variables_of_the_image() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "-e", "PATH=/bin", "busybox"]).ok();
    host.docker(["commit", "-c", "ENV PATH=/opt:$PATH", "box", "wide"]).ok();
    assert!(host.inspect("wide", "{{.Config.Env}}").contains("PATH=/opt:/bin"));
}

#[test]
fn an_import_for_another_system_is_refused() {
    let host = Host::start();
    let import = |platform: &str| {
        let target = format!("/images/create?fromSrc=-&repo=x&platform={platform}");
        host.api("POST", &target, b"").unwrap()
    };
    for (platform, text) in [
        ("macos", "operating system is not supported"),
        ("nintendo64", "unknown operating system or architecture"),
        ("%2F", "is an invalid OS component"),
    ] {
        let answer = import(platform);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
    }
}
