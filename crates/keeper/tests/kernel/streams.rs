//! Attached clients and execs.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_keeper::client::ExecError;
use wharf_keeper::log::LogFormat;
use wharf_keeper::protocol::{
    AttachOptions, Detached, ExecIo, ExecRequest, FaultKind, IoConfig, Slow,
};
use wharf_runtime::ConsoleSize;

use crate::host::{Host, exited, finish, frames, log_of, output, read_all, stream, until};

pub(crate) async fn the_first_byte_reaches_an_early_client(host: Host) {
    for _ in 0..10 {
        let launch = host.shell("echo first; echo second >&2; exit 3");
        let (client, theirs) = stream();
        let mut launched = host.launcher.launch(launch, vec![(output(), theirs)]).await.unwrap();
        assert_eq!(frames(client).await, ("first\n".into(), "second\n".into()));
        assert_eq!(launched.attached[0].ended().await.unwrap(), Detached::Ended);
        assert_eq!(finish(launched).await.code, 3);
    }
}

pub(crate) async fn the_end_of_input_ends_the_program(host: Host) {
    let mut launch = host.container(&["cat"]);
    launch.io = IoConfig { tty: None, open_stdin: true, stdin_once: true };
    let (mut client, theirs) = stream();
    let options = AttachOptions { stdin: true, ..output() };
    let mut launched = host.launcher.launch(launch, vec![(options, theirs)]).await.unwrap();
    // More than pipes and sockets hold, so that input and output wait for each other.
    let text = "some line of input\n".repeat(200_000);
    let (mut read, mut write) = client.split();
    let mut got = Vec::new();
    let send = async {
        write.write_all(text.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, _) = tokio::join!(send, read.read_to_end(&mut got));
    let (mut out, mut rest) = (Vec::new(), &got[..]);
    while let [1, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
        let len = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
        out.extend_from_slice(&tail[..len]);
        rest = &tail[len..];
    }
    assert!(out == text.as_bytes());
    assert_eq!(launched.attached[0].ended().await.unwrap(), Detached::Ended);
    assert_eq!(finish(launched).await.code, 0);
}

pub(crate) async fn a_terminal_has_a_size_and_detach_keys(host: Host) {
    let mut launch = host.shell("stty size; read x; stty size; read x; exit 4");
    let size = ConsoleSize { rows: 40, cols: 100 };
    launch.io = IoConfig { tty: Some(size), open_stdin: true, stdin_once: false };
    let (mut client, theirs) = stream();
    let options = AttachOptions { stdin: true, detach_keys: vec![16, 17], ..output() };
    let mut launched = host.launcher.launch(launch, vec![(options.clone(), theirs)]).await.unwrap();
    until(&mut client, "40 100\r\n").await;
    launched.keeper.resize(ConsoleSize { rows: 30, cols: 90 }).await.unwrap();
    client.write_all(b"x\n").await.unwrap();
    until(&mut client, "30 90\r\n").await;
    client.write_all(b"\x10\x11").await.unwrap();
    assert_eq!(launched.attached[0].ended().await.unwrap(), Detached::Keys);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let (mut again, theirs) = stream();
    let mut attachment = launched.keeper.attach(options, theirs).await.unwrap();
    again.write_all(b"\n").await.unwrap();
    until(&mut again, "\r\n").await;
    assert_eq!(attachment.ended().await.unwrap(), Detached::Ended);
    assert_eq!(finish(launched).await.code, 4);
}

pub(crate) async fn a_client_that_holds_gets_every_byte(host: Host) {
    // 10 MB fit in no buffer: the program must wait for the client, who starts late.
    let launch = host.shell("yes 0123456789 | head -n 1000000");
    let (client, theirs) = stream();
    let launched = host.launcher.launch(launch, vec![(output(), theirs)]).await.unwrap();
    let state = launched.keeper.state().await.unwrap();
    assert_eq!((state.attached, state.exit), (1, None));
    let (out, _) = frames(client).await;
    assert_eq!(out.len(), 11_000_000);
    assert_eq!(finish(launched).await.code, 0);
}

pub(crate) async fn a_slow_client_is_dropped_and_the_log_is_whole(host: Host) {
    let launch = host.shell("yes 0123456789 | head -n 1000000");
    let path = launch.log.path.clone();
    let (mut client, theirs) = stream();
    let options = AttachOptions { slow: Slow::Drop, ..output() };
    let mut launched = host.launcher.launch(launch, vec![(options, theirs)]).await.unwrap();
    assert_eq!(exited(&mut launched).await.code, 0);
    assert_eq!(log_of(&path, LogFormat::JsonFile).len(), 11_000_000);
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got.ends_with(b"see the log\r\n"));
    assert_eq!(launched.attached[0].ended().await.unwrap(), Detached::Slow);
    launched.keeper.acknowledge().await.unwrap();
}

