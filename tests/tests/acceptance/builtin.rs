//! Images that wharf makes of itself; no network, nothing to load.

use wharf_test::host::Engine;
use wharf_test::{Host, eventually};

fn wharf() -> Option<Host> {
    (Engine::chosen() == Engine::Wharf).then(Host::start)
}

#[test]
fn hello_world_greets() {
    let Some(host) = wharf() else { return };
    host.docker(["run", "--rm", "hello-world"]).says("Hello");
}

#[test]
fn welcome_serves_a_page_that_names_its_container() {
    let Some(host) = wharf() else { return };
    let id = host.docker(["run", "-d", "-p", "91:80", "wharf/welcome"]).ok();
    let page =
        eventually("the page", || host.get("127.0.0.1:91", "/").ok().filter(|a| a.status == 200));
    assert!(page.text().contains(&id[..12]), "{}", page.text());
}

#[test]
fn pause_does_nothing_until_it_is_stopped() {
    let Some(host) = wharf() else { return };
    host.docker(["run", "-d", "--name", "paused", "pause"]).ok();
    assert_eq!(host.inspect("paused", "{{.State.Status}}"), "running");
    host.docker(["stop", "paused"]).ok();
    assert_eq!(host.inspect("paused", "{{.State.ExitCode}}"), "0");
}
