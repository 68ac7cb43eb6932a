//! Ladder step 2: pulling from a registry that behaves, and from some that do not.

use wharf_test::registry::{Fault, Registry};
use wharf_test::web::{Answer, Web};
use wharf_test::{Host, image};

/// A host and a registry on its loopback, where plain HTTP is allowed.
fn with_registry(fault: Option<Fault>) -> (Host, Registry) {
    let host = Host::start();
    let registry = Registry::serve(host.init(), &[image::busybox()], fault);
    (host, registry)
}

#[test]
fn pull_fetches_verifies_and_runs() {
    let (host, registry) = with_registry(None);
    let name = format!("{}/busybox:latest", registry.address);
    let out = host.docker(["pull", &name]).ok();
    let digest = image::digest(&image::busybox().manifest());
    assert!(out.contains(&format!("Digest: {digest}")), "{out}");
    assert!(out.contains(&format!("Status: Downloaded newer image for {name}")), "{out}");
    host.docker(["run", "--rm", &name, "echo", "pulled"]).says("pulled");
    host.docker(["pull", &name]).says(&format!("Status: Image is up to date for {name}"));
    let digests = host.docker(["image", "inspect", "-f", "{{json .RepoDigests}}", &name]).ok();
    assert!(digests.contains(&digest), "{digests}");
}

#[test]
fn run_pulls_what_is_missing_and_digests_pin() {
    let (host, registry) = with_registry(None);
    let digest = image::digest(&image::busybox().manifest());
    let name = format!("{}/busybox@{digest}", registry.address);
    let out = host.docker(["run", "--rm", &name, "echo", "by-digest"]);
    out.says("by-digest");
    assert!(out.stderr.contains("Unable to find image"), "{out}");
}

#[test]
fn unknown_names_say_so() {
    let (host, registry) = with_registry(None);
    host.docker(["pull", &format!("{}/busybox:none", registry.address)]).fails("unknown");
    host.docker(["pull", &format!("{}/nobody:latest", registry.address)]).fails("unknown");
}

#[test]
fn a_cut_connection_is_taken_up_again() {
    let (host, registry) = with_registry(Some(Fault::Cut));
    let name = format!("{}/busybox:latest", registry.address);
    host.docker(["pull", &name]).ok();
    host.docker(["run", "--rm", &name, "true"]).ok();
    let ranged = registry.requests().iter().any(|r| r.contains("bytes="));
    assert!(ranged, "no Range request: {:?}", registry.requests());
}

#[test]
fn corrupt_blobs_are_refused_and_leave_nothing() {
    let (host, registry) = with_registry(Some(Fault::Corrupt));
    host.docker(["pull", &format!("{}/busybox:latest", registry.address)]).exits(1);
    assert_eq!(host.docker(["images", "-aq"]).ok(), "");
}

#[test]
fn a_busy_registry_is_asked_again() {
    let (host, registry) = with_registry(Some(Fault::Busy));
    host.docker(["pull", &format!("{}/busybox:latest", registry.address)]).ok();
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let host = Host::start();
    host.docker(["pull", "127.0.0.1:1/busybox"]).fails("127.0.0.1:1");
}

#[test]
fn a_search_asks_the_index_that_the_term_names() {
    let host = Host::start();
    let index = Web::serve(host.init(), |asked| match asked.target.as_str() {
        "/v1/_ping" => Answer::of("true"),
        target if target.starts_with("/v1/search?") => Answer::of(
            r#"{"query": "web", "num_results": 2, "results": [
                {"name": "web", "description": "A server", "star_count": 70, "is_official": true, "is_automated": true},
                {"name": "ann/web", "description": "Another", "star_count": 3, "is_official": false}]}"#,
        ),
        _ => Answer::status(404),
    });
    let term = format!("{}/web server", index.address);
    let format = "{{.Name}} {{.StarCount}} {{.IsOfficial}}";
    let all = host.docker(["search", "--limit", "7", "--format", format, &term]).ok();
    assert_eq!(all, "web 70 [OK]\nann/web 3");
    let asked = index.requests();
    let search = asked.iter().find(|r| r.contains("/search?")).unwrap();
    assert!(search.contains("n=7") && search.contains("q=web"), "{search}");
    let some =
        |filter: &str| host.docker(["search", "--format", "{{.Name}}", "-f", filter, &term]).ok();
    assert_eq!(some("stars=10"), "web");
    assert_eq!(some("is-official=false"), "ann/web");
    host.docker(["search", "--limit", "101", &term])
        .fails("limit 101 is outside the range of [1, 100]");
    host.docker(["search", "-f", "stars=many", &term]).fails("invalid filter 'stars=many'");
    host.docker(["search", "-f", "pulls=1", &term]).fails("invalid filter 'pulls'");
    host.docker(["search", "https://example.com/web"]).fails("should not have a scheme");
    let nobody = host.api("GET", "/images/search?term=x&limit=-1", b"").unwrap();
    assert_eq!(nobody.status, 400, "{}", nobody.text());
}
