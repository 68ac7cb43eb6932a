//! `wharf build`: cache that leaves the engine and comes back, outputs of every kind, contexts that are layouts.

use std::process::{Child, Stdio};

use wharf_test::host::child_of;
use wharf_test::{eventually, tools};

use crate::build::Site;

/// Two stages whose steps leave something that cannot be made again.
const RANDOM: &str = "FROM busybox AS first\nRUN head -c9 /dev/urandom | md5sum > /one\nENV A=b\n\
    FROM busybox\nRUN head -c9 /dev/urandom | md5sum > /two\nCOPY --from=first /one /one\nCMD [\"cat\", \"/one\", \"/two\"]\n";

impl Site {
    /// What the image says that only its first build can have made.
    fn sums(&self, image: &str) -> String {
        self.host.docker(["run", "--rm", image]).ok()
    }

    fn forget(&self) {
        self.wharf(&["builder", "prune", "-af"]).exits(0);
    }
}

/// wharf's own registry on the host, on port 5000.
struct Registry(Child);

impl Registry {
    fn serve(site: &Site) -> Registry {
        let mut c = site.host.enter(tools::wharf());
        c.args(["registry", "serve", "--addr", "127.0.0.1:5000", "--root"]);
        c.arg(site.host.dir().join("registry"));
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = c.spawn().unwrap();
        eventually("the registry answers", || {
            site.host.get("127.0.0.1:5000", "/v2/").ok().filter(|r| r.status == 200).map(drop)
        });
        Registry(child)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(pid) = child_of(self.0.id()) {
            let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
            // It may have ended by itself.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        drop(self.0.wait());
    }
}

#[test]
fn a_directory_keeps_the_cache_of_all_stages_or_of_the_result() {
    let site = Site::new(RANDOM);
    site.wharf(&["build", "-t", "x", "--cache-to", "type=local,dest=min", "."]).exits(0);
    site.wharf(&["build", "-t", "x", "--cache-to", "type=local,dest=max,mode=max", "."]).exits(0);
    let sums = site.sums("x");
    let two = |text: &str| text.lines().nth(1).unwrap().to_owned();
    site.forget();
    let built = site.wharf(&["build", "-t", "y", "--cache-from", "type=local,src=max", "."]);
    built.exits(0);
    assert_eq!(site.sums("y"), sums);
    assert_eq!(built.stderr.matches("CACHED").count(), 5, "{built}");
    // Without the first stage's steps its result differs, and with that what is copied; the step before is found.
    site.wharf(&["build", "-t", "z", "--cache-from", "type=local,src=min", "."]).exits(0);
    assert_eq!(two(&site.sums("z")), two(&sums));
    assert_ne!(site.sums("z"), sums);
    assert_eq!(site.host.docker(["images", "-q", "--filter", "dangling=true"]).ok(), "");
    let none = site.wharf(&["build", "--cache-from", "type=local,src=nothing", "."]);
    none.exits(0);
    assert!(none.stderr.contains("no index.json"), "{none}");
    for (flag, text, says) in [
        ("--cache-to", "type=gha", "use inline, registry or local"),
        ("--cache-to", "type=local,dest=x,compression=lzma", "use uncompressed, gzip or zstd"),
        ("--cache-to", "type=local,dest=x,tag=y", "tag is not supported by wharf: leave it out"),
        ("--cache-to", "type=inline,compression=gzip", "give compression to --output"),
        ("--cache-from", "type=s3,bucket=b", "use registry or local"),
    ] {
        site.wharf(&["build", flag, text, "."]).fails(says);
    }
}

#[test]
fn a_registry_keeps_the_cache_and_gives_only_what_is_needed() {
    let site = Site::new(RANDOM);
    let _registry = Registry::serve(&site);
    let to = "type=registry,ref=127.0.0.1:5000/cache:main,mode=max";
    site.wharf(&["build", "-t", "x", "--cache-to", to, "."]).exits(0);
    let sums = site.sums("x");
    site.forget();
    site.host.docker(["rmi", "x"]).exits(0);
    let from = "type=registry,ref=127.0.0.1:5000/cache:main";
    let built = site.wharf(&["build", "-t", "y", "--cache-from", from, "."]);
    built.exits(0);
    assert_eq!(site.sums("y"), sums);
    // What an export claims is not remembered for builds that did not ask for it.
    site.wharf(&["build", "-t", "z", "."]).exits(0);
    assert_ne!(site.sums("z"), sums);
    let lost = site.wharf(&["build", "--cache-from", "127.0.0.1:5000/none", "."]);
    lost.exits(0);
    assert!(lost.stderr.contains("cache-from 127.0.0.1:5000/none"), "{lost}");
    site.wharf(&["build", "--cache-to", "type=registry,ref=127.0.0.1:1/x", "."])
        .fails("127.0.0.1:1");
}

#[test]
fn cache_mounts_travel_when_they_are_asked_to() {
    let site = Site::new(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,uid=7,mode=0750 echo $N >> /c/log; chown 9:9 /c/log; \
         cp /c/log /seen; stat -c '%u %a' /c > /top\n",
    );
    let build = |n: &str, more: &[&str]| {
        let arg = format!("N={n}");
        let args = ["build", "-t", "x", "--build-arg", &arg];
        site.wharf(&[&args[..], more, &["."]].concat()).exits(0);
        site.host.docker(["run", "--rm", "x", "cat", "/seen", "/top"]).ok()
    };
    assert_eq!(build("1", &["--cache-to", "type=local,dest=without"]), "1\n7 750");
    assert_eq!(build("2", &["--cache-to", "type=local,dest=with,mounts=true"]), "1\n2\n7 750");
    site.forget();
    assert_eq!(build("3", &["--cache-from", "type=local,src=without"]), "3\n7 750");
    site.forget();
    assert_eq!(build("4", &["--cache-from", "type=local,src=with"]), "1\n2\n4\n7 750");
    // What is here already is not replaced.
    assert_eq!(build("5", &["--cache-from", "type=local,src=with"]), "1\n2\n4\n5\n7 750");
}

#[test]
fn images_are_pushed_and_laid_out() {
    let site = Site::new("FROM busybox\nRUN echo x > /x\n");
    let _registry = Registry::serve(&site);
    site.wharf(&["build", "--push", "."]).fails("give one with -t");
    site.wharf(&["build", "-t", "127.0.0.1:5000/a", "-t", "127.0.0.1:5000/b:1", "--push", "."])
        .exits(0);
    site.wharf(&["build", "-t", "127.0.0.1:5000/c", "-o", "type=registry", "."]).exits(0);
    for at in ["a/manifests/latest", "b/manifests/1", "c/manifests/latest"] {
        assert_eq!(
            site.host.get("127.0.0.1:5000", &format!("/v2/{at}")).unwrap().status,
            200,
            "{at}"
        );
    }
    site.wharf(&["build", "-t", "named:1", "-o", "type=oci,dest=layout,tar=false", "."]).exits(0);
    assert!(site.dir.join("layout/oci-layout").is_file());
    site.host.docker(["rmi", "named:1"]).exits(0);
    site.file("../other/Dockerfile", "FROM base\nCOPY --from=base /x /y\n");
    let context = format!("base=oci-layout://{}:1", site.dir.join("layout").display());
    site.wharf(&["build", "-t", "x", "--build-context", &context, "../other"]).exits(0);
    assert_eq!(site.host.docker(["run", "--rm", "x", "cat", "/y"]).ok(), "x");
    site.wharf(&["build", "-t", "kept:2", "-o", "type=docker,dest=image.tar", "."]).exits(0);
    site.host.docker(["rmi", "kept:2"]).exits(0);
    site.host.docker(["load", "-i", site.dir.join("image.tar").to_str().unwrap()]).says("kept:2");
    for (output, says) in [
        ("type=oci,dest=x,compression=lzma", "use uncompressed, gzip or zstd"),
        ("type=tar,dest=x,compression=zstd", "compression is not supported by wharf: leave it out"),
        ("type=local,dest=x,mode=copy", "mode is not supported"),
    ] {
        site.wharf(&["build", "-o", output, "."]).fails(says);
    }
}

/// A document of a layout in the site's directory.
fn document(site: &Site, layout: &str, path: &str) -> serde_json::Value {
    let path = site.dir.join(layout).join(path);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The manifests that a layout lists.
fn manifests(site: &Site, layout: &str) -> Vec<serde_json::Value> {
    let index = document(site, layout, "index.json");
    let digests = index["manifests"].as_array().unwrap().iter();
    let blob = |m: &serde_json::Value| m["digest"].as_str().unwrap().replace(':', "/");
    digests.map(|m| document(site, layout, &format!("blobs/{}", blob(m)))).collect()
}

#[test]
fn images_are_packed_and_annotated_as_asked() {
    let site = Site::new("FROM busybox\nRUN seq 10000 > /n\n");
    let _registry = Registry::serve(&site);
    let kinds = |manifest: &serde_json::Value| -> Vec<String> {
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers.map(|l| l["mediaType"].as_str().unwrap().to_owned()).collect()
    };
    let output =
        "type=oci,dest=zstd,tar=false,compression=zstd,compression-level=7,force-compression=true";
    let notes = ["--annotation", "a=b", "--annotation", "manifest[linux/amd64]:c=d=e"];
    let build = [&["build", "-t", "x:1"], &notes[..], &["-o", output, "."]].concat();
    site.wharf(&build).exits(0);
    let made = manifests(&site, "zstd").remove(0);
    assert!(kinds(&made).iter().all(|k| k.ends_with("tar+zstd")), "{made}");
    assert_eq!(
        (&made["annotations"]["a"], &made["annotations"]["c"]),
        (&"b".into(), &"d=e".into())
    );
    assert_eq!(site.host.docker(["run", "--rm", "x:1", "tail", "-n1", "/n"]).ok(), "10000");
    let push = "type=registry,compression=gzip,force-compression=true";
    site.wharf(&["build", "-t", "127.0.0.1:5000/p:1", "-o", push, "."]).exits(0);
    let pushed = site.host.get("127.0.0.1:5000", "/v2/p/manifests/1").unwrap();
    let pushed: serde_json::Value = serde_json::from_slice(&pushed.body).unwrap();
    assert!(kinds(&pushed).iter().all(|k| k.ends_with("tar+gzip")), "{pushed}");
    let both = ["build", "--platform", "linux/amd64,linux/arm64", "--annotation"];
    site.file("Dockerfile", "FROM scratch\nCOPY Dockerfile /x\n");
    let output = ["-o", "type=oci,dest=both,tar=false,compression=gzip", "."];
    site.wharf(&[&both[..], &["manifest[linux/arm64]:which=arm"], &output].concat()).exits(0);
    let made = manifests(&site, "both");
    assert_eq!(made.iter().filter(|m| m["annotations"]["which"] == "arm").count(), 1);
    assert!(made.iter().all(|m| kinds(m)[0].ends_with("tar+gzip")));
    for (flag, text, says) in [
        ("--annotation", "a", "expected key=value"),
        ("--annotation", "index:a=b", "use docker buildx build"),
        ("--annotation", "layer:a=b", "use manifest, or manifest[PLATFORM]"),
        ("--annotation", "manifest[linux/riscv64]:a=b", "is not built"),
        ("--attest", "type=sbom", "give false to --provenance and --sbom"),
        ("--provenance", "mode=max", "give false to --provenance and --sbom"),
    ] {
        site.wharf(&["build", flag, text, "."]).fails(says);
    }
    let differ = ["-o", "type=oci,dest=a,compression=gzip", "-o", "type=oci,dest=b"];
    site.wharf(&[&["build"], &differ[..], &["."]].concat()).fails("build once for each");
}

#[test]
fn several_platforms_are_built_where_nothing_foreign_runs() {
    let site = Site::new(
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN echo for $TARGETARCH > /made\n\
         FROM scratch\nCOPY --from=build /made /made\n",
    );
    let build = |more: &[&str]| {
        let args = ["build", "--platform", "linux/amd64,linux/arm64"];
        site.wharf(&[&args[..], more, &["."]].concat())
    };
    build(&["-o", "out"]).exits(0);
    for arch in ["amd64", "arm64"] {
        let made =
            std::fs::read_to_string(site.dir.join(format!("out/linux_{arch}/made"))).unwrap();
        assert_eq!(made, format!("for {arch}\n"));
    }
    build(&["-o", "type=oci,dest=layout,tar=false"]).exits(0);
    let index = std::fs::read(site.dir.join("layout/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["platform"]["architecture"])
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    build(&["-t", "x", "-o", "out"]).fails("--tag is for one --platform");
    build(&[]).fails("need --output type=oci or type=local");
    site.file("Dockerfile", "FROM scratch\nRUN [\"/x\"]\n");
    if std::env::consts::ARCH == "x86_64"
        && !std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
    {
        let foreign = ["build", "--platform", "linux/arm64,linux/amd64", "-o", "out", "."];
        site.wharf(&foreign).fails("cannot run linux/arm64 programs");
    }
    // An older image that the result happens to be keeps its name.
    site.file("Dockerfile", "FROM busybox\n");
    site.wharf(&["build", "-t", "named", "."]).exits(0);
    site.wharf(&["build", "-o", "out", "."]).exits(0);
    site.host.docker(["image", "inspect", "named"]).exits(0);
}

#[test]
fn contexts_come_from_web_servers() {
    let site = Site::new("FROM busybox\nCOPY --from=far in /x\n");
    let mut tar = wharf_test::image::Tar::default();
    tar.file("in", 0o644, b"far");
    let archive = tar.finish();
    let web = wharf_test::web::Web::serve(site.host.init(), move |_| {
        wharf_test::web::Answer::of(archive.clone())
    });
    let context = format!("far=http://{}/ctx.tar", web.address);
    site.wharf(&["build", "-t", "x", "--build-context", &context, "."]).exits(0);
    assert_eq!(site.host.docker(["run", "--rm", "x", "cat", "/x"]).ok(), "far");
}
