//! Compose and images: `build` and `push` through every door, `pull`, `outdated`.

use std::path::PathBuf;

use wharf_test::{Host, tools};

use crate::compose::Tool::{self, Stable, Stock, Wharf};

const REGISTRY: &str = "127.0.0.1:5000";

const TEXT: &str = "name: built
services:
  app:
    image: 127.0.0.1:5000/shop/app:1
    build:
      context: .
      args: {COLOR: red}
      labels: {made.for: tests}
      tags: ['127.0.0.1:5000/shop/app:also']
      target: final
    command: cat /color
  base:
    image: 127.0.0.1:5000/shop/base
    build: {context: ., dockerfile: base.Dockerfile}
    command: cat /color
";

const DOCKERFILE: &str = "FROM busybox AS early
ARG COLOR
RUN echo $COLOR > /color
FROM early AS final
COPY compose.yaml /from
FROM early AS unused
RUN exit 1
";

/// The project's folder; the engine's own files lie beside it.
fn dir(host: &Host) -> PathBuf {
    host.dir().join("p")
}

/// A host whose engine serves a registry, and whose clients have the plugin for builds.
fn site() -> Host {
    let host = Host::with_flags(&["--registry-addr", REGISTRY]);
    host.load(wharf_test::image::busybox());
    tools::path("cli-plugins/docker-buildx");
    let plugins = tools::path("cli-plugins");
    let config = format!(r#"{{"cliPluginsExtraDirs":[{plugins:?}]}}"#);
    host.write("home/.docker/config.json", config.as_bytes());
    host.write("p/compose.yaml", TEXT.as_bytes());
    host.write("p/Dockerfile", DOCKERFILE.as_bytes());
    host.write("p/base.Dockerfile", b"FROM busybox\nRUN echo base > /color\n");
    host
}

fn build_and_push(host: &Host, tool: Tool, buildkit: &str) {
    let run = |args: &[&str]| {
        let mut c = tool.command(host);
        c.current_dir(dir(host)).env("DOCKER_BUILDKIT", buildkit).args(args);
        wharf_test::Output::run(&mut c, b"")
    };
    let who = format!("{tool:?}, DOCKER_BUILDKIT={buildkit}");
    run(&["build"]).ok();
    let color = host.docker(["run", "--rm", "127.0.0.1:5000/shop/app:also", "cat", "/color"]);
    assert_eq!(color.ok(), "red", "{who}");
    let label = host.inspect("127.0.0.1:5000/shop/app:1", "{{index .Config.Labels \"made.for\"}}");
    assert_eq!(label, "tests", "{who}");
    run(&["build", "--build-arg", "COLOR=blue", "app"]).ok();
    run(&["push"]).ok();
    // From the registry it comes back as it was.
    for image in ["shop/app:1", "shop/app:also", "shop/base"] {
        host.docker(["rmi", &format!("{REGISTRY}/{image}")]).ok();
    }
    run(&["pull", "--ignore-buildable"]).ok();
    run(&["pull"]).ok();
    assert_eq!(run(&["run", "--rm", "-T", "app"]).ok(), "blue", "{who}");
    run(&["up"]).says("base");
    run(&["down", "--rmi", "all"]).ok();
    assert_eq!(
        host.docker(["image", "ls", "-q", "--filter", "reference=*/shop/*"]).ok(),
        "",
        "{who}"
    );
}

#[test]
fn wharf_compose_builds_and_pushes() {
    build_and_push(&site(), Wharf, "1");
}

#[test]
fn stock_compose_builds_and_pushes_by_the_classic_door() {
    let host = site();
    build_and_push(&host, Stock, "0");
    build_and_push(&host, Stable, "0");
}

#[test]
fn stock_compose_builds_and_pushes_by_the_plugin() {
    build_and_push(&site(), Stock, "1");
}

/// 2.26 has a BuildKit client of its own, which asks for `/grpc` and `/session`.
#[test]
fn an_older_stock_compose_builds_and_pushes_by_its_own_client() {
    build_and_push(&site(), Stable, "1");
}

#[test]
fn builds_take_secrets_and_the_images_of_other_services() {
    let text = r#"name: parts
services:
  base: {image: parts/base, build: {dockerfile_inline: "FROM busybox\nRUN echo below > /below\n"}}
  top:
    image: parts/top
    command: cat /below /got
    build:
      dockerfile_inline: |
        FROM basis
        RUN --mount=type=secret,id=token cat /run/secrets/token > /got
      additional_contexts: {basis: "service:base"}
      secrets: [token]
secrets: {token: {environment: TOKEN}}
"#;
    for tool in [Wharf, Stock] {
        let host = site();
        host.write("p/compose.yaml", text.as_bytes());
        host.write("p/.env", b"TOKEN=hush\n");
        tool.run_in(&host, &dir(&host), &["build"]).ok();
        // Stock may build once more, and tells of it on the same stream.
        tool.run_in(&host, &dir(&host), &["run", "--rm", "-T", "top"]).says("below\nhush");
        tool.run_in(&host, &dir(&host), &["down", "--rmi", "all"]).ok();
    }
}

#[test]
fn outdated_tells_which_tags_have_moved_on() {
    let host = site();
    let image = format!("{REGISTRY}/shop/app:1");
    host.docker(["tag", "busybox", &image]).ok();
    host.docker(["push", "-q", &image]).ok();
    let text = "services:\n  app: {image: '127.0.0.1:5000/shop/app:1'}\n  own: {image: 'local-only', build: .}\n";
    host.write("p/compose.yaml", text.as_bytes());
    host.write("p/Dockerfile", b"FROM busybox\nRUN echo newer > /newer\n");
    host.docker(["tag", "busybox", "local-only"]).ok();
    let state = |service: &str| {
        let json = Wharf.run_in(&host, &dir(&host), &["outdated", "--format", "json"]).json();
        let lines = json.as_array().unwrap().clone();
        let line = lines.iter().find(|l| l["Services"][0] == service).unwrap().clone();
        line["State"].as_str().unwrap().to_owned()
    };
    assert_eq!(state("app"), "up to date");
    Wharf.run_in(&host, &dir(&host), &["outdated", "--exit-code", "app"]).ok();
    // Somebody pushes a newer one; what is here keeps its digest.
    Wharf.run_in(&host, &dir(&host), &["build", "-q", "own"]).ok();
    host.docker(["tag", "local-only", &image]).ok();
    host.docker(["push", "-q", &image]).ok();
    host.docker(["tag", "busybox", &image]).ok();
    assert_eq!(state("app"), "outdated");
    Wharf.run_in(&host, &dir(&host), &["outdated", "--exit-code", "app"]).exits(1);
    assert_eq!(Wharf.run_in(&host, &dir(&host), &["outdated", "-q"]).ok(), "app");
    Wharf.run_in(&host, &dir(&host), &["pull", "app"]).ok();
    assert_eq!(state("app"), "up to date");
    let pinned =
        Wharf.run_in(&host, &dir(&host), &["config", "--resolve-image-digests", "app"]).ok();
    let digest =
        host.docker(["image", "inspect", "--format", "{{index .RepoDigests 0}}", &image]).ok();
    let (_, digest) = digest.split_once('@').unwrap();
    assert!(pinned.contains(&format!("image: {image}@{digest}")), "{pinned}");
    let lock = Wharf.run_in(&host, &dir(&host), &["config", "--lock-image-digests", "app"]).ok();
    assert!(lock.contains(&format!("image: {image}@{digest}")), "{lock}");
}
