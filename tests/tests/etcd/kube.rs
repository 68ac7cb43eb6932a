//! The API server over real etcd clusters: the recorded exchanges, and stock kubectl while members die.

use crate::golden;
use crate::member::{Member, free_port, scratch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wharf_etcd::{Cluster, Remote, Store as _};
use wharf_test::eventually;

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
            let store = ready(endpoints(&members)).await;
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
