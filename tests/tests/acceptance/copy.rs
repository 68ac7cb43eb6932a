//! Ladder step 4: cp both ways, diff, export.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use wharf_test::Host;

#[test]
fn files_travel_both_ways_with_their_mode() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let file = host.write("tool", b"#!/bin/sh\necho copied\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    host.docker(["cp", "tool", "box:/usr/bin/tool"]).ok();
    assert_eq!(host.docker(["exec", "box", "tool"]).ok(), "copied");
    host.docker(["exec", "box", "sh", "-c", "echo from-inside > /made; chmod 640 /made"]).ok();
    host.docker(["cp", "box:/made", "made"]).ok();
    let made = host.dir().join("made");
    assert_eq!(fs::read_to_string(&made).unwrap(), "from-inside\n");
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn directories_follow_the_rules_of_cp() {
    let host = Host::with_busybox();
    host.sleeper("box");
    host.write("tree/a", b"A");
    host.write("tree/sub/b", b"B");
    host.docker(["cp", "tree", "box:/new"]).ok();
    assert_eq!(host.docker(["exec", "box", "cat", "/new/a", "/new/sub/b"]).ok(), "AB");
    host.docker(["cp", "tree", "box:/new"]).ok();
    assert_eq!(host.docker(["exec", "box", "cat", "/new/tree/a"]).ok(), "A");
    host.docker(["cp", "tree/.", "box:/tmp"]).ok();
    assert_eq!(host.docker(["exec", "box", "cat", "/tmp/sub/b"]).ok(), "B");
    host.docker(["cp", "box:/new/.", "out"]).ok();
    assert_eq!(fs::read(host.dir().join("out/sub/b")).unwrap(), b"B");
}

#[test]
fn containers_that_never_ran_can_be_filled_and_read() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox", "cat", "/etc/conf"]).ok();
    host.write("conf", b"before the start");
    host.docker(["cp", "conf", "box:/etc/conf"]).ok();
    host.docker(["cp", "box:/etc/passwd", "passwd"]).ok();
    assert!(fs::read_to_string(host.dir().join("passwd")).unwrap().contains("alice"));
    assert_eq!(host.docker(["start", "-a", "box"]).ok(), "before the start");
}

/// From moby's `TestCopyFromContainer`.
#[test]
fn entries_of_a_copy_are_named_after_what_was_asked_for() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    host.write("tree/foo", b"hello");
    host.docker(["cp", "tree", "box:/bar"]).ok();
    let names = |path: &str| {
        let path = format!("/containers/box/archive?path={}", path.replace('/', "%2F"));
        let body = host.api("GET", &path, b"").unwrap().body;
        let mut tar = tar::Archive::new(&body[..]);
        let name = |e: std::io::Result<tar::Entry<'_, _>>| {
            String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap()
        };
        tar.entries().unwrap().map(name).collect::<Vec<_>>()
    };
    for (path, top, file) in [
        ("/", "/", "/bar/foo"),
        (".", "./", "./bar/foo"),
        ("/./", "./", "./bar/foo"),
        ("/bar", "bar/", "bar/foo"),
        ("bar/", "bar/", "bar/foo"),
        ("/bar/.", "./", "./foo"),
        ("bar/foo", "foo", "foo"),
    ] {
        let names = names(path);
        assert_eq!(names[0], top, "{path}");
        assert!(names.iter().any(|n| n == file), "{path}: {names:?}");
    }
    host.docker(["cp", "box:/", "all"]).ok();
    assert_eq!(fs::read(host.dir().join("all/bar/foo")).unwrap(), b"hello");
    // What a start makes is there, empty, before one.
    assert_eq!(fs::read(host.dir().join("all/etc/resolv.conf")).unwrap(), b"");
    assert_eq!(names("/etc/resolv.conf"), ["resolv.conf"]);
}

#[test]
fn tar_streams_through_standard_input_and_output() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let mut tar = wharf_test::image::Tar::default();
    tar.file("inside/x", 0o600, b"streamed");
    host.docker_with(&tar.finish(), ["cp", "-", "box:/srv"]).fails("must be a directory");
    let mut tar = wharf_test::image::Tar::default();
    tar.file("x", 0o600, b"streamed");
    host.docker_with(&tar.finish(), ["cp", "-", "box:/tmp"]).ok();
    assert_eq!(host.docker(["exec", "box", "cat", "/tmp/x"]).ok(), "streamed");
    assert!(host.docker(["cp", "box:/tmp/x", "-"]).stdout.contains("streamed"));
}

#[test]
fn missing_paths_and_wrong_kinds_are_named() {
    let host = Host::with_busybox();
    host.sleeper("box");
    host.write("f", b"");
    host.docker(["cp", "box:/nothing", "."])
        .fails("Could not find the file /nothing in container box");
    host.docker(["cp", "f", "box:/nowhere/at/all"]).exits(1);
    host.docker(["cp", "f", "box:/etc/passwd/x"]).exits(1);
    host.docker(["cp", "f", "gone:/x"]).fails("No such container: gone");
}

