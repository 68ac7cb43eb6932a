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
    let described = ["--annotation", "manifest-descriptor[linux/arm64]:a=b"];
    let both = ["--platform", "linux/amd64,linux/arm64", "-t", TWO, "--push", "ctx"];
    site.build(&[&described[..], &both].concat()).exits(0);
    let all = raw(TWO)["manifests"].clone();
    let arm = |m: &&Value| m["platform"]["architecture"] == "arm64";
    for manifest in all.as_array().unwrap() {
        assert_eq!(manifest["annotations"]["a"] == "b", arm(&manifest), "{manifest}");
    }
}

/// Whether the step was not carried out.
fn is_cached(built: &Output, step: &str) -> bool {
    let line = built.stderr.lines().find(|l| l.ends_with(step)).expect("the step");
    built.stderr.contains(&format!("{} CACHED", line.split(' ').next().unwrap()))
}

#[test]
fn provenance_goes_beside_the_image() {
    let site = Site::start();
    let _registry = debians(&site.host);
    site.file("ctx/Dockerfile", "FROM busybox\nARG A\nRUN echo $A > /made\n");
    let raw = |name: &str| site.inside(&["buildx", "imagetools", "inspect", "--raw", name]).json();
    let args = ["--build-arg", "A=told", "-t", ONE, "--push", "--metadata-file", "md", "ctx"];
    // What buildx asks for by itself is left out: the same build is pushed as the same image.
    site.build(&args).exits(0);
    assert!(raw(ONE)["manifests"].is_null());
    for (flag, version, told) in [
        ("--provenance=true", "v0.2", false),
        ("--provenance=mode=max,version=v1,builder-id=me", "v1", true),
    ] {
        site.build(&[&[flag], &args[..]].concat()).exits(0);
        let index = raw(ONE);
        let metadata: Value = serde_json::from_str(&site.read("md")).unwrap();
        let (digest, size) =
            (&metadata["containerimage.digest"], &metadata["containerimage.descriptor"]["size"]);
        site.inside(&["buildx", "imagetools", "inspect", ONE]).says(digest.as_str().unwrap());
        assert!(size.as_u64().is_some_and(|s| s > 0), "{metadata}");
        let (image, attached) = (&index["manifests"][0], &index["manifests"][1]);
        assert_eq!(attached["annotations"]["vnd.docker.reference.digest"], image["digest"]);
        assert_eq!(attached["platform"]["os"], "unknown");
        let within =
            |of: &Value| format!("127.0.0.1:5000/team/one@{}", of["digest"].as_str().unwrap());
        let layer = raw(&within(attached))["layers"][0].clone();
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let blob = format!("/v2/team/one/blobs/{}", layer["digest"].as_str().unwrap());
        let statement = site.host.get("127.0.0.1:5000", &blob).unwrap().json();
        assert_eq!(statement["predicateType"], format!("https://slsa.dev/provenance/{version}"));
        let digest =
            format!("sha256:{}", statement["subject"][0]["digest"]["sha256"].as_str().unwrap());
        assert_eq!(image["digest"], digest.as_str());
        let text = statement.to_string();
        assert!(text.contains("pkg:docker/busybox@latest?platform=linux%2Famd64"), "{text}");
        assert_eq!(text.contains("told"), told, "{text}");
        // buildx itself finds it.
        let shown = ["buildx", "imagetools", "inspect", ONE, "--format", "{{json .Provenance}}"];
        let found = site.inside(&shown).json();
        assert!(found["SLSA"].to_string().contains("busybox"), "{found}");
        site.host.docker(["rmi", "-f", ONE]).ok();
        assert_eq!(site.run(ONE, "cat /made"), "told");
        site.host.docker(["rmi", "-f", ONE]).ok();
    }
    let both = ["--platform", "linux/amd64,linux/arm64", "--provenance=true"];
    site.file("two/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    for (output, name) in [("type=oci,dest=dir,tar=false", "dir"), ("type=oci,dest=tar", "tar")] {
        site.build(&[&both[..], &["-t", "two:1", "-o", output, "two"]].concat()).exits(0);
        let path = site.path(name);
        let file = match name {
            "tar" => path,
            _ => {
                let mut tar = std::process::Command::new("tar");
                tar.arg("-C").arg(path).args(["-cf", "packed", "."]).current_dir(site.host.dir());
                Output::of(&mut tar, b"").exits(0);
                site.path("packed")
            }
        };
        let file = file.to_str().unwrap();
        site.host.docker(["load", "--platform", "linux/arm64", "-i", file]).says("two:1");
        assert_eq!(site.host.inspect("two:1", "{{.Architecture}}"), "arm64");
        site.host.docker(["rmi", "-f", "two:1"]).ok();
        let mut list = std::process::Command::new("tar");
        let listed = Output::of(list.args(["-tf", file]), b"").ok();
        let blobs = listed.lines().filter(|l| l.contains("blobs/sha256/") && !l.ends_with('/'));
        // An index; of each platform two manifests, two configs, a layer and a statement.
        assert_eq!(blobs.count(), 13, "{listed}");
    }
}

