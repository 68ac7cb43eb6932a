//! What a build gives other than an image of the store.

use std::process::Command;

use crate::Site;

fn site() -> Site {
    let site = Site::start();
    let dockerfile = "\
FROM busybox AS build
RUN mkdir -p /out/bin && echo made > /out/bin/tool && chmod 751 /out/bin/tool && ln -s bin/tool /out/t
RUN head -c 3000000 /dev/zero > /out/big
FROM scratch
COPY --from=build /out /
";
    site.file("ctx/Dockerfile", dockerfile);
    site
}

#[test]
fn files_come_back_to_a_directory() {
    let site = site();
    site.file("dest/old", "stays");
    site.build(&["-o", "dest", "ctx"]).exits(0);
    assert_eq!(site.read("dest/bin/tool"), "made\n");
    assert_eq!(site.read("dest/t"), "made\n");
    assert_eq!(site.read("dest/old"), "stays");
    assert_eq!(std::fs::metadata(site.path("dest/big")).unwrap().len(), 3_000_000);
    let split = ["-o", "type=local,dest=split,platform-split=true", "--platform", "linux/amd64"];
    site.build(&[&split[..], &["ctx"]].concat()).exits(0);
}

#[test]
fn a_tar_comes_back_to_a_file_or_standard_output() {
    let site = site();
    site.build(&["-o", "type=tar,dest=out.tar", "ctx"]).exits(0);
    let list = |file: &str| {
        let mut tar = Command::new("tar");
        let tar = tar.arg("-tf").arg(file).current_dir(site.host.dir());
        wharf_test::Output::of(tar, b"").lines()
    };
    for wanted in ["bin/tool", "t", "big"] {
        assert!(list("out.tar").iter().any(|l| l == wanted), "{wanted}");
    }
    let mut command = site.command();
    command.args(["build", "-q", "-o", "-", "ctx"]).stdout(std::process::Stdio::piped());
    let out = command.output().unwrap();
    assert!(out.status.success());
    site.host.write("stdout.tar", &out.stdout);
    assert_eq!(list("stdout.tar"), list("out.tar"));
}

#[test]
fn archives_load_under_their_names() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN echo hi > /hi\n");
    for kind in ["docker", "oci"] {
        let (name, file) = (format!("by-{kind}:1"), format!("{kind}.tar"));
        let output = format!("type={kind},dest={file}");
        site.build(&["-t", &name, "-o", &output, "ctx"]).exits(0);
        site.host.docker(["image", "inspect", &name]).fails("No such image");
        site.host.docker(["load", "-i", &file]).says(&name);
        assert_eq!(site.run(&name, "cat /hi"), "hi");
    }
}

#[test]
fn several_outputs_and_none() {
    let site = site();
    site.build(&["-t", "both", "-o", "dest", "-o", "type=image", "ctx"]).exits(0);
    assert_eq!(site.read("dest/t"), "made\n");
    site.host.docker(["image", "inspect", "both"]).exits(0);
    site.build(&["-t", "never", "-o", "type=cacheonly", "ctx"]).exits(0);
    site.host.docker(["image", "inspect", "never"]).fails("No such image");
}

#[test]
fn outputs_that_cannot_be_are_refused_by_name() {
    let site = site();
    for (output, says) in [
        ("type=oci,dest=x.tar,compression=estargz", "use compression=gzip or zstd"),
        ("type=oci,dest=x.tar,compression=lzma", "use uncompressed, gzip or zstd"),
        ("type=oci,dest=x.tar,compression=zstd,compression-level=23", "not between 1 and 22"),
        ("type=local,dest=x,compression=gzip", "compression=gzip of the local output"),
        ("type=image,oci-mediatypes=false", "leave it out, images are OCI's"),
        ("type=image,rewrite-timestamp=false", "never later than SOURCE_DATE_EPOCH"),
        ("type=image,name=x,push-by-digest=true", "push under a name"),
        ("type=image,name=x,registry.insecure=true", "insecure-registries of daemon.json"),
        ("type=image,nonsense=1", "leave it out"),
    ] {
        site.build(&["-o", output, "ctx"]).fails(says);
    }
    for (cache, says) in [
        ("type=local,dest=x,compression=lzma", "use uncompressed, gzip or zstd"),
        ("type=local,dest=x,image-manifest=true", "an index of image manifests"),
        ("type=inline,compression=zstd", "give compression to --output"),
    ] {
        site.build(&["--cache-to", cache, "ctx"]).fails(says);
    }
    let twice = ["--cache-to", "type=local,dest=x", "--cache-to", "type=local,dest=y,mode=max"];
    site.build(&[&twice[..], &["ctx"]].concat()).fails("build twice");
}

