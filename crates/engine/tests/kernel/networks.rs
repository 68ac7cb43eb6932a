//! Containers that change networks while they exist.

use wharf_engine::Engine;
use wharf_engine::networks::Networks;
use wharf_engine::options::RemoveOptions;
use wharf_spec::docker::{ExecCreateRequest, NetworkCreateRequest, PortBinding};

use crate::host::{Host, Test, drain, request};

pub(crate) const TESTS: &[Test] = &[
    ("networks_come_and_go_live", |h| Box::pin(networks_come_and_go_live(h))),
    ("ports_follow_the_gateway", |h| Box::pin(ports_follow_the_gateway(h))),
    ("stopped_containers_change_networks", |h| Box::pin(stopped_containers_change_networks(h))),
];

fn make_network(engine: &Engine, name: &str) {
    let networks = Networks::new(engine.net().clone(), engine.events().clone());
    let request = NetworkCreateRequest { name: name.into(), ..Default::default() };
    networks.create(request).unwrap();
}

async fn run(engine: &Engine, id: &str, script: &str) -> String {
    let exec = ExecCreateRequest {
        attach_stdout: true,
        attach_stderr: true,
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        ..Default::default()
    };
    let exec = engine.exec_create(id, exec).await.unwrap();
    drain(engine.exec_start(&exec, Default::default()).await.unwrap().unwrap()).await.0
}

async fn address(engine: &Engine, id: &str, network: &str) -> String {
    let shown = engine.inspect(id, false).await.unwrap().network_settings.networks;
    shown[network].ip_address.clone()
}

async fn networks_come_and_go_live(h: Host) {
    let engine = h.open().await;
    make_network(&engine, "side");
    let mut r = request(&["sleep", "1000"]);
    r.host_config.network_mode = "bridge".into();
    let id = engine.create(Some("box"), r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    engine.connect("side", "box", Default::default()).await.unwrap();
    let ip = address(&engine, &id, "side").await;
    assert!(run(&engine, &id, "ip -4 addr show eth1").await.contains(&ip));
    assert!(run(&engine, &id, "cat /etc/hosts").await.contains(&ip));
    let e = engine.connect("side", "box", Default::default()).await.unwrap_err();
    assert_eq!(e.kind(), wharf_engine::Kind::Forbidden);
    assert!(e.message().contains("already exists in network side"), "{e}");

    engine.shutdown().await;
    drop(engine);
    let engine = h.open().await;
    assert_eq!(address(&engine, &id, "side").await, ip, "lost by the restart of the daemon");
    engine.disconnect("side", &id, false).await.unwrap();
    assert!(!run(&engine, &id, "cat /etc/hosts").await.contains(&ip));
    assert!(!run(&engine, &id, "ip -4 addr").await.contains(&ip));
    let e = engine.disconnect("side", &id, false).await.unwrap_err();
    assert!(e.message().contains("is not connected to network side"), "{e}");
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    engine.shutdown().await;
}

async fn ports_follow_the_gateway(h: Host) {
    let engine = h.open().await;
    make_network(&engine, "second");
    let mut r = request(&["httpd", "-f", "-p", "80", "-h", "/data"]);
    r.host_config.network_mode = "bridge".into();
    let binding = PortBinding { host_ip: String::new(), host_port: String::new() };
    r.host_config.port_bindings = Some([("80/tcp".to_owned(), Some(vec![binding]))].into());
    let id = engine.create(None, r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    let port = |inspect: wharf_spec::docker::ContainerInspect| {
        inspect.network_settings.ports["80/tcp"].as_ref().unwrap()[0].host_port.clone()
    };
    let before = port(engine.inspect(&id, false).await.unwrap());
    engine.connect("second", &id, Default::default()).await.unwrap();
    engine.disconnect("bridge", &id, false).await.unwrap();
    assert_eq!(port(engine.inspect(&id, false).await.unwrap()), before);
    let reply = crate::lifecycle::fetch(&format!("127.0.0.1:{before}")).await;
    assert!(reply.ends_with("from the image\n"), "{reply}");
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    engine.shutdown().await;
}

async fn stopped_containers_change_networks(h: Host) {
    let engine = h.open().await;
    make_network(&engine, "later");
    let mut r = request(&["sleep", "1000"]);
    r.host_config.network_mode = "bridge".into();
    let id = engine.create(None, r, None).await.unwrap().id;
    engine.connect("later", &id, Default::default()).await.unwrap();
    engine.disconnect("bridge", &id, false).await.unwrap();
    engine.start(&id).await.unwrap();
    let shown = engine.inspect(&id, false).await.unwrap().network_settings.networks;
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["later"]);
    assert!(!shown["later"].ip_address.is_empty());
    let host = engine.create(None, request(&["true"]), None).await.unwrap().id;
    let e = engine.connect("later", &host, Default::default()).await.unwrap_err();
    assert_eq!(e.kind(), wharf_engine::Kind::Invalid);
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    engine.shutdown().await;
}
