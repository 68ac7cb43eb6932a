//! Containers from creation to removal.

use wharf_engine::options::{AttachOptions, RemoveOptions, StopOptions, WaitCondition};

use crate::host::{Host, Test, drain, request, run_to_end};

pub(crate) const TESTS: &[Test] = &[
    ("output_and_status_arrive", |h| Box::pin(output_and_status_arrive(h))),
    ("rm_leaves_nothing", |h| Box::pin(rm_leaves_nothing(h))),
    ("start_failures_have_docker_s_codes", |h| Box::pin(start_failures_have_docker_s_codes(h))),
    ("stop_kill_and_restart", |h| Box::pin(stop_kill_and_restart(h))),
    ("exec_in_a_running_container", |h| Box::pin(exec_in_a_running_container(h))),
    ("the_default_bridge_publishes_ports", |h| Box::pin(the_default_bridge_publishes_ports(h))),
    ("init_reaps_and_passes_signals_on", |h| Box::pin(init_reaps_and_passes_signals_on(h))),
    ("containers_survive_the_daemon", |h| Box::pin(containers_survive_the_daemon(h))),
];

async fn output_and_status_arrive(h: Host) {
    let engine = h.open().await;
    let r = request(&["sh", "-c", "echo out; echo err >&2; echo $FROM; exit 3"]);
    let (code, out, err) = run_to_end(&engine, r).await;
    assert_eq!((code, out.as_str(), err.as_str()), (3, "out\nimage\n", "err\n"));
    let list = engine.list(wharf_engine::options::ListOptions { all: true, ..Default::default() });
    let row = &list.await.unwrap()[0];
    assert!(row.status.starts_with("Exited (3)"), "{}", row.status);
    engine.remove(&row.id, RemoveOptions::default()).await.unwrap();
    engine.shutdown().await;
}

async fn rm_leaves_nothing(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["true"]);
    r.host_config.auto_remove = true;
    let id = engine.create(Some("gone"), r, None).await.unwrap().id;
    let waiter = engine.wait(&id, WaitCondition::Removed).unwrap();
    engine.start(&id).await.unwrap();
    assert_eq!(waiter.await.status_code, 0);
    assert!(engine.inspect(&id, false).await.is_err());
    engine.create(Some("gone"), request(&["true"]), None).await.unwrap();
    engine.remove("gone", RemoveOptions::default()).await.unwrap();
    engine.shutdown().await;
    for dir in ["root/containers", "run/containers"] {
        assert_eq!(std::fs::read_dir(h.dir.join(dir)).unwrap().count(), 0, "{dir}");
    }
}

