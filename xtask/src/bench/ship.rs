//! Images between an engine and a registry: wharf at its own, dockerd at Debian's docker-registry.

use super::lab::{Lab, must};
use super::table::{Aim, Row};
use super::timing::{Contender, median, milliseconds, of, race};
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use wharf_test::image::{Image, Tar};
use wharf_test::server::{Server, start};
use wharf_test::{Host, tools};

/// Bytes of the image.
const SIZE: usize = 200_000_000;
const NAME: &str = "127.0.0.1:5000/big:latest";

pub(crate) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let servers = [ours(lab), debians(&lab.docker)];
    let both = [&servers[0], &servers[1]];
    let idle = both.map(weight);
    let hosts = [&lab.wharf, &lab.docker];
    let mut rows = Vec::new();
    let image = Image::new(NAME, layer(), &json!({"Cmd": ["true"]}));
    for host in hosts {
        let path = host.write("big.tar", &image.docker_archive());
        must(host.docker_command().args(["load", "-q", "-i"]).arg(&path));
        fs::remove_file(path)?;
    }
    let rounds = if lab.quick { 2 } else { 4 };
    let pushes = hosts.map(|host| push(host, rounds));
    let pulls = hosts.map(|host| pull(host, rounds));
    for (work, times) in [("push", pushes), ("pull", pulls)] {
        let work = format!("{work} of a 200 MB image over loopback");
        let aim = Aim::AtMost(1.0 / 3.0, "docker");
        rows.push(Row::new(work, "ms", times[0]).peer("docker", Some(times[1])).aim(aim));
    }
    let after = both.map(weight);
    let rates = rates(hosts, lab.rounds(8));
    rows.push(
        Row::new("registry: a 200 MB blob", "MB/s", rates[0])
            .peer("docker", Some(rates[1]))
            .aim(Aim::AtLeast(1.5, "docker")),
    );
    for (work, figures) in
        [("idle registry, PSS", idle), ("the same after the pushes and pulls", after)]
    {
        let row = Row::new(work, "MB", figures[0]).peer("docker", Some(figures[1]));
        rows.push(row.aim(Aim::AtMost(1.0, "docker")));
    }
    Ok(rows)
}

/// Bytes that gzip makes about a third less: programs are like that.
fn layer() -> Vec<u8> {
    let mut state = 1u64;
    let mut content = Vec::with_capacity(SIZE);
    while content.len() < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes()[..6]);
        content.extend_from_slice(b"\0\0\0");
    }
    let mut tar = Tar::default();
    tar.file("big", 0o644, &content);
    tar.finish()
}

/// Fresh repositories, so that nothing is there and nothing can be mounted: the registry's store is emptied.
fn push(host: &Host, rounds: usize) -> f64 {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let name = format!("127.0.0.1:5000/fresh{}", times.len());
        host.docker(["tag", NAME, &name]).ok();
        forget(host);
        times.push(milliseconds(|| must(host.docker_command().args(["push", "-q", &name]))));
        host.docker(["rmi", &name]).ok();
    }
    host.docker(["push", "-q", NAME]).ok();
    median(times)
}

/// Deletes every repository's manifests and blobs through the API, so that the next push has all to do.
fn forget(host: &Host) {
    let list = host.get("127.0.0.1:5000", "/v2/_catalog").map(|r| r.json()).unwrap_or_default();
    for name in list["repositories"].as_array().into_iter().flatten().filter_map(|n| n.as_str()) {
        let Some(manifest) = manifest(host, name) else { continue };
        send(host, "DELETE", &format!("/v2/{name}/manifests/{}", manifest.0));
        for blob in manifest.1 {
            send(host, "DELETE", &format!("/v2/{name}/blobs/{blob}"));
        }
    }
}

/// Digest of the newest manifest, and its blobs.
fn manifest(host: &Host, name: &str) -> Option<(String, Vec<String>)> {
    let mut stream = host.connect("127.0.0.1:5000").ok()?;
    let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
    let headers = [("Connection", "close"), ("Accept", accept)];
    let target = format!("/v2/{name}/manifests/latest");
    let answer = wharf_test::http::exchange(&mut stream, "GET", &target, &headers, b"").ok()?;
    let digest = answer.header("docker-content-digest")?.to_owned();
    let json = answer.json();
    let text = |v: &serde_json::Value| v["digest"].as_str().map(str::to_owned);
    let layers = json["layers"].as_array().into_iter().flatten().filter_map(text);
    Some((digest, layers.chain(text(&json["config"])).collect()))
}

fn send(host: &Host, method: &str, target: &str) {
    let Ok(mut stream) = host.connect("127.0.0.1:5000") else { return };
    // What is there no more need not be deleted.
    drop(wharf_test::http::exchange(&mut stream, method, target, &[("Connection", "close")], b""));
}

fn pull(host: &Host, rounds: usize) -> f64 {
    let mut times = Vec::new();
    for _ in 0..rounds {
        host.docker(["rmi", "-f", NAME]).ok();
        times.push(milliseconds(|| must(host.docker_command().args(["pull", "-q", NAME]))));
    }
    median(times)
}

/// Megabytes per second of one client reading the layer.
fn rates(hosts: [&Host; 2], rounds: usize) -> [f64; 2] {
    let blobs = hosts.map(|host| {
        let (_, blobs) = manifest(host, "big").expect("the image was pushed");
        blobs.into_iter().next().expect("it has a layer")
    });
    let sizes = [std::cell::Cell::new(0), std::cell::Cell::new(0)];
    let read = |index: usize| {
        let host: &Host = hosts[index];
        let mut stream = host.connect("127.0.0.1:5000").expect("connect");
        let head = format!(
            "GET /v2/big/blobs/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            blobs[index]
        );
        stream.write_all(head.as_bytes()).expect("ask");
        let (mut buffer, mut sum) = (vec![0; 1 << 20], 0);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            sum += n;
        }
        sizes[index].set(sum);
    };
    let times =
        race(rounds, &[Contender::new("wharf", || read(0)), Contender::new("docker", || read(1))]);
    let rate = |who, index: usize| {
        of(&times, who).map_or(f64::NAN, |ms| sizes[index].get() as f64 / 1e3 / ms)
    };
    [rate("wharf", 0), rate("docker", 1)]
}

/// wharf's registry, on wharf's host.
fn ours(lab: &Lab) -> Server {
    let mut c = lab.wharf.enter(&lab.binary);
    c.args(["registry", "serve", "--addr", "127.0.0.1:5000", "--root"]);
    c.arg(lab.wharf.dir().join("registry"));
    start(&lab.wharf, c)
}

/// Debian's, in the network of dockerd's host; its files are the machine's, which has the program.
fn debians(host: &Host) -> Server {
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{delete: {{enabled: true}}, filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
        host.dir().join("registry").display()
    );
    let config = host.write("registry.yml", text.as_bytes());
    let mut c = Command::new("nsenter");
    c.args(["-t", &host.init().to_string(), "-n", "-p", "--"]);
    c.arg(tools::path("docker-registry")).arg("serve").arg(config);
    start(host, c)
}

/// Megabytes of a registry, proportional share.
fn weight(server: &Server) -> f64 {
    let map =
        fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap_or_default();
    let pss = map.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    pss.and_then(|n| n.trim().parse::<f64>().ok()).map_or(f64::NAN, |kilobytes| kilobytes / 1e3)
}
