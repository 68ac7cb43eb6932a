//! Processes of wharf that die under running containers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use tokio::io::AsyncWriteExt as _;
use wharf_base::clock::Clock;
use wharf_keeper::Keeper;
use wharf_keeper::client::{KeeperError, bury, exit_on_file};
use wharf_keeper::log::LogFormat;
use wharf_keeper::protocol::{AttachOptions, ExecIo, ExecRequest, Exit, IoConfig, Launch};

use crate::host::{
    Host, acknowledge, cgroup_exists, finish, gone, kill, log_of, output, parent, pidfd, stream,
    until,
};

/// Another process that launches what it finds in `file` and waits to be killed.
pub(crate) fn daemon(file: &str) -> ExitCode {
    let (launch, exec): (Launch, ExecRequest) =
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::at(tempfile::tempdir().unwrap());
        let launched = host.launch(launch).await.unwrap();
        let _exec = launched.keeper.exec(exec, &[]).await.unwrap();
        println!("{}", host.launcher.pid());
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

/// Starts such a daemon and returns when its container runs, with the launcher's pid.
#[allow(clippy::disallowed_methods, reason = "a test's own second process")]
fn start_daemon(dir: &Path, launch: &Launch, exec: &ExecRequest) -> (Child, i32) {
    let file = dir.join("launch.json");
    wharf_base::fs::write_atomic(
        &file,
        &serde_json::to_vec(&(launch, exec)).unwrap(),
        0o600,
        wharf_base::fs::Durability::Process,
    )
    .unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("daemon")
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn exec_in(host: &Host, launch: &Launch, script: &str) -> ExecRequest {
    ExecRequest {
        id: "e".into(),
        plan: host.exec_plan(&launch.plan, &["sh", "-c", script], false),
        io: ExecIo::Kept { io: IoConfig::default(), attach: None },
    }
}

pub(crate) async fn a_container_outlives_its_daemon(host: Host) {
    let mut launch = host.shell("read x; echo got $x; read y; exit 6");
    launch.io = IoConfig { tty: None, open_stdin: true, stdin_once: false };
    let exec = exec_in(&host, &launch, "exit 8");
    let (mut daemon, launcher) = start_daemon(host.dir.path(), &launch, &exec);
    let launcher = pidfd(launcher).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    gone(&launcher);
    let (keeper, state) = Keeper::reconnect(&launch.dir).await.unwrap();
    let mut watch = keeper.watch().await.unwrap();
    // The exec of the dead daemon, and its result.
    let mut exec = keeper.exec_watch("e", state.execs[0].pid).await.unwrap();
    assert_eq!(exec.ended().await.unwrap().code, 8);
    drop(exec);
    let (mut client, theirs) = stream();
    let options = AttachOptions { stdin: true, ..output() };
    let mut attachment = keeper.attach(options, theirs).await.unwrap();
    client.write_all(b"me\n").await.unwrap();
    until(&mut client, "got me\n").await;
    client.write_all(b"bye\n").await.unwrap();
    assert_eq!(watch.exit().await.unwrap().code, 6);
    attachment.ended().await.unwrap();
    assert_eq!(log_of(&launch.log.path, LogFormat::JsonFile), "got me\n");
    acknowledge(&keeper).await;
    assert!(matches!(watch.next().await, Err(KeeperError::Gone)));
}

pub(crate) async fn an_end_without_a_daemon_is_on_file(host: Host) {
    let launch = host.container(&["sleep", "1000"]);
    let exec = exec_in(&host, &launch, "sleep 1000");
    let (mut daemon, _) = start_daemon(host.dir.path(), &launch, &exec);
    let (_, state) = Keeper::reconnect(&launch.dir).await.unwrap();
    let keeper = pidfd(parent(state.started.pid).unwrap()).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    kill(state.started.pid);
    gone(&keeper);
    assert!(matches!(Keeper::reconnect(&launch.dir).await, Err(KeeperError::Gone)));
    let exit = exit_on_file(&launch.dir).unwrap().unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(bury(&launch.dir, &Clock::system()).unwrap(), Some(exit));
    assert!(!cgroup_exists(&launch.plan));
}

pub(crate) async fn a_dead_launcher_is_replaced(host: Host) {
    let mut launch = host.shell("read x; exit 2");
    launch.io = IoConfig { tty: None, open_stdin: true, stdin_once: true };
    let first = host.launch(launch).await.unwrap();
    let dead = host.launcher.pid();
    kill(dead.try_into().unwrap());
    let second = host.launch(host.shell("exit 5")).await.unwrap();
    assert_ne!(host.launcher.pid(), dead);
    assert_eq!(finish(second).await.code, 5);
    let (mut client, theirs) = stream();
    let options = AttachOptions { stdin: true, ..output() };
    first.keeper.attach(options, theirs).await.unwrap();
    client.write_all(b"\n").await.unwrap();
    assert_eq!(finish(first).await.code, 2);
}

pub(crate) async fn a_dead_keeper_takes_its_container_along(host: Host) {
    let launch = host.shell("sleep 1000 & sleep 1000");
    let mut launched = host.launch(launch.clone()).await.unwrap();
    let init = pidfd(launched.started.pid).unwrap();
    kill(parent(launched.started.pid).unwrap());
    assert!(matches!(launched.watch.next().await, Err(KeeperError::Gone)));
    let exit = bury(&launch.dir, &Clock::system()).unwrap().unwrap();
    assert!(matches!(exit, Exit { code: 137, signal: Some(9), oom: false, .. }));
    gone(&init);
    assert!(!cgroup_exists(&launch.plan));
    assert_eq!(bury(&launch.dir, &Clock::system()).unwrap(), Some(exit));
}
