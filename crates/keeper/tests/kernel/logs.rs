//! Logs of running containers.

use tokio::io::AsyncWriteExt as _;
use wharf_keeper::AttachOptions;
use wharf_keeper::log::{LogFormat, LogMode, LogQuery, LogReader, LogRender, LogStream};

use crate::host::{Host, finish, log_of, output, parent, stream, until};

pub(crate) async fn following_survives_rotation_and_compression(host: Host) {
    for format in [LogFormat::JsonFile, LogFormat::Local] {
        let mut launch = host.shell("seq 1 30000; sleep 0.2; seq 30001 60000");
        (launch.log.format, launch.log.max_size, launch.log.max_files, launch.log.compress) =
            (format, 300_000, 40, true);
        let path = launch.log.path.clone();
        let launched = host.launch(launch.clone()).await.unwrap();
        let signal = launched.keeper.follow_log().await.unwrap();
        let reader = LogReader::open(path, format, LogQuery::default()).unwrap();
        let mut follow = LogStream::new(reader, LogRender::default(), Some(signal));
        let mut got = Vec::new();
        while let Some(chunk) = follow.next().await.unwrap() {
            got.extend_from_slice(&chunk);
        }
        let want: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
        assert!(got == want.as_bytes(), "{} of {} bytes", got.len(), want.len());
        assert_eq!(finish(launched).await.code, 0);
        let names: Vec<String> = std::fs::read_dir(&launch.dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.iter().filter(|n| n.starts_with("log.")).count() > 3, "{names:?}");
        assert!(names.iter().any(|n| n.ends_with(".gz") || n.ends_with(".zst")), "{names:?}");
    }
}

pub(crate) async fn a_full_disk_does_not_stop_a_container(host: Host) {
    let mut launch = host.shell("seq 1 1000; read x; exit 0");
    launch.io.open_stdin = true;
    std::os::unix::fs::symlink("/dev/full", &launch.log.path).unwrap();
    launch.log.max_size = 0;
    let launched = host.launch(launch).await.unwrap();
    let (mut client, theirs) = crate::host::stream();
    let options = wharf_keeper::AttachOptions { stdin: true, ..crate::host::output() };
    launched.keeper.attach(options, theirs).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut client, b"\n").await.unwrap();
    let mut watch = launched.keeper.watch().await.unwrap();
    assert_eq!(watch.exit().await.unwrap().code, 0);
    let state = launched.keeper.state().await.unwrap();
    assert_eq!(state.log_lines_lost, 1000);
    assert!(state.log_error.unwrap().contains("No space left"));
    drop(watch);
    finish(launched).await;
}

pub(crate) async fn a_log_apart_is_whole_where_there_is_room(host: Host) {
    let mut launch = host.shell("seq 1 30000; sleep 0.1; seq 30001 60000; printf tail");
    launch.log.mode = LogMode::NonBlocking { buffer: 4 << 20 };
    let path = launch.log.path.clone();
    let launched = host.launch(launch).await.unwrap();
    let signal = launched.keeper.follow_log().await.unwrap();
    let reader = LogReader::open(path, LogFormat::JsonFile, LogQuery::default()).unwrap();
    let mut follow = LogStream::new(reader, LogRender::default(), Some(signal));
    let mut got = Vec::new();
    while let Some(chunk) = follow.next().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    let want: String = (1..=60_000).map(|n| format!("{n}\n")).chain(["tail".into()]).collect();
    assert!(got == want.as_bytes(), "{} of {} bytes", got.len(), want.len());
    assert_eq!(finish(launched).await.code, 0);
}

pub(crate) async fn a_stuck_log_apart_holds_nobody_up(host: Host) {
    let mut launch = host.shell("read x; seq 1 300000; echo END >&2; read x; echo last");
    launch.log.mode = LogMode::NonBlocking { buffer: 256 << 10 };
    launch.io.open_stdin = true;
    let path = launch.log.path.clone();
    let launched = host.launch(launch).await.unwrap();
    let (mut client, theirs) = stream();
    let options = AttachOptions { stdin: true, stdout: false, ..output() };
    launched.keeper.attach(options, theirs).await.unwrap();
    let writer = child_called(parent(launched.started.pid).unwrap(), "wharf-log");
    wharf_sys::process::kill(writer, STOP).unwrap();
    client.write_all(b"\n").await.unwrap();
    until(&mut client, "END\n").await;
    assert!(launched.keeper.state().await.unwrap().log_lines_lost > 100_000);
    wharf_sys::process::kill(writer, CONT).unwrap();
    client.write_all(b"\n").await.unwrap();
    assert_eq!(finish(launched).await.code, 0);
    // What there is are whole lines in their order, and what came after the jam is there.
    let log = log_of(&path, LogFormat::JsonFile);
    let numbers: Vec<u32> = log.lines().filter_map(|line| line.parse().ok()).collect();
    let odd: Vec<_> = numbers.windows(2).filter(|two| two[0] >= two[1]).collect();
    assert!(odd.is_empty(), "torn or out of order: {odd:?}");
    assert!(log.ends_with("last\n"), "{}", log.len());
}

const STOP: i32 = 19;
const CONT: i32 = 18;

/// The child of `parent` that has this name.
fn child_called(of: i32, name: &str) -> i32 {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let comm = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.find(|&pid| parent(pid) == Some(of) && comm(pid).trim() == name).unwrap()
}
