//! BuildKit builds by `POST /build?version=2`: Debian 12's docker CLI, which needs no plugin for them, and bare requests.

use std::fs;

use serde_json::Value;
use wharf_test::image::Tar;
use wharf_test::{Host, Output, tools};

const DOCKERFILE: &str = "\
FROM busybox AS base
ARG WHO=nobody
RUN echo made for $WHO > /made
FROM base
COPY . /src
";

struct Old(Host);

impl Old {
    fn start() -> Old {
        let old = Old(Host::with_busybox());
        old.0.write("ctx/Dockerfile", DOCKERFILE.as_bytes());
        old.0.write("ctx/.dockerignore", b"left-out\n");
        old.0.write("ctx/taken", b"a file");
        old.0.write("ctx/left-out", b"");
        old
    }

    fn build_with(&self, stdin: &[u8], args: &[&str]) -> Output {
        let mut docker = self.0.client(tools::path("docker-20"));
        Output::run(docker.arg("build").args(args), stdin)
    }

    fn build(&self, args: &[&str]) -> Output {
        self.build_with(b"", args)
    }

    fn run(&self, image: &str, script: &str) -> String {
        self.0.docker(["run", "--rm", image, "sh", "-c", script]).ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.0.dir().join(path).exists()
    }
}

#[test]
fn debians_docker_builds_a_directory() {
    let old = Old::start();
    let built = old.build(&["-t", "app", "-t", "app:2", "--build-arg", "WHO=me", "ctx"]);
    built.exits(0);
    for line in ["[base 2/2] RUN echo", "naming to docker.io/library/app:2"] {
        assert!(built.stderr.contains(line), "{built}");
    }
    assert_eq!(old.run("app:2", "cat /made; ls /src"), "made for me\nDockerfile\ntaken");
    let again = old.build(&["--build-arg", "WHO=me", "--iidfile", "id", "ctx"]);
    again.exits(0);
    assert!(again.stderr.contains("CACHED"), "{again}");
    let id = old.0.inspect("app", "{{.Id}}");
    assert_eq!(fs::read_to_string(old.0.dir().join("id")).unwrap(), id);
    let quiet = old.build(&["-q", "--build-arg", "WHO=me", "ctx"]);
    assert_eq!(quiet.ok(), id);
    old.0.write("elsewhere/D", b"FROM busybox\nRUN exit 3\n");
    old.build(&["-f", "elsewhere/D", "ctx"]).exits(1).fails("exit code: 3");
    let quiet = old.build(&["-q", "-f", "elsewhere/D", "ctx"]);
    quiet.exits(1);
    assert!(quiet.stdout.is_empty() && quiet.stderr.contains("RUN exit 3"), "{quiet}");
}

#[test]
fn debians_docker_gets_files_back() {
    let old = Old::start();
    old.0.write("token", b"s3cret");
    old.0.write(
        "ctx/Files",
        b"FROM busybox AS b\nRUN --mount=type=secret,id=t cp /run/secrets/t /t\nFROM scratch\nCOPY --from=b /t /out/t\n",
    );
    let args = ["-f", "ctx/Files", "--secret", "id=t,src=token"];
    old.build(&[&args[..], &["-o", "dest", "ctx"]].concat()).exits(0);
    assert_eq!(fs::read_to_string(old.0.dir().join("dest/out/t")).unwrap(), "s3cret");
    old.build(&[&args[..], &["-o", "type=tar,dest=out.tar", "ctx"]].concat()).exits(0);
    assert!(old.exists("out.tar"));
    old.build(&[&args[..], &["-t", "none", "-o", "type=cacheonly", "ctx"]].concat()).exits(0);
    old.0.docker(["image", "inspect", "none"]).fails("No such image");
}

#[test]
fn debians_docker_builds_from_standard_input() {
    let old = Old::start();
    let mut tar = Tar::default();
    tar.file("sub/D", 0o644, DOCKERFILE.as_bytes());
    tar.file("taken", 0o644, b"");
    old.build_with(&tar.finish(), &["-t", "tar", "-f", "sub/D", "-"]).exits(0);
    assert_eq!(old.run("tar", "cat /made; ls /src"), "made for nobody\nsub\ntaken");
    old.build_with(b"FROM busybox\nRUN echo 1 > /alone\n", &["-t", "alone", "-"]).exits(0);
    assert_eq!(old.run("alone", "cat /alone"), "1");
    let piped = ["-t", "piped", "-f", "-", "ctx"];
    old.build_with(b"FROM busybox\nCOPY taken /\n", &piped).exits(0);
    assert_eq!(old.run("piped", "cat /taken"), "a file");
}

#[test]
fn a_bare_request_needs_no_session() {
    let host = Host::with_busybox();
    let mut tar = Tar::default();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY f /\nRUN cat /f\n");
    tar.file("f", 0o644, b"content");
    let tar = tar.finish();
    let post = |query: &str| host.api("POST", &format!("/v1.41/build?{query}"), &tar).unwrap();
    let lines = |body: &[u8]| -> Vec<Value> {
        let text = std::str::from_utf8(body).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let answer = post("version=2&t=bare&labels=%7B%22a%22%3A%22b%22%7D");
    assert_eq!(answer.status, 200);
    let told = lines(&answer.body);
    let (last, traces) = told.split_last().unwrap();
    assert!(traces.iter().all(|l| l["id"] == "moby.buildkit.trace" && l["aux"].is_string()));
    assert_eq!(last["id"], "moby.image.id");
    assert_eq!(last["aux"]["ID"], host.inspect("bare", "{{.Id}}"));
    assert_eq!(host.inspect("bare", "{{.Config.Labels.a}}"), "b");
    let failed = lines(&post("version=2&target=nothing").body);
    assert!(failed.last().unwrap()["error"].as_str().unwrap().contains("nothing"), "{failed:?}");
    assert_eq!(post("version=3").status, 400);
    assert_eq!(post("version=2&remote=client-session").status, 400);
    assert_eq!(post("version=2&buildid=upload-request:nobody").status, 400);
    assert_eq!(post("version=2&outputs=%5B%7B%7D,%7B%7D%5D").status, 400);
}