async fn start_failures_have_docker_s_codes(h: Host) {
    let engine = h.open().await;
    for (command, code, text) in [
        ("absent", 127, "executable file not found in $PATH"),
        ("/absent", 127, "no such file or directory"),
        ("/plain", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        let id = engine.create(None, request(&[command]), None).await.unwrap().id;
        let e = engine.start(&id).await.unwrap_err();
        assert!(e.message().contains(text), "{command}: {}", e.message());
        let state = engine.inspect(&id, false).await.unwrap().state;
        assert_eq!((state.status.as_str(), state.exit_code), ("created", code), "{command}");
        engine.remove(&id, RemoveOptions::default()).await.unwrap();
    }
    engine.shutdown().await;
}

async fn stop_kill_and_restart(h: Host) {
    let engine = h.open().await;
    let script = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done";
    let id = engine.create(None, request(&["sh", "-c", script]), None).await.unwrap().id;
    let attach = AttachOptions { stdout: true, stream: true, ..Default::default() };
    let mut ready = engine.attach(&id, attach).await.unwrap();
    engine.start(&id).await.unwrap();
    // Before its trap the first process of a container ignores the signal.
    futures_util::StreamExt::next(&mut ready.output).await.unwrap().unwrap();
    assert_eq!(engine.start(&id).await.unwrap_err().kind(), wharf_engine::Kind::NotModified);
    engine.pause(&id).await.unwrap();
    assert_eq!(engine.inspect(&id, false).await.unwrap().state.status, "paused");
    engine.unpause(&id).await.unwrap();
    engine.stop(&id, StopOptions::default()).await.unwrap();
    assert_eq!(engine.inspect(&id, false).await.unwrap().state.exit_code, 5);
    engine.restart(&id, StopOptions::default()).await.unwrap();
    let waiter = engine.wait(&id, WaitCondition::NotRunning).unwrap();
    engine.kill(&id, "KILL").await.unwrap();
    assert_eq!(waiter.await.status_code, 137);
    engine.start(&id).await.unwrap();
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    engine.shutdown().await;
}

async fn exec_in_a_running_container(h: Host) {
    let engine = h.open().await;
    let id = engine.create(None, request(&["sleep", "1000"]), None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    let exec = wharf_spec::docker::ExecCreateRequest {
        attach_stdout: true,
        attach_stderr: true,
        cmd: Some(vec!["sh".into(), "-c".into(), "echo in; exit 4".into()]),
        ..Default::default()
    };
    let exec = engine.exec_create(&id, exec).await.unwrap();
    let session = engine.exec_start(&exec, Default::default()).await.unwrap().unwrap();
    assert_eq!(drain(session).await.0, "in\n");
    assert_eq!(engine.exec_inspect(&exec).await.unwrap().exit_code, Some(4));
    let missing = wharf_spec::docker::ExecCreateRequest {
        attach_stdout: true,
        cmd: Some(vec!["absent".into()]),
        ..Default::default()
    };
    let exec = engine.exec_create(&id, missing).await.unwrap();
    let session = engine.exec_start(&exec, Default::default()).await.unwrap().unwrap();
    assert!(drain(session).await.0.contains("executable file not found"));
    assert_eq!(engine.exec_inspect(&exec).await.unwrap().exit_code, Some(127));
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    engine.shutdown().await;
}

async fn containers_survive_the_daemon(h: Host) {
    let engine = h.open().await;
    let r = request(&["sh", "-c", "echo first; cat; exit 6"]);
    let mut r = r;
    r.config.open_stdin = true;
    let id = engine.create(Some("kept"), r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    let pid = engine.inspect(&id, false).await.unwrap().state.pid;
    engine.shutdown().await;
    drop(engine);
    let engine = h.open().await;
    let state = engine.inspect("kept", false).await.unwrap().state;
    assert_eq!((state.status.as_str(), state.pid), ("running", pid));
    let waiter = engine.wait(&id, WaitCondition::NotRunning).unwrap();
    engine.kill(&id, "KILL").await.unwrap();
    assert_eq!(waiter.await.status_code, 137);
    engine.remove("kept", RemoveOptions::default()).await.unwrap();
    engine.shutdown().await;
}

async fn the_default_bridge_publishes_ports(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["httpd", "-f", "-p", "80", "-h", "/data"]);
    r.host_config.network_mode = String::new();
    let binding =
        wharf_spec::docker::PortBinding { host_ip: String::new(), host_port: "8099".into() };
    r.host_config.port_bindings = Some([("80/tcp".to_owned(), Some(vec![binding]))].into());
    let id = engine.create(Some("web"), r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    let shown = engine.inspect(&id, false).await.unwrap().network_settings;
    assert!(
        shown.ip_address.starts_with("172.") && shown.ports.contains_key("80/tcp"),
        "{shown:?}"
    );
    let reply = fetch("127.0.0.1:8099").await;
    assert!(reply.ends_with("from the image\n"), "{reply}");
    let list = engine.list(Default::default()).await.unwrap();
    assert_eq!(list[0].ports[0].public_port, 8099);
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    assert!(tokio::net::TcpStream::connect("127.0.0.1:8099").await.is_err());
    engine.shutdown().await;
}

/// Asks until the server in the container listens.
pub(crate) async fn fetch(at: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for _ in 0..200 {
        let mut text = String::new();
        if let Ok(mut stream) = tokio::net::TcpStream::connect(at).await {
            stream.write_all(b"GET /seed HTTP/1.0\r\n\r\n").await.ok();
            if stream.read_to_string(&mut text).await.is_ok() && !text.is_empty() {
                return text;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("nobody answers at {at}");
}

async fn init_reaps_and_passes_signals_on(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sleep", "1000"]);
    r.host_config.init = Some(true);
    let id = engine.create(None, r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    // Under an init the program has the default action for SIGTERM, so no time runs out.
    engine.stop(&id, StopOptions { timeout: Some(60), ..Default::default() }).await.unwrap();
    assert_eq!(engine.inspect(&id, false).await.unwrap().state.exit_code, 143);
    engine.remove(&id, RemoveOptions::default()).await.unwrap();
    engine.shutdown().await;
}
