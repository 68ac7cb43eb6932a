//! Two hosts and the wire between them.

use crate::{PORT, serve};
use serde_json::json;
use wharf_test::image::{Image, Tar};
use wharf_test::relay::Relay;
use wharf_test::{Host, image};

#[test]
fn an_image_goes_from_one_host_to_another() {
    let (builder, runner) = (Host::with_busybox(), Host::start());
    let _registry = serve(&builder, &[]);
    let _wire = Relay::start(runner.init(), builder.init(), PORT, &[]);
    let name = "127.0.0.1:5000/app:1";
    builder.docker(["run", "--name", "made", "busybox", "sh", "-c", "echo shipped >/cargo"]).ok();
    builder.docker(["commit", "-c", "CMD [\"cat\",\"/cargo\"]", "made", name]).ok();
    builder.docker(["push", name]).says("Pushed");
    runner.docker(["run", "--rm", name]).says("shipped");
    let digest =
        |host: &Host| host.docker(["image", "inspect", "-f", "{{json .RepoDigests}}", name]).ok();
    assert_eq!(digest(&builder), digest(&runner));
}

/// Bytes that no compression makes less, the same every time.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).unwrap()
    };
    std::iter::repeat_with(next).take(size).collect()
}

#[test]
fn an_interrupted_pull_transfers_each_byte_once() {
    const SIZE: usize = 8 << 20;
    let (server, client) = (Host::start(), Host::start());
    let _registry = serve(&server, &[]);
    let mut tar = Tar::default();
    tar.file("noise", 0o644, &noise(SIZE));
    let name = "127.0.0.1:5000/noise:1";
    server.load(&Image::new(name, tar.finish(), &json!({"Cmd": ["/noise"]})));
    server.docker(["push", name]).says("Pushed");
    let size = SIZE as u64;
    let cuts = [size / 4, size / 2, size * 3 / 4];
    let wire = Relay::start(client.init(), server.init(), PORT, &cuts);
    let out = client.docker(["pull", name]).ok();
    assert!(out.contains("Downloaded newer image"), "{out}");
    assert_eq!(wire.cuts_left(), 0, "it was interrupted three times");
    // Manifest, config, heads of answers: far below what one repeated piece would add.
    let more = wire.down() - size;
    assert!(more < 64 << 10, "{more} bytes went more than once");
}

/// Bytes of memory that a process had at most since [`forget`].
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() << 10
}

/// Begins to watch a process's memory anew (proc(5), `clear_refs`); gives what it has now.
fn forget(pid: u32) -> usize {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    peak(pid)
}

#[test]
fn memory_does_not_grow_with_the_image() {
    const SIZE: usize = 96 << 20;
    let host = Host::start();
    let registry = serve(&host, &[]);
    let name = |n: usize| format!("127.0.0.1:5000/noise:{n}");
    let image = |n: usize| {
        let mut tar = Tar::default();
        tar.file("noise", 0o644, &noise(n));
        Image::new(&name(n), tar.finish(), &json!({"Cmd": ["/noise"]}))
    };
    let there_and_back = |n: usize| {
        host.load(&image(n));
        host.docker(["push", "-q", &name(n)]).ok();
        host.docker(["rmi", "-f", &name(n)]).ok();
        host.docker(["pull", "-q", &name(n)]).ok();
    };
    // Threads and code that are there from now on.
    there_and_back(1 << 20);
    let processes = [("engine", host.daemon()), ("registry", registry.pid())];
    let before = processes.map(|(_, pid)| forget(pid));
    there_and_back(SIZE);
    for ((who, pid), before) in processes.iter().zip(before) {
        let more = peak(*pid).saturating_sub(before);
        assert!(more < SIZE / 3, "the {who} took {more} bytes more for an image of {SIZE}");
    }
}

#[test]
fn a_push_goes_on_when_the_registry_comes_back() {
    let (server, client) = (Host::start(), Host::start());
    let _registry = serve(&server, &[]);
    client.load(image::busybox());
    // Answers of a push are short: this breaks it while it asks and while it sends.
    let wire = Relay::start(client.init(), server.init(), PORT, &[300, 900, 1500]);
    let name = "127.0.0.1:5000/busybox:1";
    client.docker(["tag", "busybox", name]).ok();
    client.docker(["push", name]).says("1: digest: sha256:");
    assert_eq!(wire.cuts_left(), 0, "it was interrupted three times");
    server.docker(["run", "--rm", name, "echo", "whole"]).says("whole");
}
