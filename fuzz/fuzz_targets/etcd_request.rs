//! Requests of etcd's API: any bytes behind any method are refused or answered, and the store goes on.
#![no_main]
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use std::time::Duration;
use tower_service::Service as _;
use wharf_etcd::{Door, Embedded, Member, Settings, Store as _, Users};

const METHODS: &[&str] = &[
    "KV/Range",
    "KV/Put",
    "KV/DeleteRange",
    "KV/Txn",
    "KV/Compact",
    "Lease/LeaseGrant",
    "Lease/LeaseRevoke",
    "Lease/LeaseTimeToLive",
    "Lease/LeaseLeases",
    "Maintenance/Alarm",
    "Maintenance/Status",
    "Maintenance/HashKV",
    "Cluster/MemberList",
    "Auth/Authenticate",
];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, message)) = bytes.split_first() else { return };
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
    let store = Embedded::in_memory(&Settings::default()).unwrap();
    let member = Member {
        name: "fuzzed".into(),
        token: "fuzz".into(),
        client_urls: Vec::new(),
        peer_urls: Vec::new(),
        progress: Duration::from_secs(600),
    };
    let mut service = Door::new(store.clone(), member, Users::default()).service();
    let method = METHODS[usize::from(*first) % METHODS.len()];
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0], &length[..], message].concat();
    let request = http::Request::post(format!("http://etcd/etcdserverpb.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(bytes::Bytes::from(frame))))
        .unwrap();
    runtime.block_on(async {
        let answer = service.call(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        _ = answer.into_body().collect().await;
        store.revision().await.unwrap();
    });
});
