//! The door as a client sees it: a real daemon in namespaces of its own, spoken to byte by byte.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests start processes"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A daemon with its own roots, network and mounts. It ends with the test.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// `None` where the test cannot run: daemons need root.
    fn start() -> Option<Daemon> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        if !status.lines().any(|l| l.starts_with("Uid:\t0\t")) {
            eprintln!("skipped: needs root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("wharf-test-").tempdir().unwrap();
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .arg(env!("CARGO_BIN_EXE_wharf"))
            .args(["daemon", "--raw-logs", "--config-file", "/dev/null", "--data-root"])
            .arg(dir.path().join("root"))
            .arg("--exec-root")
            .arg(dir.path().join("run"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The log says when the door is open; that is the event to wait for.
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains("daemon is up") {
            assert!(log.read_line(&mut seen).unwrap() > 0, "daemon ended: {seen}");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Daemon { child, dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/docker.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// One request on a connection of its own; status, head and body.
    fn ask(&self, request: &str, body: &str) -> (u16, String, String) {
        let mut stream = self.connect();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.dir.path().join("run/wharf.pid"));
        if let Ok(pid) = pid {
            drop(Command::new("kill").arg(pid.trim()).status());
        }
        drop(self.child.wait());
    }
}

fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn answers_have_dockers_shapes() {
    let Some(daemon) = Daemon::start() else { return };
    let (status, head, body) = daemon.ask("GET /_ping", "");
    assert_eq!((status, body.as_str()), (200, "OK"));
    for line in [
        "Api-Version: 1.53",
        "Ostype: linux",
        "Docker-Experimental: false",
        "Swarm: inactive",
        "Builder-Version: 2",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    let (status, head, _) = daemon.ask("HEAD /v1.24/_ping", "");
    assert!(status == 200 && head.contains("Server: Docker/"));
    for (request, body, status, text) in [
        ("GET /nope", "", 404, "page not found"),
        ("POST /v1.41/info", "", 404, "page not found"),
        (
            "GET /v9.9/info",
            "",
            400,
            "client version 9.9 is too new. Maximum supported API version is 1.53",
        ),
        ("GET /containers/x/json", "", 404, "No such container: x"),
        ("GET /images/x/json", "", 404, "No such image: x:latest"),
        ("GET /networks/x", "", 404, "network x not found"),
        ("GET /volumes/xx", "", 404, "get xx: no such volume"),
        (
            "GET /services",
            "",
            503,
            "This node is not a swarm manager. Use \\\"docker swarm init\\\" or \\\"docker swarm join\\\" to connect this node to swarm and try again.",
        ),
        (
            "GET /containers/json?filters=%7B%22hue%22:%5B%22red%22%5D%7D",
            "",
            400,
            "invalid filter 'hue'",
        ),
        ("POST /containers/create", "", 400, "invalid JSON: got EOF while reading request body"),
        ("POST /containers/create", "{} {}", 400, "unexpected content after JSON"),
        ("POST /containers/create", "{\"Image\":\"nope\"}", 404, "No such image: nope:latest"),
        ("GET /containers/x/logs", "", 400, "must specify at least one of 'stdout' or 'stderr'"),
    ] {
        let (got, head, answer) = daemon.ask(request, body);
        assert_eq!((got, answer), (status, format!("{{\"message\":\"{text}\"}}\n")), "{request}");
        assert!(head.contains("Content-Type: application/json"), "{request}");
    }
    let (_, head, body) = daemon.ask("GET /v1.23/info", "");
    assert!(
        head.contains("Content-Type: text/plain")
            && body.starts_with("client version 1.23 is too old")
    );
    let (status, _, body) = daemon.ask("GET /v1.44/version", "");
    assert!(status == 200 && body.contains("\"MinAPIVersion\":\"1.24\""));
    let (status, _, body) = daemon.ask("GET /info", "");
    assert!(status == 200 && body.contains("\"LocalNodeState\":\"inactive\""));
}

#[test]
fn a_run_is_exact_to_the_byte() {
    let Some(daemon) = Daemon::start() else { return };
    let create = r#"{"Image":"hello-world","HostConfig":{"NetworkMode":"none"}}"#;
    let (status, _, body) = daemon.ask("POST /v1.50/containers/create?name=hello", create);
    assert_eq!(status, 201, "{body}");

    let mut attach = daemon.connect();
    attach
        .write_all(b"POST /v1.50/containers/hello/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(
        read_head(&mut attach),
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );

    let mut wait = daemon.connect();
    wait.write_all(b"POST /v1.50/containers/hello/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    // Before the start: the CLI would hang for ever without this head.
    assert!(read_head(&mut wait).starts_with("HTTP/1.1 200 OK\r\n"));

    assert_eq!(daemon.ask("POST /v1.50/containers/hello/start", "").0, 204);
    let mut output = Vec::new();
    attach.read_to_end(&mut output).unwrap();
    let text = frames(&output);
    assert!(text.contains("Hello from wharf!"), "{text}");
    let mut ended = String::new();
    wait.read_to_string(&mut ended).unwrap();
    assert!(ended.contains("{\"StatusCode\":0}\n"), "{ended}");

    let (_, head, log) = daemon.ask("GET /v1.50/containers/hello/logs?stdout=1", "");
    assert!(head.contains("application/vnd.docker.multiplexed-stream"));
    assert!(log.contains("Hello from wharf!"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let past = format!(
        "GET /v1.50/events?since=1&until={}&filters=%7B%22event%22:%5B%22die%22%5D%7D",
        now.as_secs_f64()
    );
    let (_, _, events) = daemon.ask(&past, "");
    assert!(
        events.contains("\"exitCode\":\"0\"") && events.contains("\"status\":\"die\""),
        "{events}"
    );
    assert_eq!(daemon.ask("DELETE /v1.50/containers/hello", "").0, 204);
}

/// The payloads of multiplexed output, which must be whole frames of stream 1 or 2.
fn frames(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at(8);
        assert!(matches!(header, [1 | 2, 0, 0, 0, ..]), "{header:?}");
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        text.extend(&rest[..length]);
        bytes = &rest[length..];
    }
    String::from_utf8(text).unwrap()
}