pub(crate) async fn many_clients_hear_the_same(host: Host) {
    let mut launch = host.shell("read x; echo got $x");
    launch.io = IoConfig { tty: None, open_stdin: true, stdin_once: false };
    let launched = host.launch(launch).await.unwrap();
    let mut clients = Vec::new();
    for n in 0..64 {
        let (client, theirs) = stream();
        let options = AttachOptions { stdin: n % 2 == 0, ..output() };
        launched.keeper.attach(options, theirs).await.unwrap();
        clients.push(client);
    }
    let (_, theirs) = stream();
    let refused = launched.keeper.attach(output(), theirs).await.unwrap_err();
    assert!(refused.to_string().contains("64 clients"), "{refused}");
    clients[2].write_all(b"hello\n").await.unwrap();
    for client in clients {
        assert_eq!(frames(client).await.0, "got hello\n");
    }
    assert_eq!(finish(launched).await.code, 0);
}

pub(crate) async fn execs_have_streams_and_codes(host: Host) {
    let launch = host.container(&["sleep", "1000"]);
    let plan = launch.plan.clone();
    let launched = host.launch(launch).await.unwrap();
    let keeper = &launched.keeper;
    let request = |id: &str, args: &[&str], io: ExecIo| ExecRequest {
        id: id.into(),
        plan: host.exec_plan(
            &plan,
            args,
            matches!(&io, ExecIo::Kept { io, .. } if io.tty.is_some()),
        ),
        io,
    };
    let kept = |io| ExecIo::Kept { io, attach: Some(AttachOptions { stdin: true, ..output() }) };

    let (client, theirs) = stream();
    let script = ["sh", "-c", "echo hi; echo no >&2; exit 3"];
    let mut exec =
        keeper.exec(request("a", &script, kept(IoConfig::default())), &[theirs]).await.unwrap();
    let exit = exec.ended().await.unwrap();
    assert_eq!(exit.code, 3);
    // The stream ends only now that the result is ours.
    drop(exec);
    assert_eq!(frames(client).await, ("hi\n".into(), "no\n".into()));

    let (read, write) = wharf_sys::scratch::pipe().unwrap();
    let io = ExecIo::Direct { stdin: false, stdout: true, stderr: false };
    let mut exec = keeper
        .exec(request("b", &["sh", "-c", "echo direct; kill -9 $$"], io), &[write])
        .await
        .unwrap();
    let text = tokio::task::spawn_blocking(move || read_all(read)).await.unwrap();
    assert_eq!(text, "direct\n");
    let exit = exec.ended().await.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));

    let io = IoConfig { tty: Some(ConsoleSize { rows: 11, cols: 22 }), ..IoConfig::default() };
    let (mut client, theirs) = stream();
    let script = ["sh", "-c", "stty size; read x; stty size"];
    let mut exec = keeper.exec(request("c", &script, kept(io)), &[theirs]).await.unwrap();
    until(&mut client, "11 22\r\n").await;
    keeper.exec_resize("c", ConsoleSize { rows: 33, cols: 44 }).await.unwrap();
    client.write_all(b"\n").await.unwrap();
    until(&mut client, "33 44\r\n").await;
    assert_eq!(exec.ended().await.unwrap().code, 0);

    let (_client, theirs) = stream();
    let missing =
        keeper.exec(request("d", &["nonesuch"], kept(IoConfig::default())), &[theirs]).await;
    let Err(ExecError::Fault(fault)) = missing else { panic!() };
    assert_eq!(fault.kind, FaultKind::NotFound);
    assert!(fault.message.contains("executable file not found in $PATH"), "{}", fault.message);

    keeper.signal(9).await.unwrap();
    assert_eq!(finish(launched).await.code, 137);
}
