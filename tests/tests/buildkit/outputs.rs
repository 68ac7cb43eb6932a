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
        ("type=oci,dest=x,tar=false", "use a tar"),
    ] {
        site.build(&["-o", output, "ctx"]).fails(says);
    }
    site.build(&["--cache-to", "type=local,dest=cache", "ctx"]).fails("type=local");
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
