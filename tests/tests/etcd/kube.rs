//! The API server over real etcd clusters: the recorded exchanges, and stock kubectl while members die.

use crate::golden;
use crate::member::{Member, free_port, scratch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wharf_etcd::{
    Cluster, KeyRange, Mirror, Put, Range, Remote, Store as _, WatchItem, WatchRequest,
};
use wharf_test::eventually;
use wharf_test::http::exchange;

/// Debian's etcd in so many members that talk to each other.
fn members(dir: &Path, count: usize) -> Vec<Member> {
    let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
    let start = |n| Member::etcd(&dir.join(format!("m{n}")), n, &ports);
    (0..count).map(start).collect()
}

fn endpoints(members: &[Member]) -> Vec<String> {
    members.iter().map(Member::endpoint).collect()
}

async fn ready(endpoints: Vec<String>) -> Remote {
    let cluster = Cluster { endpoints, ..Cluster::default() };
    let store = Remote::connect(cluster).await.unwrap();
    for _ in 0..600 {
        if store.revision().await.is_ok() {
            return store;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the cluster does not answer");
}

#[test]
fn recorded_exchanges_come_out_the_same_over_etcd() {
    for count in [1, 3] {
        let dir = scratch(&format!("golden-{count}"));
        let members = members(&dir, count);
        crate::block_on(async {
            // As `wharf kube serve --etcd` has it: reads and watches come from a copy.
            let store = ready(endpoints(&members)).await;
            let store = Mirror::open(store, "/registry/").await.unwrap();
            golden::play(&golden::server_on(Arc::new(store)).await).await;
        });
        drop(members);
    }
}

#[test]
fn kubectl_works_while_members_die() {
    let dir = scratch("kubectl");
    let mut members = members(&dir, 3);
    crate::block_on(async { ready(endpoints(&members)).await });
    let urls = endpoints(&members).join(",");
    let k = wharf_test::kube::Cluster::with(&["--etcd", &urls]);
    for (round, member) in members.iter_mut().enumerate() {
        member.kill();
        let name = format!("c{round}");
        // A write whose fate is unknown is reported; the next one goes to a member that lives.
        eventually("a write", || {
            let mut c = k.kubectl(&format!("create configmap {name} --from-literal=a=b"));
            let done = wharf_test::program::run(&mut c, b"");
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            (done.status.success() || text.contains("already exists")).then_some(())
        });
        member.restart();
        k.until(&format!("get configmap {name} -o jsonpath={{.data.a}}"), "b");
    }
    k.until("get configmap -o name", "configmap/kube-root-ca.crt");
    k.check("create namespace n", 0, "created");
    k.until("get serviceaccount default -n n -o name", "serviceaccount/default");
    k.check("delete namespace n --timeout=60s", 0, "deleted");
    drop(members);
}

/// What a member says of itself under a name, summed over its labels.
fn metric(member: &Member, name: &str) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", member.port)).unwrap();
    let headers = [("Connection", "close")];
    let answer = exchange(&mut stream, "GET", "/metrics", &headers, b"").unwrap();
    let text = answer.text();
    let lines = text.lines().filter(|l| l.starts_with(name));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn watchers_and_readers_of_a_copy_cost_the_cluster_nothing() {
    const WATCHERS: usize = 200;
    const WRITES: usize = 100;
    let dir = scratch("copy");
    let mut members = members(&dir, 3);
    crate::block_on(async {
        let remote = ready(endpoints(&members)).await;
        let mirror = Mirror::open(remote.clone(), "/registry/").await.unwrap();
        let keys = || KeyRange::prefix("/registry/pods/");
        let mut watches = Vec::new();
        for _ in 0..WATCHERS {
            watches.push(mirror.watch(WatchRequest::new(keys())).await.unwrap());
        }
        let watchers: f64 =
            members.iter().map(|m| metric(m, "etcd_debugging_mvcc_watcher_total")).sum();
        assert!(watchers <= 1.0, "{watchers} watchers in etcd");
        let mut last = None;
        for n in 0..WRITES {
            // Half of them by somebody else, and the stream changes its member on the way.
            let store: &dyn wharf_etcd::Store = if n % 2 == 0 { &mirror } else { &remote };
            if n == WRITES / 2 {
                members[0].kill();
            }
            let put = Put::new(format!("/registry/pods/n/{n}"), n.to_string());
            // A write whose fate is unknown is written again: the last one counts.
            let done = loop {
                match store.put(put.clone()).await {
                    Ok(done) => break done,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            };
            last = Some(done.revision);
            let all = mirror.range(Range::new(keys())).await.unwrap();
            assert!(all.revision >= done.revision);
            assert_eq!(all.kvs.len(), n + 1);
        }
        for watch in &mut watches {
            let mut seen = Vec::new();
            while seen.last() != last.as_ref() {
                if let WatchItem::Events { events, .. } = watch.next().await.unwrap() {
                    seen.extend(events.iter().map(|e| e.kv.mod_revision()));
                }
            }
            let ordered = seen.windows(2).all(|w| w[0] < w[1]);
            assert!(ordered && seen.len() >= WRITES, "{seen:?}");
        }
    });
    drop(members);
}

/// An authority, and one certificate of it for a member and for a client.
fn certificates(dir: &Path) -> [PathBuf; 3] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let files = ["ca.crt", "tls.crt", "tls.key"].map(|name| dir.join(name));
    std::fs::write(&files[0], authority.pem()).unwrap();
    std::fs::write(&files[1], certificate.pem()).unwrap();
    std::fs::write(&files[2], key.serialize_pem()).unwrap();
    files
}

#[test]
fn members_are_reached_by_certificate() {
    let dir = scratch("kube-tls");
    let files = certificates(&dir);
    let [ca, certificate, key] = files.each_ref().map(|f| f.to_str().unwrap());
    let flags = [
        "--cert-file",
        certificate,
        "--key-file",
        key,
        "--trusted-ca-file",
        ca,
        "--client-cert-auth",
    ];
    let member = Member::wharf_with(&dir.join("data"), "https", &flags).listening();
    let url = format!("https://127.0.0.1:{}", member.port);
    let k = wharf_test::kube::Cluster::with(&[
        "--etcd",
        &url,
        "--etcd-cafile",
        ca,
        "--etcd-certfile",
        certificate,
        "--etcd-keyfile",
        key,
    ]);
    k.check("create configmap c --from-literal=a=b", 0, "created");
    k.check("get configmap c -o jsonpath={.data.a}", 0, "b");
    drop(k);
    drop(member);
}
