//! Volumes, binds and tmpfs.

use std::fs;
use wharf_test::{Host, Output, image::on_busybox};

#[test]
fn named_volumes_outlive_containers() {
    let host = Host::with_busybox();
    host.docker(["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/f"]).ok();
    assert_eq!(
        host.docker(["run", "--rm", "-v", "data:/e", "busybox", "cat", "/e/f"]).ok(),
        "kept"
    );
    let volume = host.docker(["volume", "inspect", "data"]).json();
    assert_eq!((&volume[0]["Driver"], &volume[0]["Scope"]), (&"local".into(), &"local".into()));
    let point = volume[0]["Mountpoint"].as_str().unwrap();
    assert_eq!(fs::read_to_string(format!("{point}/f")).unwrap(), "kept\n");
    host.docker(["volume", "rm", "data"]).ok();
    host.docker(["volume", "inspect", "data"]).fails("no such volume");
}

#[test]
fn volumes_in_use_stay() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "-v", "data:/d", "busybox"]).ok();
    host.docker(["volume", "rm", "data"]).fails("volume is in use");
    assert_eq!(host.api("DELETE", "/volumes/data", b"").unwrap().status, 409);
    host.docker(["rm", "box"]).ok();
    host.docker(["volume", "rm", "data"]).ok();
}

#[test]
fn a_new_volume_gets_the_files_of_the_image_once() {
    let host = Host::with_busybox();
    let out = host.docker(["run", "--rm", "-v", "conf:/etc", "busybox", "cat", "/etc/passwd"]);
    out.says("alice");
    host.docker(["run", "--rm", "-v", "conf:/x", "busybox", "rm", "/x/passwd"]).ok();
    host.docker(["run", "--rm", "-v", "conf:/etc", "busybox", "test", "-e", "/etc/passwd"])
        .exits(1);
    host.docker(["run", "--rm", "-v", "bare:/etc:nocopy", "busybox", "test", "-e", "/etc/passwd"])
        .exits(1);
}

#[test]
fn anonymous_volumes_go_with_rm_v() {
    let host = Host::start();
    host.load(&on_busybox("vol:1", &serde_json::json!({ "Volumes": { "/data": {} } })));
    host.docker(["run", "--rm", "vol:1", "touch", "/data/x"]).ok();
    assert_eq!(host.docker(["volume", "ls", "-q"]).ok(), "");
    host.docker(["run", "--name", "box", "vol:1", "touch", "/data/x"]).ok();
    let name = host.docker(["volume", "ls", "-q"]).ok();
    assert_eq!(name.len(), 64);
    host.docker(["rm", "box"]).ok();
    assert_eq!(host.docker(["volume", "ls", "-q", "--filter", "dangling=true"]).ok(), name);
    host.docker(["volume", "prune", "-f"]).says(&name);
}

#[test]
fn volumes_from_shares_all_mounts() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "src", "-v", "data:/d", "-v", "/anon", "busybox"]).ok();
    host.docker([
        "run",
        "--rm",
        "--volumes-from",
        "src",
        "busybox",
        "sh",
        "-c",
        "echo 1 > /d/x; echo 2 > /anon/y",
    ])
    .ok();
    let cat = ["cat", "/d/x", "/anon/y"];
    let args = ["run", "--rm", "--volumes-from", "src:ro", "busybox"];
    assert_eq!(host.docker(args.into_iter().chain(cat)).ok(), "1\n2");
    host.docker(args.into_iter().chain(["touch", "/d/z"])).exits(1).fails("Read-only file system");
}

#[test]
fn binds_show_the_host_and_obey_read_only() {
    let host = Host::with_busybox();
    host.write("share/f", b"from the host");
    let share = host.dir().join("share");
    let rw = format!("{}:/s", share.display());
    let ro = format!("{rw}:ro");
    assert_eq!(
        host.docker(["run", "--rm", "-v", &rw, "busybox", "cat", "/s/f"]).ok(),
        "from the host"
    );
    host.docker(["run", "--rm", "-v", &rw, "busybox", "sh", "-c", "echo back > /s/g"]).ok();
    assert_eq!(fs::read(share.join("g")).unwrap(), b"back\n");
    host.docker(["run", "--rm", "-v", &ro, "busybox", "touch", "/s/h"])
        .fails("Read-only file system");
    let file = format!("{}:/etc/hostfile:ro", share.join("f").display());
    assert_eq!(
        host.docker(["run", "--rm", "-v", &file, "busybox", "cat", "/etc/hostfile"]).ok(),
        "from the host"
    );
}

