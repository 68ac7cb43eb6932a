//! Files in containers: copies both ways, volumes, users, what is wrong with programs.

use futures_util::StreamExt as _;
use wharf_engine::options::{ArchivePut, RemoveOptions};
use wharf_spec::docker::CreateRequest;

use crate::host::{Host, Test, request, run_to_end};

pub(crate) const TESTS: &[Test] = &[
    ("copies_without_a_start", |h| Box::pin(copies_without_a_start(h))),
    ("copies_while_it_runs", |h| Box::pin(copies_while_it_runs(h))),
    ("volumes_begin_with_the_image", |h| Box::pin(volumes_begin_with_the_image(h))),
    ("users_come_from_the_image", |h| Box::pin(users_come_from_the_image(h))),
    ("broken_programs_are_explained", |h| Box::pin(broken_programs_are_explained(h))),
    ("changes_and_export", |h| Box::pin(changes_and_export(h))),
];

fn tar_of(name: &str, data: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    tar.append_data(&mut header, name, data).unwrap();
    tar.into_inner().unwrap()
}

async fn put(
    engine: &wharf_engine::Engine,
    id: &str,
    to: &str,
    tar: Vec<u8>,
) -> wharf_engine::Result<()> {
    let body = Box::pin(std::io::Cursor::new(tar));
    engine.archive_put(id, to, ArchivePut::default(), body).await
}

async fn fetch(engine: &wharf_engine::Engine, id: &str, path: &str) -> Vec<(String, Vec<u8>)> {
    let (_, mut body) = engine.archive_get(id, path).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend(chunk.unwrap());
    }
    entries(&bytes)
}

fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(bytes);
    let read = |e: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut e = e.unwrap();
        let name = e.path().unwrap().display().to_string();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut e, &mut data).unwrap();
        (name, data)
    };
    tar.entries().unwrap().map(read).collect()
}

fn with_volume(command: &[&str]) -> CreateRequest {
    let mut r = request(command);
    r.host_config.binds = Some(vec!["data:/data".into()]);
    r
}

async fn copies_without_a_start(h: Host) {
    let engine = h.open().await;
    let id =
        engine.create(None, with_volume(&["cat", "/tmp/in", "/data/in"]), None).await.unwrap().id;
    put(&engine, &id, "/tmp", tar_of("in", b"one ")).await.unwrap();
    put(&engine, &id, "/data", tar_of("in", b"two")).await.unwrap();
    assert_eq!(std::fs::read(h.dir.join("root/volumes/data/_data/in")).unwrap(), b"two");
    assert_eq!(fetch(&engine, &id, "/tmp/in").await, [("in".to_owned(), b"one ".to_vec())]);
    let stat = engine.archive_stat(&id, "/tmp/in").await.unwrap();
    assert_eq!((stat.size, stat.mode), (4, 0o640));
    let link = engine.archive_stat(&id, "/bin/sh").await.unwrap();
    assert_eq!((link.mode & 1 << 27 != 0, link.link_target.as_str()), (true, "/bin/busybox"));
    let e = engine.archive_stat(&id, "/absent").await.unwrap_err();
    assert!(e.message().starts_with("Could not find the file /absent in container"), "{e}");
    let e = put(&engine, &id, "/bin/busybox", tar_of("x", b"")).await.unwrap_err();
    assert_eq!(e.kind(), wharf_engine::Kind::Invalid);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(h.dir.to_str().unwrap()), "a mount was left behind");
    engine.remove(&id, RemoveOptions::default()).await.unwrap();
    engine.shutdown().await;
}

async fn copies_while_it_runs(h: Host) {
    let engine = h.open().await;
    let id = engine.create(None, with_volume(&["sleep", "1000"]), None).await.unwrap().id;
    engine.start(&id).await.unwrap();
    put(&engine, &id, "/data", tar_of("live", b"x")).await.unwrap();
    let names: Vec<String> = fetch(&engine, &id, "/data").await.into_iter().map(|e| e.0).collect();
    assert_eq!(names, ["data/", "data/live", "data/seed"]);
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    engine.shutdown().await;
}

