//! A test's own host: namespaces, a data root, a busybox image, and an engine that can be killed and opened again.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt as _;
use wharf_base::clock::Clock;
use wharf_base::db::Db;
use wharf_engine::events::Events;
use wharf_engine::options::{AttachOptions, Session};
use wharf_engine::{Config, Engine, Parts};
use wharf_image::{ImageStore, ImportOptions, Settings};
use wharf_keeper::Launcher;
use wharf_keeper::client::Program;
use wharf_net::{Net, NetConfig};
use wharf_spec::docker::{CreateRequest, StrList};
use wharf_spec::reference::Reference;
use wharf_sys::process::{NEWNET, NEWNS, unshare};

/// A test: its name and its body.
pub(crate) type Test = (&'static str, fn(Host) -> Pin<Box<dyn Future<Output = ()>>>);

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Leaves the machine's mounts and network alone.
pub(crate) fn isolate() {
    unshare(NEWNS | NEWNET).unwrap();
    let private = wharf_sys::mount::Attr {
        propagation: wharf_sys::mount::propagation::PRIVATE,
        ..Default::default()
    };
    wharf_sys::mount::set_attr_at(c"/", true, private).unwrap();
    wharf_sys::host::loopback_up().unwrap();
}

/// Runs one test on a runtime of its own.
pub(crate) fn run(test: fn(Host) -> Pin<Box<dyn Future<Output = ()>>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let host = Host::new();
        let (dir, cgroup) = (host.dir.clone(), host.cgroup());
        test(host).await;
        remove_cgroups(&cgroup);
        std::fs::remove_dir_all(dir).unwrap();
    });
}

/// A place for one engine after the other.
pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    name: String,
}

impl Host {
    fn new() -> Host {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wharf-test-{}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir(&dir).unwrap();
        Host { dir, name }
    }

    fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    /// Opens an engine over what is there.
    pub(crate) async fn open(&self) -> Engine {
        let root = self.dir.join("root");
        std::fs::create_dir_all(&root).unwrap();
        let db = open_db(&root.join("db")).await;
        let images = ImageStore::open(&root, db.clone(), Settings::default()).unwrap();
        let instance: String = self.name.chars().filter(char::is_ascii_digit).collect();
        let tail = instance.len().saturating_sub(7);
        let net = NetConfig { instance: format!("t{}", &instance[tail..]), ..NetConfig::default() };
        let net = Net::open(db.clone(), net).unwrap();
        // By path: this process's own program is on a mount of the namespace that it left.
        let path = Some(std::env::current_exe().unwrap());
        let program = Program { path, ..Program::default() };
        let launcher = Launcher::spawn(program).unwrap();
        let clock = Clock::system();
        let events = Events::new(clock.clone());
        let config = Config {
            root,
            exec_root: self.dir.join("run"),
            cgroup_parent: self.cgroup(),
            ..Config::default()
        };
        let parts = Parts { db, images, net, launcher, events, clock };
        let engine = Engine::open(config, parts).await.unwrap();
        if engine.images().list().is_empty() {
            import_busybox(engine.images()).await;
        }
        engine
    }
}