/// Until version 1.44 of the API a read-only bind left alone what is mounted below it.
#[test]
fn read_only_binds_cover_what_the_client_expects() {
    let host = Host::with_busybox();
    let below = host.dir().join("share/below");
    fs::create_dir_all(&below).unwrap();
    assert!(
        host.enter("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&below).status().unwrap().success()
    );
    let bind = format!("{}:/s:ro", host.dir().join("share").display());
    let touch = |version: &str, path: &str| {
        let mut docker = host.docker_command();
        docker.env("DOCKER_API_VERSION", version);
        docker.args(["run", "--rm", "-v", &bind, "busybox", "touch", path]);
        Output::run(&mut docker, b"")
    };
    touch("1.44", "/s/below/x").fails("Read-only file system");
    touch("1.43", "/s/below/x").ok();
    touch("1.43", "/s/x").fails("Read-only file system");
    assert!(host.enter("umount").arg(&below).status().unwrap().success());
}

#[test]
fn a_missing_bind_source_is_made_by_v_and_refused_by_mount() {
    let host = Host::with_busybox();
    let path = host.dir().join("made/by/engine");
    host.docker(["run", "--rm", "-v", &format!("{}:/d", path.display()), "busybox", "true"]).ok();
    assert!(path.is_dir());
    let mount = format!("type=bind,source={}/missing,target=/d", host.dir().display());
    host.docker(["run", "--rm", "--mount", &mount, "busybox", "true"])
        .exits(125)
        .fails("bind source path does not exist");
}

#[test]
fn tmpfs_is_empty_writable_and_bounded() {
    let host = Host::with_busybox();
    let show = "mount | grep ' /t '; echo hi > /t/f; cat /t/f";
    let out =
        host.docker(["run", "--rm", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", show]).ok();
    assert!(out.contains("size=1024k") && out.contains("noexec") && out.ends_with("hi"), "{out}");
    let fill = "dd if=/dev/zero of=/t/big bs=1k count=2048";
    host.docker([
        "run",
        "--rm",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=1048576",
        "busybox",
        "sh",
        "-c",
        fill,
    ])
    .fails("No space left on device");
}

#[test]
fn subpath_mounts_part_of_a_volume_and_cannot_escape() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "--rm",
        "-v",
        "data:/d",
        "busybox",
        "sh",
        "-c",
        "mkdir /d/sub; echo in > /d/sub/f; ln -s / /d/up",
    ])
    .ok();
    let mount = |sub: &str| format!("type=volume,source=data,target=/m,volume-subpath={sub}");
    assert_eq!(
        host.docker(["run", "--rm", "--mount", &mount("sub"), "busybox", "cat", "/m/f"]).ok(),
        "in"
    );
    for bad in ["../..", "missing", "up/etc"] {
        let out = host.docker(["run", "--rm", "--mount", &mount(bad), "busybox", "true"]);
        assert!([125, 127].contains(&out.code), "{out}");
    }
}

#[test]
fn read_only_root_leaves_volumes_writable() {
    let host = Host::with_busybox();
    host.docker(["run", "--rm", "--read-only", "busybox", "touch", "/x"])
        .fails("Read-only file system");
    host.docker([
        "run",
        "--rm",
        "--read-only",
        "-v",
        "data:/d",
        "--tmpfs",
        "/t",
        "busybox",
        "touch",
        "/d/x",
        "/t/x",
    ])
    .ok();
}

#[test]
fn volume_create_takes_labels_and_filters() {
    let host = Host::with_busybox();
    host.docker(["volume", "create", "--label", "tier=db", "one"]).ok();
    host.docker(["volume", "create", "two"]).ok();
    assert_eq!(host.docker(["volume", "ls", "-q", "--filter", "label=tier=db"]).ok(), "one");
    assert_eq!(host.docker(["volume", "ls", "-q", "--filter", "name=tw"]).ok(), "two");
    host.docker(["volume", "create", "bad/name"]).fails("includes invalid characters");
}

#[test]
fn local_driver_options_mount_a_tmpfs() {
    let host = Host::with_busybox();
    host.docker([
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=2m",
        "mem",
    ])
    .ok();
    let out =
        host.docker(["run", "--rm", "-v", "mem:/m", "busybox", "sh", "-c", "mount | grep ' /m '"]);
    out.says("size=2048k");
}

#[test]
fn a_volume_driver_matters_only_for_volumes_that_it_would_make() {
    let host = Host::with_busybox();
    let run = |more: &[&str]| {
        // The docker command line takes a 404 for an image that it has to pull.
        let args = ["run", "--rm", "--pull", "never", "--volume-driver", "nfs"]
            .iter()
            .chain(more)
            .copied();
        host.docker(args.chain(["busybox", "true"]))
    };
    run(&[]).ok();
    run(&["-v", "/tmp:/host"]).ok();
    run(&["--mount", "type=volume,src=own,dst=/v"]).ok();
    run(&["-v", "named:/v"]).exits(125).fails("plugin \"nfs\" not found");
    run(&["-v", "/anonymous"]).exits(125).fails("plugin \"nfs\" not found");
}

#[test]
fn a_subpath_may_go_through_links_that_stay_inside() {
    let host = Host::with_busybox();
    let fill = "mkdir /v/dir /v/empty; echo in > /v/dir/f; echo file > /v/g; ln -s dir /v/good; ln -s / /v/bad";
    host.docker(["run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", fill]).ok();
    let run = |sub: &str, at: &str, cmd: [&str; 2]| {
        let mount = format!("type=volume,src=data,dst={at},volume-subpath={sub}");
        host.docker(["run", "--rm", "--mount", &mount, "busybox"].iter().chain(&cmd))
    };
    run("good", "/m", ["cat", "/m/f"]).says("in");
    run("g", "/m", ["cat", "/m"]).says("file");
    run("bad", "/m", ["ls", "/m"]).fails("path concatenation escapes the base directory");
    run("none", "/m", ["ls", "/m"]).fails("cannot access path");
    // An empty directory gets what the image has at its place.
    run("empty", "/etc", ["cat", "/etc/passwd"]).says("alice");
}

#[test]
fn a_mounted_image_may_be_a_part_and_stays() {
    let host = Host::with_busybox();
    host.write("img/Dockerfile", b"FROM scratch\nCOPY tree /tree\n");
    host.write("img/tree/f", b"in the image");
    host.docker(["build", "-q", "-t", "img", "img"]).ok();
    let mount = "type=image,src=img,dst=/m,image-subpath=tree/f";
    host.docker(["run", "--name", "box", "--mount", mount, "busybox", "cat", "/m"])
        .says("in the image");
    host.docker(["rmi", "img"]).fails("is using its referenced image");
    host.docker(["rm", "box"]).ok();
    host.docker(["rmi", "img"]).ok();
}
