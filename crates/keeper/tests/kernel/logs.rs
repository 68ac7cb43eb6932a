//! Logs of running containers.

use wharf_keeper::log::{LogFormat, LogQuery, LogReader, LogRender, LogStream};

use crate::host::{Host, finish};

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
