//! What a person does with etcdctl, against wharf.

use crate::member::{Member, ctl, free_port, scratch};
use crate::{block_on, suite};
use std::process::{Command, Stdio};
use wharf_etcd::{Cluster, Remote};
use wharf_test::{Output, program::Talk, tools};

#[test]
fn etcdctl_reads_and_writes() {
    let data = scratch("tour");
    let m = Member::wharf(&data).listening();
    assert_eq!(m.ctl(&["put", "foo", "bar"]).ok(), "OK");
    assert_eq!(m.ctl(&["put", "foo", "baz", "--prev-kv"]).ok(), "OK\nfoo\nbar");
    assert_eq!(m.ctl(&["get", "foo"]).ok(), "foo\nbaz");
    assert_eq!(m.ctl(&["get", "foo", "--rev", "2", "--print-value-only"]).ok(), "bar");
    m.ctl(&["put", "foo2", "a"]).ok();
    m.ctl(&["put", "food", "b"]).ok();
    assert_eq!(m.ctl(&["get", "--prefix", "foo", "--keys-only"]).ok(), "foo\n\nfoo2\n\nfood");
    let sorted = ["get", "--prefix", "foo", "--order", "DESCEND", "--sort-by", "VALUE"];
    assert_eq!(m.ctl(&[&sorted[..], &["--print-value-only"]].concat()).ok(), "baz\nb\na");
    let limited = ["get", "--prefix", "foo", "--limit", "1", "-w", "json"];
    let limited: serde_json::Value = serde_json::from_str(&m.ctl(&limited).ok()).unwrap();
    assert_eq!((&limited["more"], &limited["count"]), (&true.into(), &3.into()));
    assert_eq!(m.ctl(&["get", "foo", "food"]).ok(), "foo\nbaz\nfoo2\na", "up to, not including");
    assert_eq!(m.ctl(&["get", "--from-key", "foo2"]).ok(), "foo2\na\nfood\nb");
    let txn = b"mod(\"foo\") > \"2\"\nvalue(\"food\") = \"b\"\n\nput foo won\nget food\n\nput foo lost\n\n";
    assert_eq!(m.ctl_with(&["txn"], txn).ok(), "SUCCESS\n\nOK\n\nfood\nb");
    let txn = b"version(\"foo\") = \"1\"\n\nput foo won\n\nget foo\n\n";
    assert_eq!(m.ctl_with(&["txn"], txn).ok(), "FAILURE\n\nfoo\nwon");
    assert_eq!(m.ctl(&["del", "--prefix", "foo", "--prev-kv"]).ok().lines().next(), Some("3"));
    assert_eq!(m.ctl(&["get", "--prefix", ""]).ok(), "");
    let empty = m.ctl(&["put", "", "x"]);
    assert!(empty.code != 0 && empty.stderr.contains("etcdserver: key is not provided"));
    m.stop();
}

#[test]
fn etcdctl_watches_leases_and_locks() {
    let data = scratch("watch");
    let m = Member::wharf(&data).listening();
    let endpoints = format!("--endpoints=127.0.0.1:{}", m.port);
    m.ctl(&["put", "w/0", "before"]).ok();
    let mut watch = Talk::start(ctl().args([&endpoints, "watch", "--prefix", "w/", "--rev=2"]));
    watch.expect("PUT\nw/0\nbefore\n");
    let lease = m.ctl(&["lease", "grant", "600"]).ok();
    let id = lease.split_whitespace().nth(1).unwrap();
    m.ctl(&["put", "--lease", id, "w/1", "leased"]).ok();
    watch.expect("PUT\nw/1\nleased\n");
    let info = m.ctl(&["lease", "timetolive", "--keys", id]).ok();
    assert!(info.contains("granted with TTL(600s)") && info.contains("attached keys([w/1])"));
    assert!(m.ctl(&["lease", "list"]).ok().contains(id));
    let renewed = m.ctl(&["lease", "keep-alive", "--once", id]).ok();
    assert_eq!(renewed, format!("lease {id} keepalived with TTL(600)"));
    m.ctl(&["lease", "revoke", id]).ok();
    watch.expect("DELETE\nw/1\n");
    let gone = m.ctl(&["lease", "revoke", id]);
    assert!(gone.stderr.contains("requested lease not found"), "{}", gone.stderr);
    assert_eq!(m.ctl(&["lock", "l", "echo", "inside"]).ok(), "inside");
    let mut leader = Talk::start(ctl().args([&endpoints, "elect", "e", "me"]));
    leader.expect("me");
    m.ctl(&["compaction", "4"]).ok();
    let old = m.ctl(&["get", "w/0", "--rev", "2"]);
    assert!(old.stderr.contains("required revision has been compacted"), "{}", old.stderr);
    let late = m.ctl(&["watch", "w/0", "--rev", "2"]);
    assert!(late.code != 0 && (late.stdout + &late.stderr).contains("compacted"));
    m.stop();
}