/// A document of a layout in a directory.
fn document(site: &Site, layout: &str, digest: &serde_json::Value) -> serde_json::Value {
    let path = digest.as_str().unwrap().replace(':', "/");
    serde_json::from_str(&site.read(&format!("{layout}/blobs/{path}"))).unwrap()
}

fn index(site: &Site, layout: &str) -> serde_json::Value {
    serde_json::from_str(&site.read(&format!("{layout}/index.json"))).unwrap()
}

/// Makes an archive of a layout and loads it.
fn load(site: &Site, layout: &str, more: &[&str]) -> wharf_test::Output {
    let mut tar = Command::new("tar");
    tar.args(["-C", layout, "-cf", "layout.tar", "."]).current_dir(site.host.dir());
    wharf_test::Output::of(&mut tar, b"").exits(0);
    site.host.docker([&["load", "-i", "layout.tar"], more].concat())
}

#[test]
fn layouts_come_back_to_a_directory() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN seq 300000 > /made\n");
    let args = ["-t", "by:1", "-o", "type=oci,dest=oci,tar=false", "--metadata-file", "md", "ctx"];
    site.build(&args).exits(0);
    site.host.docker(["image", "inspect", "by:1"]).fails("No such image");
    let top = index(&site, "oci")["manifests"][0].clone();
    assert_eq!(top["annotations"]["io.containerd.image.name"], "docker.io/library/by:1", "{top}");
    let metadata: serde_json::Value = serde_json::from_str(&site.read("md")).unwrap();
    assert_eq!(metadata["containerimage.digest"], top["digest"]);
    assert_eq!(metadata["containerimage.descriptor"]["size"], top["size"]);
    let manifest = document(&site, "oci", &top["digest"]);
    assert_eq!(metadata["containerimage.config.digest"], manifest["config"]["digest"]);
    load(&site, "oci", &[]).says("by:1");
    assert_eq!(site.run("by:1", "tail -n1 /made"), "300000");
    site.host.docker(["rmi", "-f", "by:1"]).ok();
    // What is there already is not sent again, and a second image comes beside the first.
    site.build(&["-t", "again:2", "-o", "type=oci,dest=oci,tar=false", "ctx"]).exits(0);
    assert_eq!(index(&site, "oci")["manifests"].as_array().unwrap().len(), 2);
    let both = ["--platform", "linux/amd64,linux/arm64", "-t", "both:1"];
    site.file("two/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    site.build(&[&both[..], &["-o", "type=oci,dest=both,tar=false", "two"]].concat()).exits(0);
    let whole = document(&site, "both", &index(&site, "both")["manifests"][0]["digest"]);
    assert_eq!(whole["manifests"][1]["platform"]["architecture"], "arm64");
    load(&site, "both", &["--platform", "linux/arm64"]).says("both:1");
    let dangling = ["images", "-aq", "--filter", "dangling=true"];
    assert_eq!(site.host.docker(dangling).ok(), "", "what was sent is gone here");
}