#[test]
fn cache_goes_to_a_directory_and_comes_back() {
    let site = Site::start();
    let random = "RUN head -c9 /dev/urandom | md5sum >";
    site.file(
        "ctx/Dockerfile",
        &format!(
            "FROM busybox AS first\n{random} /one\nFROM busybox\n{random} /two\nCOPY --from=first /one /one\n"
        ),
    );
    let sums = || site.run("x", "cat /one /two");
    let forget = || {
        site.host.docker(["rmi", "-f", "x"]).ok();
        site.buildx(&["prune", "-af"]).exits(0);
    };
    let (min, max) = ("type=local,dest=min", "type=local,dest=max,mode=max,compression=zstd");
    site.build(&["-t", "x", "--cache-to", min, "ctx"]).exits(0);
    site.build(&["-t", "x", "--cache-to", max, "ctx"]).exits(0);
    let made = sums();
    forget();
    let again = site.build(&["-t", "x", "--cache-from", "type=local,src=max", "ctx"]);
    again.exits(0);
    for step in ["/one", "/two", "COPY --from=first /one /one"] {
        assert!(is_cached(&again, step), "{step}: {again}");
    }
    assert_eq!(sums(), made);
    forget();
    // The other stage is made anew.
    let again = site.build(&["-t", "x", "--cache-from", "type=local,src=min", "ctx"]);
    again.exits(0);
    assert!(is_cached(&again, "> /two") && !is_cached(&again, "> /one"), "{again}");
    assert_ne!(sums(), made);
    // The command line of wharf's own reads what buildx got, and the other way round.
    let wharf = |args: &[&str]| {
        let mut command = site.host.client(tools::wharf());
        Output::of(command.args(args).current_dir(site.host.dir()), b"")
    };
    forget();
    let own = ["--cache-from", "type=local,src=max", "--cache-to", "type=local,dest=own,mode=max"];
    wharf(&[&["build", "-t", "x"], &own[..], &["ctx"]].concat()).exits(0);
    assert_eq!(sums(), made);
    forget();
    site.build(&["-t", "x", "--cache-from", "type=local,src=own", "ctx"]).exits(0);
    assert_eq!(sums(), made);
    let dangling = ["images", "-aq", "--filter", "dangling=true"];
    assert_eq!(site.host.docker(dangling).ok(), "", "cache leaves no image");
    // A directory that lies gives nothing, and says so.
    let blobs = std::fs::read_dir(site.path("max/blobs/sha256")).unwrap().flatten();
    for blob in blobs.filter(|b| std::fs::read(b.path()).unwrap().starts_with(b"\x28\xb5\x2f\xfd"))
    {
        let mut bytes = std::fs::read(blob.path()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(blob.path(), bytes).unwrap();
    }
    forget();
    let lied = site.build(&["-t", "x", "--cache-from", "type=local,src=max", "ctx"]);
    lied.exits(0);
    assert!(!is_cached(&lied, "> /two"), "{lied}");
    assert_ne!(sums(), made);
    let none = site.build(&["-t", "x", "--cache-from", "type=local,src=nothing", "ctx"]);
    none.exits(0);
}

#[test]
fn cache_of_several_platforms_is_one_list() {
    let site = Site::start();
    site.file(
        "ctx/Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\n\
         RUN head -c9 /dev/urandom | md5sum > /$TARGETARCH\nFROM scratch\nARG TARGETARCH\nCOPY --from=build /$TARGETARCH /sum\n",
    );
    let both = ["--platform", "linux/amd64,linux/arm64"];
    let cached = ["--cache-to", "type=local,dest=cache,mode=max", "-o", "first", "ctx"];
    site.build(&[&both[..], &cached].concat()).exits(0);
    site.buildx(&["prune", "-af"]).exits(0);
    let from = ["--cache-from", "type=local,src=cache", "-o", "second", "ctx"];
    site.build(&[&both[..], &from].concat()).exits(0);
    for arch in ["amd64", "arm64"] {
        let sum = |dir: &str| site.read(&format!("{dir}/linux_{arch}/sum"));
        assert_eq!(sum("second"), sum("first"), "{arch}");
    }
}

#[test]
fn caches_are_packed_as_they_are_asked_to_be() {
    let site = Site::start();
    let _registry = serve(&site.host, &[]);
    site.file(
        "ctx/Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/c seq 10000 > /c/n && cp /c/n /n\n",
    );
    let raw = |name: &str| site.inside(&["buildx", "imagetools", "inspect", "--raw", name]).json();
    for (options, kind) in [
        ("", "tar"),
        (",compression=zstd,compression-level=19", "tar+zstd"),
        (",compression=gzip,force-compression=true", "tar+gzip"),
        (",compression=uncompressed,force-compression=true", "tar"),
    ] {
        let name = "127.0.0.1:5000/cache:1";
        let to = format!("type=registry,ref={name},mode=max,mounts=true{options}");
        site.build(&["-t", "x", "--cache-to", &to, "ctx"]).exits(0);
        for part in raw(name)["manifests"].as_array().unwrap() {
            let part = format!("127.0.0.1:5000/cache@{}", part["digest"].as_str().unwrap());
            for layer in raw(&part)["layers"].as_array().unwrap() {
                let found = layer["mediaType"].as_str().unwrap();
                assert!(found.ends_with(&format!("layer.v1.{kind}")), "{options}: {found}");
            }
        }
        site.host.docker(["rmi", "-f", "x"]).ok();
        site.buildx(&["prune", "-af"]).exits(0);
        let from = format!("type=registry,ref={name}");
        let again = site.build(&["-t", "x", "--cache-from", &from, "ctx"]);
        again.exits(0);
        assert!(is_cached(&again, "cp /c/n /n"), "{options}: {again}");
    }
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