/// The engine before this one may still have a task that holds the database: its process's end would have let go.
async fn open_db(dir: &Path) -> Db {
    let mut left = 200;
    loop {
        match Db::open(dir) {
            Ok(db) => return db,
            Err(e) if left == 0 => panic!("{e}"),
            Err(_) => left -= 1,
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
}

/// A request to run `command` of the busybox image without a network.
pub(crate) fn request(command: &[&str]) -> CreateRequest {
    let mut r = CreateRequest::default();
    r.config.image = "busybox".into();
    r.config.cmd = Some(StrList(command.iter().map(|s| (*s).to_owned()).collect()));
    r.host_config.network_mode = "host".into();
    r
}

/// Creates, attaches, starts and waits; returns status, output and error output.
pub(crate) async fn run_to_end(engine: &Engine, request: CreateRequest) -> (i64, String, String) {
    let id = engine.create(None, request, None).await.unwrap().id;
    let attach =
        AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
    let session = engine.attach(&id, attach).await.unwrap();
    let waiter = engine.wait(&id, wharf_engine::options::WaitCondition::NextExit).unwrap();
    engine.start(&id).await.unwrap();
    let (out, err) = drain(session).await;
    (waiter.await.status_code, out, err)
}

/// Reads a session to its end, the two streams apart.
pub(crate) async fn drain(mut session: Session) -> (String, String) {
    let mut bytes = Vec::new();
    while let Some(chunk) = session.output.next().await {
        bytes.extend(chunk.unwrap());
    }
    split(&bytes, session.tty)
}

/// Takes frames apart.
pub(crate) fn split(mut bytes: &[u8], tty: bool) -> (String, String) {
    if tty {
        return (String::from_utf8_lossy(bytes).into_owned(), String::new());
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while bytes.len() >= 8 {
        let len = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let to = if bytes[0] == 2 { &mut err } else { &mut out };
        to.extend_from_slice(&bytes[8..8 + len]);
        bytes = &bytes[8 + len..];
    }
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (text(out), text(err))
}

async fn import_busybox(images: &ImageStore) {
    let options = ImportOptions {
        name: Some(Reference::parse("busybox:latest").unwrap()),
        changes: vec!["CMD [\"sh\"]".into(), "ENV FROM=image".into()],
        ..ImportOptions::default()
    };
    let body = futures_util::stream::once(async { Ok(busybox_tar().into()) });
    images.import(Box::pin(body), options).await.unwrap();
}

/// Debian's static busybox: the one that the tests brought along, or the machine's own.
fn busybox() -> PathBuf {
    let choices = [std::env::var("WHARF_TEST_BUSYBOX").unwrap_or_default(), "/bin/busybox".into()];
    let found = choices.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("no busybox: run `cargo xtask tools cli`, or set WHARF_TEST_BUSYBOX")
}

fn busybox_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "data"] {
        entry(&mut tar, dir, tar::EntryType::Directory, 0o755, b"", None);
    }
    let program = std::fs::read(busybox()).unwrap();
    entry(&mut tar, "bin/busybox", tar::EntryType::Regular, 0o755, &program, None);
    let applets = [
        "sh", "cat", "echo", "true", "false", "sleep", "id", "ls", "env", "hostname", "mkdir",
        "touch", "rm", "ln", "kill", "stat", "pwd", "chmod", "mount", "seq", "head", "tail", "wc",
        "test", "grep", "cp", "mv", "ps", "dd", "tty", "stty", "httpd", "wget", "ip", "nc",
    ];
    for name in applets {
        let path = format!("bin/{name}");
        entry(&mut tar, &path, tar::EntryType::Symlink, 0o777, b"", Some("busybox"));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/data:/bin/sh\n";
    entry(&mut tar, "etc/passwd", tar::EntryType::Regular, 0o644, passwd.as_bytes(), None);
    let group = "root:x:0:\nwheel:x:10:root,web\nwww:x:34:\n";
    entry(&mut tar, "etc/group", tar::EntryType::Regular, 0o644, group.as_bytes(), None);
    entry(&mut tar, "data/seed", tar::EntryType::Regular, 0o640, b"from the image\n", None);
    entry(&mut tar, "crlf", tar::EntryType::Regular, 0o755, b"#!/bin/sh\r\necho\r\n", None);
    entry(&mut tar, "arm", tar::EntryType::Regular, 0o755, &foreign_elf(), None);
    entry(&mut tar, "plain", tar::EntryType::Regular, 0o644, b"no program", None);
    tar.into_inner().unwrap()
}

/// The head of a program for a machine that this one is not.
fn foreign_elf() -> Vec<u8> {
    let mut head = vec![0u8; 64];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    head[16] = 2;
    head[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    head
}

fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    data: &[u8],
    link: Option<&str>,
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    match link {
        Some(target) => tar.append_link(&mut header, path, target).unwrap(),
        None => tar.append_data(&mut header, path, data).unwrap(),
    }
}

fn remove_cgroups(cgroup: &str) {
    let below = |mount: &Path| drop(std::fs::remove_dir(mount.join(&cgroup[1..])));
    below(Path::new("/sys/fs/cgroup"));
    for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        below(&entry.path());
    }
}