#[test]
fn layouts_are_annotated_at_every_level() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let notes = |texts: &[&'static str]| -> Vec<&'static str> {
        texts.iter().flat_map(|t| ["--annotation", *t]).collect()
    };
    let every = notes(&[
        "index:list=1",
        "index-descriptor:of-list=2",
        "manifest,manifest-descriptor:both=3",
        "manifest-descriptor[linux/arm64]:arm=4",
    ]);
    let args = ["--platform", "linux/amd64,linux/arm64", "--metadata-file", "md"];
    let output = ["-o", "type=oci,dest=both,tar=false", "-o", "type=oci,dest=both.tar", "ctx"];
    site.build(&[&every[..], &args, &output].concat()).exits(0);
    let top = index(&site, "both")["manifests"][0].clone();
    assert_eq!(top["annotations"]["of-list"], "2");
    let whole = document(&site, "both", &top["digest"]);
    assert_eq!(whole["annotations"]["list"], "1");
    for manifest in whole["manifests"].as_array().unwrap() {
        let own = &manifest["annotations"];
        assert_eq!(own["both"], "3");
        assert_eq!(own["arm"] == "4", manifest["platform"]["architecture"] == "arm64", "{own}");
        assert_eq!(document(&site, "both", &manifest["digest"])["annotations"]["both"], "3");
    }
    let metadata: serde_json::Value = serde_json::from_str(&site.read("md")).unwrap();
    assert_eq!(metadata["containerimage.descriptor"]["annotations"]["of-list"], "2");
    let mut tar = Command::new("tar");
    tar.args(["-xOf", "both.tar", "index.json"]).current_dir(site.host.dir());
    let listed: serde_json::Value =
        serde_json::from_str(&wharf_test::Output::of(&mut tar, b"").ok()).unwrap();
    assert_eq!(listed["manifests"][0]["annotations"]["of-list"], "2");
    let one = notes(&["manifest-descriptor:a=b"]);
    site.build(&[&one[..], &["-o", "type=oci,dest=one,tar=false", "ctx"]].concat()).exits(0);
    assert_eq!(index(&site, "one")["manifests"][0]["annotations"]["a"], "b");
    for (note, says) in [
        ("index:a=b", "index annotations not supported for single platform export"),
        ("index-descriptor:a=b", "index annotations not supported for single platform export"),
        ("manifest[linux/riscv64]:a=b", "no platform linux/riscv64 found in source"),
    ] {
        site.build(&["--annotation", note, "-o", "type=image", "ctx"]).fails(says);
    }
}

/// Media types of the layers in an OCI archive, base first, without what they have in common.
fn packings(site: &Site, file: &str) -> Vec<String> {
    let read = |name: &str| -> serde_json::Value {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-xOf").arg(site.host.dir().join(file)).arg(name);
        serde_json::from_str(&wharf_test::Output::of(&mut tar, b"").ok()).unwrap()
    };
    let digest = read("index.json")["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let manifest = read(&format!("blobs/{}", digest.replace(':', "/")));
    let layers = manifest["layers"].as_array().unwrap().iter();
    let kind = |l: &serde_json::Value| {
        l["mediaType"].as_str().unwrap().rsplit_once(".tar").unwrap().1.to_owned()
    };
    layers.map(kind).collect()
}

#[test]
fn layers_are_packed_as_the_output_says() {
    let site = Site::start();
    site.file("base/Dockerfile", "FROM busybox\nRUN seq 10000 > /n\n");
    site.build(&["-o", "type=oci,dest=plain.tar", "base"]).exits(0);
    assert_eq!(packings(&site, "plain.tar"), ["", ""]);
    site.build(&["-t", "base", "-o", "type=image,compression=gzip", "base"]).exits(0);
    site.file("ctx/Dockerfile", "FROM base\nRUN tac /n > /m\n");
    for (options, kinds) in [
        ("compression=zstd,compression-level=19", ["+gzip", "+gzip", "+zstd"]),
        ("compression=zstd,force-compression=true", ["+zstd"; 3]),
        ("compression=uncompressed", ["+gzip", "+gzip", ""]),
        ("compression=uncompressed,force-compression=true", [""; 3]),
        ("compression=gzip", ["+gzip"; 3]),
    ] {
        site.build(&["-t", "x", "-o", &format!("type=oci,dest=x.tar,{options}"), "ctx"]).exits(0);
        assert_eq!(packings(&site, "x.tar"), kinds, "{options}");
        site.host.docker(["load", "-i", "x.tar"]).says("x");
        assert_eq!(site.run("x", "head -n1 /m && wc -l < /n"), "10000\n10000");
        site.host.docker(["rmi", "-f", "x"]).ok();
    }
}
