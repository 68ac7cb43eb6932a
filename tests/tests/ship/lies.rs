//! Registries that lie, stall or refuse for a while, under docker's and wharf's own `pull`.

use std::time::{Duration, Instant};

use wharf_test::registry::{Fault, Registry};
use wharf_test::{Host, Output, image, tools};

/// Both clients, each with an engine that has nothing yet and a registry with that fault.
fn each(fault: Fault, check: impl Fn(&Host, &Registry, &dyn Fn(&[&str]) -> Output, &str)) {
    for own in [false, true] {
        let host = Host::start();
        let registry = Registry::serve(host.init(), &[image::busybox()], Some(fault));
        let name = format!("{}/busybox:latest", registry.address);
        let client = |args: &[&str]| match own {
            true => Output::of(host.client(tools::wharf()).args(args), b""),
            false => host.docker(args.iter().copied()),
        };
        check(&host, &registry, &client, &name);
    }
}

/// It is pulled all the same, and is what it should be.
fn pulled(host: &Host, name: &str) {
    host.docker(["run", "--rm", name, "echo", "whole"]).says("whole");
}

/// Nothing is left of what was refused.
fn nothing(host: &Host) {
    assert_eq!(host.docker(["images", "-aq"]).ok(), "");
    let left = |dir: &str| {
        let entries = std::fs::read_dir(host.dir().join("data").join(dir));
        let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
        // One stands for no layer at all.
        paths.filter(|p| !p.ends_with("empty")).collect::<Vec<_>>()
    };
    assert!(left("layers").is_empty(), "{:?}", left("layers"));
}

#[test]
fn too_many_requests_are_fewer_after_the_time_that_was_said() {
    each(Fault::TooMany, |host, _, client, name| {
        let begin = Instant::now();
        client(&["pull", name]).ok();
        assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
        pulled(host, name);
    });
}

#[test]
fn an_answer_that_ends_within_a_chunk_is_taken_up_again() {
    each(Fault::CutChunk, |host, registry, client, name| {
        client(&["pull", name]).ok();
        let asked = registry.requests();
        assert!(asked.iter().any(|r| r.contains("bytes=")), "{asked:?}");
        pulled(host, name);
    });
}

#[test]
fn a_registry_that_stalls_is_asked_for_the_rest() {
    each(Fault::Stall, |host, registry, client, name| {
        client(&["pull", name]).ok();
        let asked = registry.requests();
        assert!(asked.iter().any(|r| r.contains("bytes=")), "{asked:?}");
        pulled(host, name);
    });
}

#[test]
fn blobs_of_another_size_are_refused() {
    for fault in [Fault::Longer, Fault::Shorter, Fault::Corrupt] {
        each(fault, |host, _, client, name| {
            client(&["pull", name]).exits(1);
            nothing(host);
        });
    }
}

#[test]
fn blobs_may_be_at_another_address() {
    let host = Host::start();
    let store = Registry::serve(host.init(), &[image::busybox()], None);
    let fault = Fault::Elsewhere(store.address);
    let registry = Registry::serve(host.init(), &[image::busybox()], Some(fault));
    let name = format!("{}/busybox:latest", registry.address);
    host.docker(["pull", &name]).ok();
    pulled(&host, &name);
    let asked = store.requests();
    assert!(!asked.is_empty() && asked.iter().all(|r| r.contains("/blobs/")), "{asked:?}");
    host.docker(["rmi", "-f", &name]).ok();
    // Where they are said to be they are not what they should be.
    let liar = Registry::serve(host.init(), &[image::busybox()], Some(Fault::Corrupt));
    let fault = Fault::Elsewhere(liar.address);
    let registry = Registry::serve(host.init(), &[image::busybox()], Some(fault));
    host.docker(["pull", &format!("{}/busybox:latest", registry.address)]).exits(1);
    nothing(&host);
}
