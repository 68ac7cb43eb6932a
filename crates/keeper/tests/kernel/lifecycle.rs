//! From launch to acknowledged end.

use std::os::fd::AsFd as _;

use serde_json::json;
use wharf_keeper::LaunchError;
use wharf_keeper::client::{Event, KeeperError, exit_on_file};
use wharf_keeper::log::LogFormat;
use wharf_keeper::protocol::FaultKind;
use wharf_sys::process::pidfd_signal;

use crate::host::{Host, cgroup_exists, finish, gone, log_of, parent, pidfd};

pub(crate) async fn output_exit_and_acknowledgement(host: Host) {
    let launch = host.shell("echo out; echo err >&2; echo -n open; exit 7");
    let mut launched = host.launch(launch.clone()).await.unwrap();
    let exit = launched.watch.exit().await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom), (7, None, false));
    assert!(exit.at >= launched.started.at);
    // On file and out of the cgroup before anyone is told.
    assert_eq!(exit_on_file(&launch.dir).unwrap(), Some(exit));
    assert!(!cgroup_exists(&launch.plan));
    // The keeper stays for those who come late.
    let state = launched.keeper.state().await.unwrap();
    assert_eq!((state.exit, state.started), (Some(exit), launched.started));
    assert_eq!(launched.keeper.watch().await.unwrap().exit().await.unwrap(), exit);
    launched.keeper.acknowledge().await.unwrap();
    assert!(matches!(launched.watch.next().await, Err(KeeperError::Gone)));
    launched.keeper.acknowledge().await.unwrap();
    let log = log_of(&launch.log.path, LogFormat::JsonFile);
    let mut lines: Vec<&str> = log.split_inclusive('\n').collect();
    lines.sort_unstable();
    assert!(log.len() == 12 && lines.iter().any(|l| l.ends_with("err\n")), "{log:?}");
}

pub(crate) async fn a_program_that_cannot_run_leaves_nothing(host: Host) {
    let cases = [
        ("nonesuch", FaultKind::NotFound, "exec: \"nonesuch\": executable file not found in $PATH"),
        ("/bin/nonesuch", FaultKind::NotFound, "no such file or directory"),
        ("/tmp", FaultKind::NotExecutable, "is a directory"),
        ("/file", FaultKind::NotExecutable, "permission denied"),
    ];
    std::fs::File::create(host.dir.path().join("rootfs/file")).unwrap();
    for (program, kind, text) in cases {
        let launch = host.container(&[program]);
        let Err(LaunchError::Fault(fault)) = host.launch(launch.clone()).await else { panic!() };
        assert_eq!(fault.kind, kind, "{}", fault.message);
        assert!(fault.message.contains(text), "{}", fault.message);
        assert!(!cgroup_exists(&launch.plan), "{program}");
        let left: Vec<_> =
            std::fs::read_dir(&launch.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty() || left == ["log"], "{left:?}");
    }
}

pub(crate) async fn signals_give_their_exit_status(host: Host) {
    for (signal, code) in [(15, 9), (9, 137)] {
        let launch = host.shell("trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done");
        let launched = host.launch(launch).await.unwrap();
        let keeper = pidfd(parent(launched.started.pid).unwrap()).unwrap();
        let mut log = launched.keeper.follow_log().await.unwrap();
        log.arm().await.unwrap();
        while log_of(&launched.keeper.dir().join("log"), LogFormat::JsonFile).is_empty() {
            assert!(log.grew().await.unwrap());
            log.arm().await.unwrap();
        }
        launched.keeper.signal(signal).await.unwrap();
        assert_eq!(finish(launched).await.code, code);
        gone(&keeper);
    }
}

pub(crate) async fn out_of_memory_is_told(host: Host) {
    let resources = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let script = ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 0"];
    let launch = host.limited(&script, resources);
    let mut launched = host.launch(launch).await.unwrap();
    assert_eq!(launched.watch.next().await.unwrap(), Event::Oom);
    let Event::Exited(exit) = launched.watch.next().await.unwrap() else { panic!() };
    assert!(exit.oom && exit.code == 0, "{exit:?}");
    launched.keeper.acknowledge().await.unwrap();
}

pub(crate) async fn everything_written_before_the_end_is_logged(host: Host) {
    let launch = host.shell("seq 1 20000; sleep 100 & exit 0");
    let path = launch.log.path.clone();
    let launched = host.launch(launch).await.unwrap();
    assert_eq!(finish(launched).await.code, 0);
    let want: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    assert!(log_of(&path, LogFormat::JsonFile) == want);
}

pub(crate) async fn an_init_reaps_and_passes_signals_on(host: Host) {
    let script = "trap 'exit 9' TERM; (sleep 0.01 &); sleep 0.2; \
        for s in /proc/[0-9]*/stat; do read p c state rest < $s; echo $state; done; \
        echo $$; while :; do sleep 0.1; done";
    let mut launch = host.shell(script);
    launch.plan.reaper = true;
    let path = launch.log.path.clone();
    let launched = host.launch(launch).await.unwrap();
    let mut signal = launched.keeper.follow_log().await.unwrap();
    signal.arm().await.unwrap();
    while !log_of(&path, LogFormat::JsonFile).ends_with("2\n") {
        assert!(signal.grew().await.unwrap());
        signal.arm().await.unwrap();
    }
    assert!(!log_of(&path, LogFormat::JsonFile).contains('Z'));
    launched.keeper.signal(15).await.unwrap();
    assert_eq!(finish(launched).await.code, 9);
    let mut missing = host.container(&["/bin/nonesuch"]);
    missing.plan.reaper = true;
    let Err(LaunchError::Fault(fault)) = host.launch(missing).await else { panic!() };
    assert_eq!(fault.kind, FaultKind::NotFound);
}

/// Who starts a container again waits for its keeper's word, not for its keeper's end.
pub(crate) async fn a_keeper_that_ends_late_leaves_the_next_one_alone(host: Host) {
    const STOP: i32 = 19;
    const CONT: i32 = 18;
    let mut first = host.launch(host.container(&["sleep", "1000"])).await.unwrap();
    let late = pidfd(parent(first.started.pid).unwrap()).unwrap();
    first.keeper.signal(9).await.unwrap();
    assert_eq!(first.watch.exit().await.unwrap().code, 137);
    pidfd_signal(late.as_fd(), STOP).unwrap();
    drop(first.watch);
    let dir = first.keeper.dir().to_owned();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let mut again = host.container(&["sleep", "1000"]);
    again.dir = dir;
    let next = host.launch(again).await.unwrap();
    pidfd_signal(late.as_fd(), CONT).unwrap();
    gone(&late);
    next.keeper.signal(9).await.unwrap();
    assert_eq!(finish(next).await.code, 137);
}
