//! What runs do by themselves: probes, restarts, limits, terminals, shared namespaces, and what outlives the daemon.

use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use wharf_engine::Engine;
use wharf_engine::options::{AttachOptions, RemoveOptions, WaitCondition};
use wharf_spec::docker::{CreateRequest, ExecCreateRequest, HealthConfig, Mount, RestartPolicy};

use crate::host::{Host, Test, drain, request, run_to_end};

pub(crate) const TESTS: &[Test] = &[
    ("probes_decide_about_health", |h| Box::pin(probes_decide_about_health(h))),
    ("on_failure_restarts_and_gives_up", |h| Box::pin(on_failure_restarts_and_gives_up(h))),
    ("a_pause_goes_on_after_the_daemon", |h| Box::pin(a_pause_goes_on_after_the_daemon(h))),
    ("out_of_memory_is_told", |h| Box::pin(out_of_memory_is_told(h))),
    ("keys_detach_from_a_terminal", |h| Box::pin(keys_detach_from_a_terminal(h))),
    ("memory_is_shared_by_ipc_mode", |h| Box::pin(memory_is_shared_by_ipc_mode(h))),
    ("volumes_come_from_others", |h| Box::pin(volumes_come_from_others(h))),
    ("execs_survive_the_daemon", |h| Box::pin(execs_survive_the_daemon(h))),
    ("attach_shows_the_past_and_goes_on", |h| Box::pin(attach_shows_the_past_and_goes_on(h))),
    ("a_mounted_image_outlives_its_name", |h| Box::pin(a_mounted_image_outlives_its_name(h))),
    ("cgroups_without_a_container_are_swept", |h| {
        Box::pin(cgroups_without_a_container_are_swept(h))
    }),
];

