//! Several targets at once, some made from others.

use crate::Site;

#[test]
fn linked_targets_are_made_from_each_other() {
    let site = Site::start();
    site.file("base/Dockerfile", "FROM busybox\nENV FROM_BASE=yes\nRUN echo base > /base\n");
    site.file(
        "app/Dockerfile",
        "FROM base\nCOPY f /f\nRUN cat /base /f > /both; echo $FROM_BASE >> /both\n",
    );
    site.file("app/f", "app\n");
    let bake = r#"
group "default" {
  targets = ["app"]
}
target "base" {
  context = "base"
}
target "app" {
  context = "app"
  contexts = { base = "target:base" }
  tags = ["app"]
}
"#;
    site.file("docker-bake.hcl", bake);
    site.buildx(&["bake", "--progress", "plain"]).exits(0);
    assert_eq!(site.run("app", "cat /both"), "base\napp\nyes");
}

#[test]
fn targets_share_one_context() {
    let site = Site::start();
    site.file("ctx/f", "shared");
    let target = |n: u8| {
        serde_json::json!({
            "context": "ctx", "tags": [format!("t{n}")], "dockerfile-inline": format!("FROM busybox\nCOPY f /f{n}\n")
        })
    };
    let bake = serde_json::json!({ "target": { "one": target(1), "two": target(2) } });
    site.file("bake.json", &bake.to_string());
    site.buildx(&["bake", "-f", "bake.json", "--progress", "plain", "one", "two"]).exits(0);
    assert_eq!(site.run("t1", "cat /f1"), "shared");
    assert_eq!(site.run("t2", "cat /f2"), "shared");
}

#[test]
fn compose_files_are_baked() {
    let site = Site::start();
    site.file("web/Dockerfile", "FROM busybox\nARG V\nRUN echo $V > /v\n");
    let compose = "services:\n  web:\n    image: web:dev\n    build:\n      context: web\n      args: {V: '3'}\n";
    site.file("compose.yaml", compose);
    site.buildx(&["bake", "--progress", "plain"]).exits(0);
    assert_eq!(site.run("web:dev", "cat /v"), "3");
}

#[test]
fn compose_builds_services_from_each_other() {
    let site = Site::start();
    site.file("base/Dockerfile", "FROM busybox\nRUN echo base > /base\n")
        .file("app/Dockerfile", "FROM base\nRUN cat /base > /both\n");
    let compose = serde_json::json!({ "services": {
        "base": { "image": "base:dev", "build": { "context": "base" } },
        "app": {
            "image": "app:dev",
            "build": { "context": "app", "additional_contexts": { "base": "service:base" } },
        },
    }});
    site.file("compose.yaml", &compose.to_string());
    let mut compose = site.host.client(wharf_test::tools::path("docker-compose"));
    wharf_test::Output::of(compose.args(["--progress", "plain", "build"]), b"").exits(0);
    assert_eq!(site.run("app:dev", "cat /both"), "base");
    site.host.docker(["image", "inspect", "base:dev"]).exits(0);
}
