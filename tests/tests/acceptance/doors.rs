//! The other ways in: TCP with mutual TLS, ssh, and a socket that a service manager opened.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use wharf_test::host::Engine;
use wharf_test::{Host, Output, tools};

/// Writes an authority with a certificate for a server at 127.0.0.1 and one for a client, each as
/// `ca.pem`, `cert.pem` and `key.pem` in a folder of its own.
fn certificates(host: &Host, authority: &str) {
    let mut ca = CertificateParams::new([]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    for side in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), side.to_owned()];
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        let write = |name: &str, text: String| {
            host.write(&format!("{authority}/{side}/{name}"), text.as_bytes());
        };
        write("ca.pem", ca.pem());
        write("cert.pem", cert.pem());
        write("key.pem", key.serialize_pem());
    }
}

/// An engine that listens at 127.0.0.1:2376 for clients of the authority `ours`.
fn tls_host() -> Host {
    let mut host = Host::bare(Engine::chosen());
    certificates(&host, "ours");
    let file = |name: &str| host.dir().join("ours/server").join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let door = ["-H", "tcp://127.0.0.1:2376", "--tlsverify"];
    let files = ["--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    host.set_flags(&[&door[..], &files[..]].concat());
    host.start_daemon();
    host
}

/// A client on the host that uses the certificate in `folder`.
fn tls_client(host: &Host, program: &Path, folder: &str) -> Command {
    let mut c = host.enter(program);
    c.env("HOME", host.dir().join("home")).env("DOCKER_CERT_PATH", host.dir().join(folder));
    c.args(["-H", "tcp://127.0.0.1:2376", "--tlsverify", "info", "--format", "{{.OSType}}"]);
    c
}

#[test]
fn tls_lets_in_whom_the_authority_vouches_for() {
    let host = tls_host();
    for program in [tools::path("docker"), tools::wharf()] {
        let answer = Output::of(&mut tls_client(&host, &program, "ours/client"), b"");
        assert_eq!(answer.ok(), "linux");
    }
}

#[test]
fn tls_keeps_strangers_out() {
    let host = tls_host();
    certificates(&host, "theirs");
    // Who trusts the server, and is vouched for by somebody else.
    let theirs = host.dir().join("theirs/client");
    fs::copy(host.dir().join("ours/client/ca.pem"), theirs.join("ca.pem")).unwrap();
    let stranger = Output::of(&mut tls_client(&host, &tools::path("docker"), "theirs/client"), b"");
    stranger.fails("tls: ");
    // Who does not trust the server.
    certificates(&host, "theirs");
    let wary = Output::of(&mut tls_client(&host, &tools::path("docker"), "theirs/client"), b"");
    wary.fails("x509: ");
    // Who speaks no TLS.
    let mut plain = host.enter(tools::path("docker"));
    plain.env("HOME", host.dir().join("home")).args(["-H", "tcp://127.0.0.1:2376", "version"]);
    let plain = Output::of(&mut plain, b"");
    assert_ne!(plain.code, 0, "{plain}");
}

/// What `ssh HOST COMMAND` comes to when the far end is this host and its `docker` is wharf's.
const SSH: &str = r#"#!/bin/sh
echo "$*" >> "$HOME/ssh-calls"
while [ "$1" != -- ]; do shift; done
shift 2
PATH=$FAR_PATH
DOCKER_HOST=$FAR_HOST
export PATH DOCKER_HOST
exec sh -c "$*"
"#;

#[test]
fn ssh_reaches_the_engine_through_dial_stdio() {
    let host = Host::with_busybox();
    let script = host.write("near/ssh", SSH.as_bytes());
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(host.dir().join("far")).unwrap();
    std::os::unix::fs::symlink(tools::wharf(), host.dir().join("far/docker")).unwrap();
    let with = |dir: &str| format!("{}:/usr/bin:/bin", host.dir().join(dir).display());
    for program in [tools::path("docker"), tools::wharf()] {
        let client = |args: &[&str], stdin: &[u8]| {
            let mut c = host.client(&program);
            c.env("PATH", with("near")).env("FAR_PATH", with("far"));
            c.env("FAR_HOST", format!("unix://{}", host.socket().display()));
            c.env("DOCKER_HOST", "ssh://somebody@far.example:2222").args(args);
            Output::of(&mut c, stdin)
        };
        assert_eq!(client(&["images", "-q"], b"").lines().len(), 1);
        // A connection that is taken over, both ways, to its end.
        let echoed = client(&["run", "--rm", "-i", "busybox", "cat"], b"through and back\n");
        assert_eq!(echoed.ok(), "through and back");
    }
    let calls = fs::read_to_string(host.dir().join("home/ssh-calls")).unwrap();
    let all = |word: &str| calls.lines().all(|call| call.contains(word));
    assert!(all("somebody") && all("2222") && all("docker system dial-stdio"), "{calls}");
}

#[test]
fn a_socket_of_the_service_manager_is_a_door() {
    let mut host = Host::bare(Engine::chosen());
    let path = host.dir().join("activated");
    host.set_flags(&["-H", "fd://"]);
    host.start_daemon_on(UnixListener::bind(&path).unwrap());
    let mut c = host.docker_command();
    c.env("DOCKER_HOST", format!("unix://{}", path.display())).args(["info", "-f", "{{.OSType}}"]);
    assert_eq!(Output::of(&mut c, b"").ok(), "linux");
}