#[test]
fn links_in_the_container_do_not_lead_out() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let secret = host.write("secret", b"host file");
    let secret = secret.to_str().unwrap();
    host.docker(["exec", "box", "ln", "-s", secret, "/leak"]).ok();
    host.docker(["exec", "box", "ln", "-s", "../../../../../../../../../../", "/up"]).ok();
    host.docker(["cp", "-L", "box:/leak", "got"]).exits(1);
    host.docker(["cp", "-L", &format!("box:/up{secret}"), "got"]).exits(1);
    assert!(!host.dir().join("got").exists());
    host.write("f", b"overwritten");
    let through = host.docker(["cp", "f", "box:/leak"]);
    assert_eq!(fs::read(secret).unwrap(), b"host file", "{through}");
}

#[test]
fn archives_with_hostile_names_stay_inside() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let outside = host.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let out = outside.to_str().unwrap();
    let mut tar = wharf_test::image::Tar::default();
    tar.file("../../../../../../../../../../../tmp/wharf-escape", 0o644, b"x");
    tar.symlink("link", out);
    tar.file("link/through-link", 0o644, b"x");
    // Whether the archive is refused or tamed is the engine's choice; escaping is not.
    host.docker_with(&tar.finish(), ["cp", "-", "box:/tmp"]);
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
    assert!(!std::path::Path::new("/tmp/wharf-escape").exists());
}

#[test]
fn volumes_are_seen_by_cp() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "box", "-v", "data:/data", "busybox", "sleep", "1000"])
        .ok();
    host.write("f", b"to the volume");
    host.docker(["cp", "f", "box:/data/f"]).ok();
    let out = host.docker(["run", "--rm", "-v", "data:/d", "busybox", "cat", "/d/f"]);
    assert_eq!(out.ok(), "to the volume");
}

#[test]
fn links_are_copied_as_links() {
    let host = Host::with_busybox();
    host.sleeper("box");
    symlink("target/elsewhere", host.dir().join("l")).unwrap();
    host.docker(["cp", "l", "box:/l"]).ok();
    assert_eq!(host.docker(["exec", "box", "readlink", "/l"]).ok(), "target/elsewhere");
}

#[test]
fn diff_lists_added_changed_and_deleted() {
    let host = Host::with_busybox();
    let script = "echo x > /tmp/new; echo more >> /etc/group; rm /etc/passwd";
    host.docker(["run", "--name", "box", "busybox", "sh", "-c", script]).ok();
    let lines = host.docker(["diff", "box"]).lines();
    for line in ["A /tmp/new", "C /etc/group", "D /etc/passwd", "C /etc", "C /tmp"] {
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    }
    host.docker(["create", "--name", "fresh", "busybox"]).ok();
    assert_eq!(host.docker(["diff", "fresh"]).ok(), "");
}

#[test]
fn mount_points_are_part_of_no_image() {
    let host = Host::with_busybox();
    let args = ["run", "--name", "box", "-v", "data:/deep/er/data", "--tmpfs", "/scratch"];
    let file = host.write("file", b"bound");
    let bind = format!("{}:/bound/file", file.display());
    let script = "echo x > /scratch/x; echo x > /deep/er/data/x; echo kept > /kept";
    host.docker(args.iter().chain(&["-v", &bind, "busybox", "sh", "-c", script])).ok();
    assert_eq!(host.docker(["diff", "box"]).lines(), ["A /kept"]);
    host.docker(["commit", "box", "made"]).ok();
    let ls = host.docker(["run", "--rm", "--network", "none", "made", "ls", "/"]).lines();
    assert!(ls.contains(&"kept".to_owned()), "{ls:?}");
    host.docker(["create", "--name", "plain", "made"]).ok();
    let tar = host.docker(["export", "plain"]).stdout;
    for name in ["deep/", "scratch/", "bound/"] {
        assert!(!tar.contains(name), "{name} is in the image");
    }
}

#[test]
fn export_and_import_keep_the_tree() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo kept > /note; ln /note /hard",
    ])
    .ok();
    host.docker(["export", "-o", "tree.tar", "box"]).ok();
    host.docker(["import", "-c", "CMD [\"cat\", \"/note\"]", "tree.tar", "flat:1"]).says("sha256:");
    assert_eq!(host.docker(["run", "--rm", "flat:1"]).ok(), "kept");
    let links = host.docker(["run", "--rm", "flat:1", "stat", "-c", "%h", "/hard"]).ok();
    assert_eq!(links, "2");
    assert_eq!(
        host.docker(["image", "inspect", "-f", "{{len .RootFS.Layers}}", "flat:1"]).ok(),
        "1"
    );
}

#[test]
fn a_missing_file_is_told_with_the_name_that_the_container_was_called_by() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    let id = host.inspect("box", "{{.Id}}");
    for name in ["box", &id] {
        let text = format!("Could not find the file /none in container {name}");
        host.docker(["cp", &format!("{name}:/none"), "-"]).fails(&text);
    }
}