async fn volumes_begin_with_the_image(h: Host) {
    let engine = h.open().await;
    let (code, out, _) = run_to_end(&engine, with_volume(&["cat", "/data/seed"])).await;
    assert_eq!((code, out.as_str()), (0, "from the image\n"));
    let (_, out, _) =
        run_to_end(&engine, with_volume(&["sh", "-c", "echo kept > /data/seed; ls /data"])).await;
    assert_eq!(out, "seed\n");
    let (_, out, _) = run_to_end(&engine, with_volume(&["cat", "/data/seed"])).await;
    assert_eq!(out, "kept\n");
    let e = engine.volume_remove("data", false).await.unwrap_err();
    assert_eq!(e.kind(), wharf_engine::Kind::Conflict);
    engine.prune(&Default::default()).await.unwrap();
    engine.volume_remove("data", false).await.unwrap();
    let mut r = request(&["sh", "-c", "cat /ro/seed; echo x > /ro/new"]);
    r.host_config.binds = Some(vec!["fresh:/ro:ro".into()]);
    let (code, _, err) = run_to_end(&engine, r).await;
    assert!(code == 1 && err.contains("Read-only file system"), "{err}");
    engine.shutdown().await;
}

async fn users_come_from_the_image(h: Host) {
    let engine = h.open().await;
    for (user, expected) in [
        ("", "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n"),
        ("web", "uid=33(web) gid=34(www) groups=34(www),10(wheel)\n"),
        ("1000:10", "uid=1000 gid=10(wheel) groups=10(wheel)\n"),
    ] {
        let mut r = request(&["id"]);
        r.config.user = user.into();
        let (_, out, err) = run_to_end(&engine, r).await;
        let sorted = |s: &str| {
            let mut words: Vec<String> = s
                .trim()
                .split([' ', ','])
                .map(|w| w.trim_start_matches("groups=").into())
                .collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&out), sorted(expected), "{user}: {out}{err}");
    }
    let mut r = request(&["id"]);
    r.config.user = "nobody".into();
    let id = engine.create(None, r, None).await.unwrap().id;
    let e = engine.start(&id).await.unwrap_err();
    assert!(e.message().contains("no matching entries in passwd file"), "{e}");
    engine.shutdown().await;
}

async fn broken_programs_are_explained(h: Host) {
    let engine = h.open().await;
    for (program, text) in [("/arm", "program, this host is"), ("/crlf", "Windows line ends")] {
        let id = engine.create(None, request(&[program]), None).await.unwrap().id;
        let e = engine.start(&id).await.unwrap_err();
        assert!(e.message().contains(text), "{program}: {}", e.message());
    }
    engine.shutdown().await;
}

async fn changes_and_export(h: Host) {
    let engine = h.open().await;
    let r = request(&["sh", "-c", "echo x > /tmp/new; rm /plain; echo y >> /crlf"]);
    let id = engine.create(None, r, None).await.unwrap().id;
    let waiter = engine.wait(&id, wharf_engine::options::WaitCondition::NextExit).unwrap();
    engine.start(&id).await.unwrap();
    assert_eq!(waiter.await.status_code, 0);
    let changes = engine.changes(&id).await.unwrap();
    let kind = |p: &str| changes.iter().find(|c| c.path == p).map(|c| c.kind);
    assert_eq!((kind("/tmp/new"), kind("/plain"), kind("/crlf")), (Some(1), Some(2), Some(0)));
    let mut body = engine.export(&id).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend(chunk.unwrap());
    }
    let names: Vec<String> = entries(&bytes).into_iter().map(|e| e.0).collect();
    assert!(names.iter().any(|n| n.ends_with("tmp/new")), "{names:?}");
    assert!(!names.iter().any(|n| n.ends_with("plain")));
    engine.shutdown().await;
}
