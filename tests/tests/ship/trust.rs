//! Whom registries and their clients believe: certificates, and tokens of another server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519,
    SigningKey as _,
};
use serde_json::json;
use wharf_test::host::Engine;
use wharf_test::namespace::in_network;
use wharf_test::server::{serve, start_at};
use wharf_test::{Host, Output, image, tools};

/// Loopback is trusted blindly, as docker does; this address is not.
const ADDRESS: &str = "192.0.2.5:5000";

/// Writes an authority, and a certificate of it for the registry and one for its clients.
fn certificates(host: &Host) {
    let mut ca = CertificateParams::new([]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    host.write("tls/ca.pem", ca.pem().as_bytes());
    for side in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["192.0.2.5".to_owned()]).unwrap();
        let cert = names.signed_by(&key, &ca).unwrap();
        host.write(&format!("tls/{side}.pem"), cert.pem().as_bytes());
        host.write(&format!("tls/{side}.key"), key.serialize_pem().as_bytes());
    }
}

/// An `/etc` of the host's own, with that file for the registry's name.
fn trust(host: &Host, name: &str, file: &str) {
    let text = std::fs::read(host.dir().join("tls").join(file)).unwrap();
    host.write(&format!("etc/docker/certs.d/{ADDRESS}/{name}"), &text);
}

#[test]
fn certificates_of_an_authority_are_believed_and_others_are_not() {
    let mut host = Host::bare(Engine::Wharf);
    certificates(&host);
    let busybox = tools::path("busybox");
    let inside = |args: &[&str]| Output::of(host.enter(&busybox).args(args), b"").ok();
    inside(&["ip", "addr", "add", "192.0.2.5/32", "dev", "lo"]);
    host.write("etc/docker/none", b"");
    inside(&["mount", "-o", "bind", host.dir().join("etc").to_str().unwrap(), "/etc"]);
    let file = |name: &str| host.dir().join("tls").join(name).display().to_string();
    let mut registry = host.enter(tools::wharf());
    registry.args(["registry", "serve", "--addr", ADDRESS, "--root"]);
    registry.arg(host.dir().join("registry"));
    registry.args(["--tls-cert", &file("server.pem"), "--tls-key", &file("server.key")]);
    registry.args(["--tls-client-ca", &file("ca.pem")]);
    let _server = start_at(&host, registry, ADDRESS);
    host.start_daemon();
    host.load(image::busybox());
    let name = format!("{ADDRESS}/busybox:1");
    host.docker(["tag", "busybox", &name]).ok();
    host.docker(["push", &name]).fails("certificate");
    trust(&host, "ca.crt", "ca.pem");
    // The registry's certificate is believed now; the client has none to show.
    host.docker(["push", &name]).fails("ertificate");
    trust(&host, "client.cert", "client.pem");
    trust(&host, "client.key", "client.key");
    host.docker(["push", &name]).says("1: digest: sha256:");
    host.docker(["rmi", "-f", "busybox", &name]).ok();
    host.docker(["run", "--rm", &name, "echo", "believed"]).says("believed");
}

/// A token server that knows one user, and lets everybody pull.
struct Issuer {
    key: KeyPair,
    /// Signs with this one while it lies.
    other: KeyPair,
    lies: Arc<AtomicBool>,
}

impl Issuer {
    fn serve(self, host: &Host) {
        let listener = in_network(host.init(), || TcpListener::bind("127.0.0.1:5001")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no matter.
                drop(self.answer(&stream));
            }
        });
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut known = false;
        for line in lines {
            let line = line?.to_lowercase();
            // ann:secret
            known |= line == "authorization: basic yw5uonnly3jlda==";
            if line.is_empty() {
                break;
            }
        }
        let target = first.split(' ').nth(1).unwrap_or_default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
        let access: Vec<_> = scopes
            .filter_map(|scope| {
                let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions = actions.split(',').filter(|a| known || *a == "pull");
                Some(json!({"type": kind, "name": name, "actions": actions.collect::<Vec<_>>()}))
            })
            .collect();
        let body = json!({ "token": self.token(known, &access), "expires_in": 300 }).to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn token(&self, known: bool, access: &[serde_json::Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "alg": "EdDSA", "typ": "JWT" });
        let claims = json!({
            "iss": "elsewhere", "aud": "here", "sub": if known { "ann" } else { "" },
            "nbf": now, "exp": now + 300, "access": access
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let key = if self.lies.load(Ordering::Relaxed) { &self.other } else { &self.key };
        let signature = key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[test]
fn tokens_of_another_server_open_the_door() {
    let host = Host::with_busybox();
    let make = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let (key, lies) = (make(), Arc::new(AtomicBool::new(false)));
    let public = host.write("issuer.pem", key.public_key_pem().as_bytes());
    Issuer { key, other: make(), lies: lies.clone() }.serve(&host);
    let _server = serve(
        &host,
        &[
            "--token-realm",
            "http://127.0.0.1:5001/token",
            "--token-service",
            "here",
            "--token-issuer",
            "elsewhere",
            "--token-keys",
            public.to_str().unwrap(),
        ],
    );
    let name = "127.0.0.1:5000/team/busybox:1";
    host.docker(["tag", "busybox", name]).ok();
    host.docker(["push", name]).fails("push access denied");
    let login = ["login", "-u", "ann", "--password-stdin", "127.0.0.1:5000"];
    host.docker_with(b"secret", login).says("Login Succeeded");
    host.docker(["push", name]).says("1: digest: sha256:");
    host.docker(["logout", "127.0.0.1:5000"]).ok();
    host.docker(["rmi", "-f", "busybox", name]).ok();
    host.docker(["pull", name]).says("Downloaded newer image");
    host.docker(["rmi", "-f", name]).ok();
    // Another's signature opens nothing, whoever asks.
    lies.store(true, Ordering::Relaxed);
    host.docker(["pull", "127.0.0.1:5000/team/busybox:2"]).fails("");
    host.docker_with(b"secret", login).fails("unauthorized");
}
