//! Builds that end at a registry, and those that begin there.

use serde_json::Value;
use wharf_test::server::{debians, serve};
use wharf_test::{Output, tools};

use crate::Site;

const ONE: &str = "127.0.0.1:5000/team/one:1";
const TWO: &str = "127.0.0.1:5000/team/two:latest";

impl Site {
    /// `docker ARGS` from within the host's network: what the plugin asks registries itself.
    fn inside(&self, args: &[&str]) -> Output {
        let outside = self.command();
        let mut command = self.host.enter("env");
        for (name, value) in outside.get_envs().filter_map(|(n, v)| Some((n, v?))) {
            let setting = [name, "=".as_ref(), value].into_iter().collect::<std::ffi::OsString>();
            command.arg(setting);
        }
        command.arg(tools::path("docker")).args(args).current_dir(self.host.dir());
        Output::of(&mut command, b"")
    }
}

fn a_build_goes_to_a_registry_and_comes_back(site: &Site) {
    site.file("ctx/Dockerfile", "FROM busybox\nRUN echo pushed > /made\n");
    let args = ["-t", ONE, "-t", TWO, "--push", "--metadata-file", "md", "ctx"];
    let built = site.build(&args);
    built.exits(0);
    assert!(built.stderr.contains("pushing 127.0.0.1:5000/team/two"), "{built}");
    let metadata: Value = serde_json::from_str(&site.read("md")).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    assert_eq!(metadata["image.name"], format!("{ONE},{TWO}"));
    for name in [ONE, TWO] {
        site.inside(&["buildx", "imagetools", "inspect", name]).says(digest);
        site.host.docker(["rmi", "-f", name]).ok();
        assert_eq!(site.run(name, "cat /made"), "pushed");
        assert!(site.host.inspect(name, "{{.RepoDigests}}").contains(digest));
    }
}

#[test]
fn a_build_is_pushed_to_wharf_s_registry() {
    let site = Site::start();
    let _registry = serve(&site.host, &[]);
    a_build_goes_to_a_registry_and_comes_back(&site);
}

#[test]
fn a_build_is_pushed_to_debian_s_registry() {
    let site = Site::start();
    let _registry = debians(&site.host);
    a_build_goes_to_a_registry_and_comes_back(&site);
}

#[test]
fn logins_of_the_client_push_and_pull() {
    let site = Site::start();
    let mut passwd = site.host.enter(tools::wharf());
    let line = Output::of(passwd.args(["registry", "passwd", "ann"]), b"secret\n").ok();
    let users = site.host.write("htpasswd", format!("{line}\n").as_bytes());
    let _registry = serve(&site.host, &["--htpasswd", users.to_str().unwrap(), "--auth", "token"]);
    site.file("ctx/Dockerfile", "FROM busybox\nRUN echo base > /base\n");
    site.build(&["-t", ONE, "--push", "ctx"]).fails("failed to push 127.0.0.1:5000/team/one:1");
    let login = ["login", "-u", "ann", "--password-stdin", "127.0.0.1:5000"];
    site.host.docker_with(b"secret", login).says("Login Succeeded");
    site.build(&["-t", ONE, "--push", "ctx"]).exits(0);
    site.host.docker(["rmi", "-f", ONE]).ok();
    site.file("child/Dockerfile", &format!("FROM {ONE}\nRUN cat /base > /child\n"));
    site.build(&["-t", "child", "child"]).exits(0);
    assert_eq!(site.run("child", "cat /child"), "base");
    site.host.docker(["rmi", "-f", ONE, "child"]).ok();
    site.host.docker(["logout", "127.0.0.1:5000"]).ok();
    site.buildx(&["prune", "-af"]).exits(0);
    site.build(&["-t", "child", "child"]).fails("127.0.0.1:5000/team/one");
}

#[test]
fn what_was_packed_once_is_not_sent_again() {
    let site = Site::start();
    let _registry = serve(&site.host, &[]);
    site.file("ctx/Dockerfile", "FROM busybox\nRUN seq 10000 > /made\n");
    let output = format!("type=image,name={ONE},push=true,compression=gzip");
    let push = || {
        site.build(&["-o", &output, "--metadata-file", "md", "ctx"]).exits(0);
        let metadata: Value = serde_json::from_str(&site.read("md")).unwrap();
        metadata["containerimage.digest"].as_str().unwrap().to_owned()
    };
    let first = push();
    let raw = site.inside(&["buildx", "imagetools", "inspect", "--raw", ONE]).ok();
    assert_eq!(raw.matches("layer.v1.tar+gzip").count(), 2, "{raw}");
    assert_eq!(push(), first);
    site.host.docker(["rmi", "-f", ONE]).ok();
    // Made anew it is the same.
    assert_eq!(push(), first);
    site.host.docker(["rmi", "-f", ONE]).ok();
    assert_eq!(site.run(ONE, "tail -n1 /made"), "10000");
}