async fn start(engine: &Engine, r: CreateRequest) -> String {
    let id = engine.create(None, r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    id
}

async fn remove(engine: &Engine, id: &str) {
    engine.remove(id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
}

/// Waits for an event of the container.
async fn event(engine: &Engine, begin: std::time::SystemTime, wanted: &str) {
    let mut events = engine.events().subscribe(Some(begin), None);
    let wait = async {
        while let Some(event) = events.next().await {
            if event.action.starts_with(wanted) {
                return;
            }
        }
        panic!("no event {wanted}");
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect(wanted);
}

async fn probes_decide_about_health(h: Host) {
    let engine = h.open().await;
    let begin = std::time::SystemTime::now();
    let mut r = request(&["sleep", "1000"]);
    r.config.healthcheck = Some(HealthConfig {
        test: Some(["CMD-SHELL", "echo seen; test ! -e /tmp/ill"].map(str::to_owned).to_vec()),
        interval: 50_000_000,
        retries: 2,
        ..Default::default()
    });
    let id = start(&engine, r).await;
    event(&engine, begin, "health_status: healthy").await;
    let exec = ExecCreateRequest {
        cmd: Some(["touch", "/tmp/ill"].map(str::to_owned).to_vec()),
        attach_stdout: true,
        ..Default::default()
    };
    let exec = engine.exec_create(&id, exec).await.unwrap();
    drain(engine.exec_start(&exec, Default::default()).await.unwrap().unwrap()).await;
    event(&engine, begin, "health_status: unhealthy").await;
    let health = engine.inspect(&id, false).await.unwrap().state.health.unwrap();
    let log = health.log.unwrap_or_default();
    assert!(health.failing_streak >= 2 && log.iter().any(|l| l.output == "seen\n"));
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn on_failure_restarts_and_gives_up(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sh", "-c", "echo x >> /tmp/runs; exit 7"]);
    r.host_config.restart_policy =
        RestartPolicy { name: "on-failure".into(), maximum_retry_count: 2 };
    let id = engine.create(None, r, None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    let shown = loop {
        // Each end is told, those that a restart follows up as well.
        let ended = engine.wait(&id, WaitCondition::NotRunning).unwrap();
        assert_eq!(ended.await.status_code, 7);
        let shown = engine.inspect(&id, false).await.unwrap();
        if shown.state.status == "exited" {
            break shown;
        }
    };
    assert_eq!(shown.restart_count, 2);
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn a_pause_goes_on_after_the_daemon(h: Host) {
    let engine = h.open().await;
    let begin = std::time::SystemTime::now();
    let mut r = request(&["false"]);
    r.host_config.restart_policy = RestartPolicy { name: "always".into(), ..Default::default() };
    let id = start(&engine, r).await;
    event(&engine, begin, "die").await;
    engine.shutdown().await;
    drop(engine);
    let begin = std::time::SystemTime::now();
    let engine = h.open().await;
    event(&engine, begin, "start").await;
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn out_of_memory_is_told(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"]);
    r.host_config.resources.memory = 16 << 20;
    r.host_config.resources.memory_swap = 16 << 20;
    let begin = std::time::SystemTime::now();
    let id = engine.create(None, r, None).await.unwrap().id;
    let over = engine.wait(&id, WaitCondition::NextExit).unwrap();
    engine.start(&id).await.unwrap();
    assert_ne!(over.await.status_code, 0);
    event(&engine, begin, "oom").await;
    assert!(engine.inspect(&id, false).await.unwrap().state.oom_killed);
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn keys_detach_from_a_terminal(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sh", "-c", "stty -echo; tty; cat"]);
    (r.config.tty, r.config.open_stdin) = (true, true);
    let id = engine.create(None, r, None).await.unwrap().id;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        detach_keys: Some("ctrl-x,q".into()),
        ..Default::default()
    };
    let mut session = engine.attach(&id, options).await.unwrap();
    engine.start(&id).await.unwrap();
    let begin = std::time::SystemTime::now();
    session.input.write_all(b"\x18q").await.unwrap();
    let (out, _) = drain(session).await;
    event(&engine, begin - std::time::Duration::from_secs(5), "detach").await;
    assert!(out.is_empty() || out.starts_with("/dev/"), "{out:?}");
    assert_eq!(engine.inspect(&id, false).await.unwrap().state.status, "running");
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn memory_is_shared_by_ipc_mode(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sh", "-c", "echo shared > /dev/shm/x; exec sleep 1000"]);
    r.host_config.ipc_mode = "shareable".into();
    let id = start(&engine, r).await;
    let script = "while ! test -s /dev/shm/x; do sleep 0.05; done; cat /dev/shm/x";
    let mut r = request(&["sh", "-c", script]);
    r.host_config.ipc_mode = format!("container:{id}");
    let (code, out, err) = run_to_end(&engine, r).await;
    assert_eq!((code, out.as_str()), (0, "shared\n"), "{err}");
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn volumes_come_from_others(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sh", "-c", "echo mine > /data/own"]);
    r.host_config.binds = Some(vec!["theirs:/data".into()]);
    let id = engine.create(Some("giver"), r, None).await.unwrap().id;
    let over = engine.wait(&id, WaitCondition::NextExit).unwrap();
    engine.start(&id).await.unwrap();
    over.await;
    let mut r = request(&["sh", "-c", "cat /data/own; echo x > /data/no"]);
    r.host_config.volumes_from = Some(vec!["giver:ro".into()]);
    let (code, out, err) = run_to_end(&engine, r).await;
    assert!(code != 0 && out == "mine\n" && err.contains("Read-only"), "{code} {out} {err}");
    engine.shutdown().await;
}

async fn execs_survive_the_daemon(h: Host) {
    let engine = h.open().await;
    let id = start(&engine, request(&["sleep", "1000"])).await;
    let script = "while ! test -e /tmp/go; do sleep 0.05; done; exit 9";
    let exec = ExecCreateRequest {
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        ..Default::default()
    };
    let exec = engine.exec_create(&id, exec).await.unwrap();
    let detached = wharf_engine::options::ExecStart { detach: true, ..Default::default() };
    engine.exec_start(&exec, detached).await.unwrap();
    let pid = engine.exec_inspect(&exec).await.unwrap().pid;
    engine.shutdown().await;
    drop(engine);
    let engine = h.open().await;
    let shown = engine.exec_inspect(&exec).await.unwrap();
    assert_eq!((shown.running, shown.pid), (true, pid));
    assert_eq!(shown.process_config.entrypoint, "sh");
    let begin = std::time::SystemTime::now();
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    event(&engine, begin, "exec_die").await;
    assert_eq!(engine.exec_inspect(&exec).await.unwrap().exit_code, Some(9));
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn attach_shows_the_past_and_goes_on(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["sh", "-c", "echo past; cat"]);
    (r.config.open_stdin, r.config.stdin_once) = (true, true);
    let begin = std::time::SystemTime::now();
    let id = start(&engine, r).await;
    event(&engine, begin, "start").await;
    let mut followed = engine
        .logs(
            &id,
            wharf_engine::options::LogOptions { stdout: true, follow: true, ..Default::default() },
        )
        .await
        .unwrap();
    followed.next().await.unwrap().unwrap();
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        logs: true,
        ..Default::default()
    };
    let mut session = engine.attach(&id, options).await.unwrap();
    session.input.write_all(b"more\n").await.unwrap();
    session.input.shutdown().await.unwrap();
    assert_eq!(drain(session).await.0, "past\nmore\n");
    remove(&engine, &id).await;
    engine.shutdown().await;
}

async fn a_mounted_image_outlives_its_name(h: Host) {
    let engine = h.open().await;
    let mut r = request(&["cat", "/side/data/seed"]);
    r.host_config.mounts = Some(vec![Mount {
        kind: "image".into(),
        source: "busybox".into(),
        target: "/side".into(),
        ..Default::default()
    }]);
    let (code, out, err) = run_to_end(&engine, r).await;
    assert_eq!((code, out.as_str()), (0, "from the image\n"), "{err}");
    engine.shutdown().await;
}

async fn cgroups_without_a_container_are_swept(h: Host) {
    let engine = h.open().await;
    let id = start(&engine, request(&["sleep", "1000"])).await;
    remove(&engine, &id).await;
    let id = engine.create(None, request(&["true"]), None).await.unwrap().id;
    // As after a removal that could not take the cgroup away.
    let parent = engine.config().cgroup_parent.clone();
    let dir = format!("/sys/fs/cgroup/pids{parent}/{id}");
    if std::fs::create_dir_all(&dir).is_err() {
        println!("no cgroup v1 pids controller: skipped");
        return;
    }
    engine.remove(&id, RemoveOptions::default()).await.unwrap();
    assert!(std::path::Path::new(&dir).exists());
    engine.shutdown().await;
    drop(engine);
    let engine = h.open().await;
    assert!(!std::path::Path::new(&dir).exists(), "{dir} was left");
    engine.shutdown().await;
}
