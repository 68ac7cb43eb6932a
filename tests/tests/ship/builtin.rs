//! The registry in the engine, over the engine's own images.

use crate::skopeo;
use std::fs;
use wharf_test::{Host, eventually, image};

/// Names of all blobs, and how many bytes they have.
fn blobs(host: &Host) -> (usize, u64) {
    let files = fs::read_dir(host.dir().join("data/blobs/sha256")).unwrap();
    let sizes: Vec<u64> = files.map(|f| f.unwrap().metadata().unwrap().len()).collect();
    (sizes.len(), sizes.iter().sum())
}

#[test]
fn a_push_to_it_moves_no_bytes() {
    let host = Host::with_flags(&["--registry-addr", "127.0.0.1:5000"]);
    host.load(image::busybox());
    let before = blobs(&host);
    let name = "127.0.0.1:5000/shared:1";
    host.docker(["tag", "busybox", name]).ok();
    host.docker(["push", name]).says("Mounted from");
    assert_eq!(blobs(&host), before, "not even the manifest is new");
    skopeo(&host, &["inspect", "--tls-verify=false", "docker://127.0.0.1:5000/shared:1"]).ok();
    // The registry keeps what it has when the image goes, and the image can come back.
    host.docker(["rmi", "-f", "busybox", name]).ok();
    assert_eq!(blobs(&host), before);
    host.docker(["run", "--rm", name, "echo", "still here"]).says("still here");
}

#[test]
fn it_survives_the_engine() {
    let mut host = Host::with_flags(&["--registry-addr", "127.0.0.1:5000"]);
    host.load(image::busybox());
    let name = "127.0.0.1:5000/kept:1";
    host.docker(["tag", "busybox", name]).ok();
    host.docker(["push", name]).ok();
    host.docker(["rmi", "-f", "busybox", name]).ok();
    host.crash_daemon();
    eventually("the registry answers", || host.get("127.0.0.1:5000", "/v2/").ok().map(|_| ()));
    host.docker(["pull", name]).says("Downloaded newer image");
}