#[test]
fn etcdctl_looks_after_a_member() {
    let data = scratch("maintenance");
    let m = Member::wharf_with(&data, "http", &["--name", "alone"]).listening();
    let health = m.ctl(&["endpoint", "health"]);
    // Where it is said differs between etcdctl's releases.
    assert!((health.ok() + &health.stderr).contains("is healthy"));
    let status = m.ctl(&["endpoint", "status", "-w", "json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let header = &status[0]["Status"]["header"];
    assert_eq!(status[0]["Status"]["leader"], header["member_id"]);
    let members = m.ctl(&["member", "list"]).ok();
    assert!(members.contains("started, alone"), "{members}");
    assert_eq!(m.ctl(&["alarm", "list"]).ok(), "");
    assert!(m.ctl(&["defrag"]).ok().starts_with("Finished defragmenting"));
    // What there is not is refused by its name.
    for (words, named) in [
        (&["member", "add", "two", "--peer-urls=http://127.0.0.1:1"][..], "member add"),
        (&["move-leader", "1"], "bad leader transferee"),
    ] {
        let refused = m.ctl(words);
        assert!(refused.code != 0 && refused.stderr.contains(named), "{}", refused.stderr);
    }
    let flag = Output::of(Command::new(tools::wharf()).args(["etcd", "--enable-pprof"]), b"");
    assert!(flag.code != 0 && flag.stderr.contains("--enable-pprof"));
    m.stop();
}

#[test]
fn a_full_store_raises_the_alarm() {
    let data = scratch("quota");
    let m = Member::wharf_with(&data, "http", &["--quota-backend-bytes", "100000"]).listening();
    let big = "x".repeat(30_000);
    for n in 0..3 {
        m.ctl(&["put", &format!("k{n}"), &big]).ok();
    }
    let full = m.ctl(&["put", "k3", &big]);
    assert!(full.stderr.contains("etcdserver: mvcc: database space exceeded"), "{}", full.stderr);
    assert!(m.ctl(&["alarm", "list"]).ok().contains("alarm:NOSPACE"));
    assert!(m.ctl(&["put", "small", "x"]).code != 0, "the alarm stands until it is disarmed");
    m.ctl(&["del", "--prefix", "k"]).ok();
    let status = m.ctl(&["endpoint", "status", "-w", "json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    m.ctl(&["compaction", &revision, "--physical"]).ok();
    m.ctl(&["alarm", "disarm"]).ok();
    m.ctl(&["put", "small", "x"]).ok();
    m.stop();
}

#[test]
fn certificates_keep_strangers_out() {
    let dir = scratch("tls");
    let pki = Pki::new(&dir);
    let flags = [
        "--cert-file",
        &pki.path("server.crt"),
        "--key-file",
        &pki.path("server.key"),
        "--trusted-ca-file",
        &pki.path("ca.crt"),
        "--client-cert-auth",
    ];
    let m = Member::wharf_with(&dir.join("data"), "https", &flags).listening();
    let endpoint = format!("https://127.0.0.1:{}", m.port);
    let endpoints = format!("--endpoints={endpoint}");
    let authority = format!("--cacert={}", pki.path("ca.crt"));
    let with = |more: &[&str]| {
        let mut command = Command::new(tools::path("etcdctl"));
        command.env("ETCDCTL_API", "3").args([&endpoints, &authority]).args(more);
        Output::of(command.args(["put", "a", "1"]), b"")
    };
    let cert = format!("--cert={}", pki.path("client.crt"));
    let key = format!("--key={}", pki.path("client.key"));
    assert_eq!(with(&[&cert, &key]).ok(), "OK");
    assert!(with(&["--dial-timeout=1s", "--command-timeout=2s"]).code != 0);
    // And wharf's own client.
    let read = |name: &str| std::fs::read(pki.path(name)).unwrap();
    let cluster = Cluster {
        endpoints: vec![endpoint],
        authority: Some(read("ca.crt")),
        identity: Some((read("client.crt"), read("client.key"))),
        user: None,
    };
    block_on(async {
        let store = Remote::connect(cluster).await.unwrap();
        let range = wharf_etcd::Range::new(wharf_etcd::KeyRange::key("a"));
        assert_eq!(wharf_etcd::Store::range(&store, range).await.unwrap().count, 1);
    });
    // Once users are asked for, the name in the certificate is one.
    let ctl = |line: &str| {
        let mut command = Command::new(tools::path("etcdctl"));
        command.env("ETCDCTL_API", "3").args([&endpoints, &authority, &cert, &key]);
        Output::of(command.args(line.split(' ')), b"")
    };
    for line in [
        "user add root:pw",
        "user add client --no-password",
        "role add r",
        "role grant-permission r readwrite a",
        "user grant-role client r",
        "auth enable",
    ] {
        ctl(line).ok();
    }
    assert_eq!(ctl("put a 2").ok(), "OK");
    assert!(ctl("put b 2").stderr.contains("permission denied"));
    assert_eq!(ctl("put b 2 --user root:pw").ok(), "OK", "a password goes before a certificate");
    m.stop();
}

/// An authority with a server and a client, as files.
struct Pki(std::path::PathBuf);

impl Pki {
    fn new(dir: &std::path::Path) -> Pki {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.crt", params.self_signed(&key).unwrap().pem());
        let authority = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            write(&format!("{name}.crt"), params.signed_by(&key, &authority).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Pki(dir.to_owned())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

#[test]
fn snapshots_and_hashes_are_those_of_etcd() {
    let dir = scratch("snapshots");
    let ports = [(free_port(), free_port())];
    let etcd = Member::etcd(&dir.join("etcd"), 0, &ports).listening();
    let wharf = Member::wharf(&dir.join("wharf")).listening();
    for m in [&etcd, &wharf] {
        for n in 0..9 {
            m.ctl(&["put", &format!("k{}", n % 4), &format!("v{n}")]).ok();
        }
        m.ctl(&["del", "k1"]).ok();
        m.ctl_with(&["txn"], b"\nput a 1\nput b 2\ndel k2\n\n\n").ok();
    }
    let hash =
        |m: &Member| m.ctl(&["endpoint", "hashkv"]).ok().split(", ").nth(1).map(str::to_owned);
    assert_eq!(hash(&etcd), hash(&wharf));
    let mut compacted = None;
    for revision in ["5", "8", "12"] {
        for m in [&etcd, &wharf] {
            m.ctl(&["compaction", revision, "--physical"]).ok();
        }
        compacted = hash(&etcd);
        assert_eq!(compacted, hash(&wharf), "compacted at {revision}");
    }
    let all = etcd.ctl(&["get", "--prefix", ""]).ok();
    let saved = |m: &Member, name: &str| {
        let file = dir.join(name).display().to_string();
        m.ctl(&["snapshot", "save", &file]).ok();
        file
    };
    let (of_etcd, of_wharf) = (saved(&etcd, "etcd.db"), saved(&wharf, "wharf.db"));
    assert!(ctl_local(&["snapshot", "status", &of_wharf]).ok().contains(", 12, "), "its revision");
    etcd.stop();
    wharf.stop();

    let to = dir.join("from-etcd");
    let restore = ["etcd", "snapshot", "restore", &of_etcd, "--data-dir"];
    Output::of(Command::new(tools::wharf()).args(restore).arg(&to), b"").ok();
    let wharf = Member::wharf(&to).listening();
    assert_eq!(
        (wharf.ctl(&["get", "--prefix", ""]).ok(), hash(&wharf)),
        (all.clone(), compacted.clone())
    );
    wharf.stop();

    let to = dir.join("from-wharf");
    let (client, peer) = (free_port(), free_port());
    let peer_url = format!("http://127.0.0.1:{peer}");
    ctl_local(&[
        "snapshot",
        "restore",
        &of_wharf,
        "--name=m0",
        &format!("--initial-cluster=m0={peer_url}"),
        &format!("--initial-advertise-peer-urls={peer_url}"),
        &format!("--data-dir={}", to.display()),
    ])
    .ok();
    let etcd = Member::etcd(&to, 0, &[(client, peer)]).listening();
    assert_eq!((etcd.ctl(&["get", "--prefix", ""]).ok(), hash(&etcd)), (all, compacted));
    etcd.stop();
    // A snapshot that lost a byte is refused.
    let mut bytes = std::fs::read(&of_wharf).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(dir.join("bad.db"), bytes).unwrap();
    let status = ["etcd", "snapshot", "status"];
    let bad = Output::of(Command::new(tools::wharf()).args(status).arg(dir.join("bad.db")), b"");
    assert!(bad.code != 0 && bad.stderr.contains("checksum"), "{}", bad.stderr);
}

/// etcdctl without a member.
fn ctl_local(words: &[&str]) -> Output {
    let mut command = Command::new(tools::path("etcdctl"));
    Output::of(command.env("ETCDCTL_API", "3").args(words).stderr(Stdio::piped()), b"")
}

#[test]
fn a_real_etcd_passes_the_suite_of_stores() {
    let dir = scratch("suite");
    let etcd = Member::etcd(&dir, 0, &[(free_port(), free_port())]).listening();
    block_on(async {
        let endpoints = vec![etcd.endpoint()];
        let cluster = Cluster { endpoints, ..Cluster::default() };
        let store = Remote::connect(cluster).await.unwrap();
        suite::check(&store).await;
        suite::remains(&store).await;
    });
    etcd.stop();
}