#[test]
fn one_name_is_pushed_for_several_platforms() {
    let site = Site::start();
    let _registry = serve(&site.host, &[]);
    site.file(
        "ctx/Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /which\nCMD [\"x\"]\n",
    )
    .file("ctx/amd64", "this one")
    .file("ctx/arm64", "that one");
    let both = ["--platform", "linux/amd64,linux/arm64", "-t", ONE];
    site.build(&[&both[..], &["ctx"]].concat()).fails("--push");
    site.build(&[&both[..], &["--push", "--metadata-file", "md", "ctx"]].concat()).exits(0);
    let metadata: Value = serde_json::from_str(&site.read("md")).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let shown = site.inside(&["buildx", "imagetools", "inspect", ONE]);
    shown.says(digest).says("linux/amd64").says("linux/arm64");
    // No second image is left for the other platform.
    let images = site.host.docker(["images", "-a", "--format", "{{.Repository}}"]).lines();
    assert_eq!(images.iter().filter(|i| *i != "busybox").count(), 1, "{images:?}");
    let copy = "127.0.0.1:5000/other/copy:2";
    site.inside(&["buildx", "imagetools", "create", "-t", copy, ONE]).exits(0);
    let raw = |name| site.inside(&["buildx", "imagetools", "inspect", "--raw", name]).json();
    assert_eq!(raw(copy)["manifests"], raw(ONE)["manifests"]);
    site.host.docker(["pull", "--platform", "linux/arm64", copy]).ok();
    assert_eq!(site.host.inspect(copy, "{{.Architecture}}"), "arm64");
}

#[test]
fn an_archive_holds_several_platforms() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /which\n")
        .file("ctx/amd64", "this one")
        .file("ctx/arm64", "that one");
    let both = ["--platform", "linux/amd64,linux/arm64", "-t", "both:1"];
    site.build(&[&both[..], &["-o", "type=oci,dest=both.tar", "ctx"]].concat()).exits(0);
    let dangling = ["images", "-aq", "--filter", "dangling=true"];
    assert_eq!(site.host.docker(dangling).ok(), "", "what was sent is gone here");
    site.host.docker(["load", "--platform", "linux/arm64", "-i", "both.tar"]).says("both:1");
    assert_eq!(site.host.inspect("both:1", "{{.Architecture}}"), "arm64");
    let docker = ["-o", "type=docker,dest=docker.tar", "ctx"];
    site.build(&[&both[..], &docker].concat()).fails("manifest lists");
}

#[test]
fn manifests_and_indexes_are_annotated() {
    let site = Site::start();
    let _registry = serve(&site.host, &[]);
    site.file("ctx/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let raw = |name: &str| site.inside(&["buildx", "imagetools", "inspect", "--raw", name]).json();
    let note = ["--annotation", "org.example=one", "-t", ONE, "--push", "ctx"];
    site.build(&note).exits(0);
    assert_eq!(raw(ONE)["annotations"]["org.example"], "one");
    let notes = [
        "--annotation",
        "manifest[linux/arm64]:which=arm",
        "--annotation",
        "index:list=yes",
        "--platform",
        "linux/amd64,linux/arm64",
    ];
    site.build(&[&notes[..], &["-t", TWO, "--push", "ctx"]].concat()).exits(0);
    let index = raw(TWO);
    assert_eq!(index["annotations"]["list"], "yes");
    for manifest in index["manifests"].as_array().unwrap() {
        let name = format!("127.0.0.1:5000/team/two@{}", manifest["digest"].as_str().unwrap());
        let which = raw(&name)["annotations"]["which"].clone();
        assert_eq!(which == "arm", manifest["platform"]["architecture"] == "arm64", "{which}");
    }
    let descriptor = ["--annotation", "manifest-descriptor:a=b", "-o", "type=image", "ctx"];
    site.build(&descriptor).fails("manifest-descriptor");
}

#[test]
fn cache_goes_to_a_registry_and_comes_back() {
    let site = Site::start();
    let _registry = serve(&site.host, &[]);
    site.file(
        "ctx/Dockerfile",
        "FROM busybox AS build\nRUN echo made > /made\nFROM busybox\nCOPY --from=build /made /made\n",
    );
    let cache = "type=registry,ref=127.0.0.1:5000/cache:1";
    let to = format!("{cache},mode=max");
    site.build(&["-t", "x", "--cache-to", &to, "ctx"]).exits(0);
    site.host.docker(["rmi", "-f", "x"]).ok();
    site.buildx(&["prune", "-af"]).exits(0);
    let again = site.build(&["-t", "x", "--cache-from", cache, "ctx"]);
    again.exits(0);
    let run = again.stderr.lines().find(|l| l.ends_with("RUN echo made > /made")).unwrap();
    let number = run.split(' ').next().unwrap();
    assert!(again.stderr.contains(&format!("{number} CACHED")), "{again}");
    assert_eq!(site.run("x", "cat /made"), "made");
}
