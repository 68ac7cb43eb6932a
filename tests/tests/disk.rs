//! A disk that is full or read-only: a clear error, nothing half done, and a clean retry.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]
use serde_json::json;
use std::path::Path;
use wharf_test::host::Engine;
use wharf_test::image::{self, Image, Tar};
use wharf_test::registry::Registry;
use wharf_test::{Host, program, tools};

/// A host whose engine keeps its state on a file system of `size` megabytes.
fn small_disk(size: u32) -> Host {
    let mut host = Host::bare(Engine::Wharf);
    let data = host.dir().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mount = format!("mount -t tmpfs -o size={size}m,mode=0700 tmpfs {}", data.display());
    in_host(&host, &mount);
    host.start_daemon();
    host
}

fn in_host(host: &Host, command: &str) {
    let done = program::run(host.enter("sh").args(["-c", command]), b"");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

fn remount(host: &Host, options: &str) {
    in_host(host, &format!("mount -o remount,{options} {}", host.dir().join("data").display()));
}

/// Two files that do not compress, so that the image needs what it seems to need.
fn big(name: &str) -> Image {
    let mut tar = Tar::default();
    tar.dir("data/", 0o755);
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    for file in ["data/a", "data/b"] {
        let bytes: Vec<u8> = (0..3 << 20)
            .flat_map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()
            })
            .collect();
        tar.file(file, 0o644, &bytes);
    }
    Image::new(name, tar.finish(), &json!({"Cmd": ["/data/a"]}))
}

fn nothing_is_left(host: &Host) {
    assert_eq!(host.docker(["images", "-aq"]).ok(), "", "half an image is listed");
    let blobs = files_below(&host.dir().join("data"), host);
    assert!(blobs < 8 << 20, "{blobs} bytes of a failed image are still on the disk");
}

/// Bytes in use on the engine's file system, as its own mount namespace sees it.
fn files_below(data: &Path, host: &Host) -> u64 {
    let done = program::run(host.enter("du").arg("-sk").arg(data), b"");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn load_on_a_full_disk_fails_cleanly_and_succeeds_with_space() {
    let host = small_disk(40);
    let path = host.write("big.tar", &big("big:latest").docker_archive());
    host.docker(["load", "-i", path.to_str().unwrap()]).fails("no space left on device");
    nothing_is_left(&host);
    remount(&host, "size=300m");
    host.docker(["load", "-i", path.to_str().unwrap()]).says("Loaded image: big:latest");
}

#[test]
fn pull_on_a_full_disk_fails_cleanly_and_succeeds_with_space() {
    let host = small_disk(40);
    let image = big("big:latest");
    let registry = Registry::serve(host.init(), &[&image], None);
    let name = format!("{}/big:latest", registry.address);
    host.docker(["pull", &name]).fails("no space left on device");
    assert_eq!(host.docker(["images", "-aq"]).ok(), "", "half an image is listed");
    remount(&host, "size=300m");
    host.docker(["pull", &name]).says("Downloaded newer image");
    host.docker(["images", "-q"]).says(&image.id().replace("sha256:", "")[..12]);
}

#[test]
fn create_on_a_full_disk_fails_cleanly_and_succeeds_with_space() {
    let host = small_disk(40);
    host.load(image::busybox());
    let fill = host.dir().join("data/fill");
    in_host(&host, &format!("dd if=/dev/zero of={} bs=64k 2>/dev/null || true", fill.display()));
    host.docker(["create", "--name", "box", "busybox", "true"]).fails("no space left on device");
    assert_eq!(host.docker(["ps", "-aq"]).ok(), "", "half a container is listed");
    in_host(&host, &format!("rm {}", fill.display()));
    host.docker(["run", "--name", "box", "busybox", "echo", "works"]).says("works");
}

#[test]
fn a_full_disk_stops_the_log_and_not_the_container() {
    let host = small_disk(40);
    host.load(image::busybox());
    let talk = "i=0; while [ $i -lt 20 ]; do head -c 2000000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; exit 7";
    host.docker([
        "run",
        "--name",
        "box",
        "-d",
        "--log-opt",
        "max-size=100m",
        "busybox",
        "sh",
        "-c",
        talk,
    ])
    .ok();
    assert_eq!(host.docker(["wait", "box"]).ok(), "7", "the container outlives its log");
    host.docker(["rm", "box"]).ok();
}

#[test]
fn a_read_only_data_root_is_refused_by_name() {
    let host = Host::bare(Engine::Wharf);
    let data = host.dir().join("data");
    std::fs::create_dir_all(&data).unwrap();
    in_host(&host, &format!("mount -t tmpfs -o ro tmpfs {}", data.display()));
    let mut daemon = host.enter(tools::wharf());
    daemon.arg("daemon").arg("--data-root").arg(&data);
    daemon.arg("--exec-root").arg(host.dir().join("exec"));
    daemon.arg("-H").arg(format!("unix://{}", host.socket().display()));
    let done = program::run(&mut daemon, b"");
    let error = String::from_utf8_lossy(&done.stderr).to_lowercase();
    assert!(!done.status.success());
    assert!(error.contains("read-only file system"), "{error}");
    assert!(error.contains(data.to_str().unwrap()), "the error names the directory: {error}");
}
