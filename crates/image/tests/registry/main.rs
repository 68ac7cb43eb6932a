//! Pulling from a registry that lives in the test and misbehaves on demand.
#![expect(clippy::unwrap_used, reason = "tests")]

mod server;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use server::{Fault, Registry};
use tokio::net::{TcpListener, TcpStream};
use wharf_base::db::Db;
use wharf_base::sync::Mutex;
use wharf_image::*;
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::media_type;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> ImageStore {
        self.open_with(|_| {})
    }

    fn open_with(&self, edit: impl FnOnce(&mut Settings)) -> ImageStore {
        let db = Db::open(&self.dir.path().join("db")).unwrap();
        let mut settings = Settings::default();
        settings.registries.hosts_dir = self.dir.path().join("hosts");
        settings.registries.stall = Duration::from_millis(400);
        settings.registries.retry_pause = Duration::from_millis(5);
        settings.registries.retry_pause_max = Duration::from_millis(20);
        edit(&mut settings);
        ImageStore::open(&self.dir.path().join("root"), db, settings).unwrap()
    }

    fn count(&self, dir: &str) -> usize {
        fs::read_dir(self.dir.path().join("root").join(dir)).unwrap().count()
    }
}

/// A layer that does not compress.
fn layer(seed: u64, size: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let noise: Vec<u8> = (0..size)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        })
        .collect();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, format!("f{seed}"), &noise[..]).unwrap();
    builder.into_inner().unwrap()
}

fn two() -> Vec<Vec<u8>> {
    vec![layer(1, 300_000), layer(2, 200_000)]
}

fn file(store: &ImageStore, image: &Image, name: &str) -> PathBuf {
    let found = store.lowers(image).into_iter().map(|l| l.join(name)).find(|p| p.exists());
    found.unwrap()
}

async fn pull(store: &ImageStore, name: &Reference) -> Result<Pulled, PullError> {
    store.pull(name, PullOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_brings_the_image_and_a_second_one_nothing() {
    let (world, registry) = (World::new(), Registry::start().await);
    let digest = registry.add("1", &two(), |_| {});
    let store = world.open();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = steps.clone();
    let options = PullOptions {
        progress: Arc::new(move |p: Progress| told.lock().push(p.line().0)),
        ..PullOptions::default()
    };
    let name = registry.name("a/b:1");
    let pulled = store.pull(&name, options).await.unwrap();
    assert_eq!((pulled.digest.clone(), pulled.fresh), (digest.clone(), true));
    assert_eq!(fs::metadata(file(&store, &pulled.image, "f1")).unwrap().len(), 300_000);
    let summary = store.summary(&pulled.image);
    assert_eq!(summary.repo_tags, [name.familiar()]);
    assert_eq!(summary.repo_digests, [name.with_digest(digest.clone()).familiar()]);
    let steps = steps.lock().clone();
    for step in ["Pulling fs layer", "Download complete", "Pull complete"] {
        assert_eq!(steps.iter().filter(|s| *s == step).count(), 2, "{step}: {steps:?}");
    }
    assert!(steps.contains(&format!("Digest: {digest}")));
    assert_eq!(
        steps.last().unwrap(),
        &format!("Status: Downloaded newer image for {}", name.familiar())
    );

    let before = registry.gets("");
    let again = pull(&store, &name).await.unwrap();
    assert!(!again.fresh);
    assert_eq!(registry.gets(""), before, "a HEAD was enough");
    let by_digest = pull(&store, &name.with_digest(digest)).await.unwrap();
    assert_eq!(by_digest.image.id(), pulled.image.id());
    assert_eq!((world.count("partial"), world.count("tmp")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_goes_on_where_it_broke() {
    let (world, registry) = (World::new(), Registry::start().await);
    registry.add("1", &[layer(1, 400_000)], |_| {});
    registry.fail([Fault::Cut(100_000), Fault::Stall(50_000), Fault::Status(503)]);
    let store = world.open();
    let pulled = pull(&store, &registry.name("a/b:1")).await.unwrap();
    assert_eq!(fs::metadata(file(&store, &pulled.image, "f1")).unwrap().len(), 400_000);
    let ranges = registry.ranges();
    assert!(ranges.len() >= 2 && ranges.iter().all(|r| r != "bytes=0-"), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_coped_with() {
    let (world, registry) = (World::new(), Registry::start().await);
    registry.add("1", &[layer(1, 400_000)], |_| {});
    registry.fail([Fault::Cut(100_000), Fault::NoRange]);
    let store = world.open();
    pull(&store, &registry.name("a/b:1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_is_resumed_by_the_next() {
    let (world, registry) = (World::new(), Registry::start().await);
    registry.add("1", &[layer(1, 400_000)], |_| {});
    registry.fail([Fault::Stall(150_000)]);
    let store = world.open_with(|s| s.registries.stall = Duration::from_secs(60));
    let name = registry.name("a/b:1");
    let partial = async {
        loop {
            let dir = fs::read_dir(world.dir.path().join("root/partial")).unwrap();
            let sizes = dir.map(|e| e.unwrap().metadata().unwrap().len());
            if sizes.sum::<u64>() > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = pull(&store, &name) => panic!("the registry stalls"),
        () = partial => {}
    }
    assert!(store.list().is_empty());
    pull(&store, &name).await.unwrap();
    let ranges = registry.ranges();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    assert_eq!(world.count("partial"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_found_out_and_leave_nothing() {
    let (world, registry) = (World::new(), Registry::start().await);
    registry.add("1", &[layer(1, 100_000)], |_| {});
    let store = world.open();
    let name = registry.name("a/b:1");
    registry.fail([Fault::Lie]);
    let error = pull(&store, &name).await.unwrap_err();
    assert!(matches!(error, PullError::Layer { .. }), "{error}");
    assert!(wharf_base::error::chain(&error).to_string().contains("expected sha256:"));
    assert!(store.list().is_empty());
    assert_eq!((world.count("partial"), world.count("layers")), (0, 1));
    registry.fail([Fault::More]);
    assert!(matches!(pull(&store, &name).await, Err(PullError::Size { .. })));
    pull(&store, &name).await.unwrap();
    let sized = registry.add("2", &[layer(3, 50_000)], |m| m["layers"][0]["size"] = json!(1000));
    assert!(pull(&store, &name.with_digest(sized)).await.is_err());
    registry.add("3", &[layer(4, 50_000)], |m| m["layers"][0]["size"] = json!(900_000));
    assert!(pull(&store, &name.with_tag("3").unwrap()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_lie_or_confuse_are_refused() {
    let (world, registry) = (World::new(), Registry::start().await);
    let store = world.open();
    let name = registry.name("a/b:1");
    registry.add("1", &two(), |m| m["manifests"] = json!([]));
    assert!(matches!(pull(&store, &name).await, Err(PullError::Document { .. })));
    registry.add("1", &two(), |m| {
        *m = json!({"schemaVersion": 1, "fsLayers": [], "mediaType": media_type::DOCKER_SCHEMA1});
    });
    let error = pull(&store, &name).await.unwrap_err();
    assert!(wharf_base::error::chain(&error).to_string().contains("schema 1"), "{error}");
    registry.add("1", &two(), |m| {
        m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
    });
    assert!(matches!(pull(&store, &name).await, Err(PullError::NotAnImage { .. })));
    registry.add("1", &two(), |m| m["layers"] = json!([m["layers"][0]]));
    assert!(matches!(pull(&store, &name).await, Err(PullError::Config { .. })));
    // Served under a digest that is not its own.
    let other = Digest::sha256(b"something else");
    let honest = registry.0.lock().manifests["1"].clone();
    registry.0.lock().manifests.insert(other.to_string(), honest);
    let error = pull(&store, &name.with_digest(other)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Digest { .. })), "{error}");
    assert!(store.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_for_the_platform() {
    let (world, registry) = (World::new(), Registry::start().await);
    let host = Platform::host();
    let mine = registry.add("mine", &[layer(1, 5000)], |_| {});
    let entry = |digest: &Digest, os: &str, arch: &str| {
        json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 1,
               "platform": {"os": os, "architecture": arch}})
    };
    let list = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [entry(&mine, "windows", "amd64"), entry(&mine, "unknown", "unknown"),
                      entry(&mine, "linux", &host.architecture)]
    });
    let digest = registry.0.lock().put_manifest("1", &list);
    let store = world.open();
    let pulled = pull(&store, &registry.name("a/b:1")).await.unwrap();
    assert_eq!((pulled.digest, &pulled.image.manifest().digest), (digest, &mine));
    let options =
        PullOptions { platform: Some("linux/s390x".parse().unwrap()), ..PullOptions::default() };
    let error = store.pull(&registry.name("a/b:1"), options).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
}

fn credentials() -> PullOptions {
    let auth =
        AuthConfig { username: "me".into(), password: "secret".into(), ..AuthConfig::default() };
    PullOptions { auth, ..PullOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_given_as_asked_for() {
    for kind in ["Bearer", "Basic"] {
        let (world, registry) = (World::new(), Registry::start().await);
        registry.add("1", &two(), |_| {});
        registry.0.lock().auth = Some(kind);
        let store = world.open();
        let name = registry.name("a/b:1");
        let error = pull(&store, &name).await.unwrap_err();
        assert!(error.to_string().contains("repository does not exist"), "{kind}: {error}");
        store.pull(&name, credentials()).await.unwrap();
        let tokens = registry.gets("/token");
        assert!(tokens <= 3, "a token is shared: {tokens}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_tried_at_the_registry() {
    for kind in [None, Some("Bearer"), Some("Basic")] {
        let (world, registry) = (World::new(), Registry::start().await);
        registry.0.lock().auth = kind;
        let store = world.open();
        let mut auth = credentials().auth;
        auth.serveraddress.clone_from(&registry.0.lock().address);
        assert_eq!(store.login(&auth).await.unwrap(), "", "{kind:?}");
        auth.password = "wrong".into();
        let wrong = store.login(&auth).await;
        match kind {
            None => assert!(wrong.is_ok()),
            Some(_) => assert_eq!(wrong.unwrap_err().kind(), wharf_image::ErrorKind::Unauthorized),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_without_a_pull() {
    let (world, registry) = (World::new(), Registry::start().await);
    let digest = registry.add("1", &two(), |_| {});
    let store = world.open();
    let name = registry.name("a/b:1");
    let found = store.distribution(&name, &AuthConfig::default()).await.unwrap();
    assert_eq!(found.descriptor.digest, digest);
    assert!(found.descriptor.size > 0);
    assert_eq!(found.platforms.len(), 1);
    assert!(store.list().is_empty());
    assert!(registry.gets("blobs") == 1, "only the config is read");
    let absent = store.distribution(&registry.name("a/b:2"), &AuthConfig::default()).await;
    assert_eq!(absent.unwrap_err().kind(), wharf_image::ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_had_without_its_layers() {
    let (world, registry) = (World::new(), Registry::start().await);
    let host = Platform::host();
    let mine = registry.add("mine", &two(), |_| {});
    let entry = json!({"mediaType": media_type::OCI_MANIFEST, "digest": mine, "size": 1,
                       "platform": {"os": "linux", "architecture": host.architecture}});
    let list = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]
    });
    let digest = registry.0.lock().put_manifest("1", &list);
    registry.0.lock().auth = Some("Bearer");
    let (store, name) = (world.open(), registry.name("a/b:1"));
    let auth = credentials().auth;
    let found = store.remote_config(&name, None, &auth).await.unwrap();
    assert_eq!(found.digest, digest, "of what has the name");
    let config: Value = serde_json::from_slice(&found.config).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2, "{config}");
    assert!(store.list().is_empty());
    let other = "linux/s390x".parse().unwrap();
    let error = store.remote_config(&name, Some(&other), &auth).await.unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    let refused = store.remote_config(&name, None, &AuthConfig::default()).await.unwrap_err();
    assert!(refused.to_string().contains("pull access denied"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_follow_addresses() {
    use futures_util::TryStreamExt as _;
    let (world, registry) = (World::new(), Registry::start().await);
    let address = registry.0.lock().address.clone();
    let store = world.open();
    let body = store.download(&format!("{address}/a/b/tags/list")).await.unwrap();
    let chunks: Vec<Bytes> = body.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), br#"{"tags":["1","2"]}"#);
    assert!(store.download(&format!("http://{address}/absent")).await.is_err());
    assert!(store.download("ftp://x/y").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_does_not_carry_credentials_away() {
    let (world, registry, cdn) = (World::new(), Registry::start().await, Registry::start().await);
    let layers = [layer(1, 50_000)];
    registry.add("1", &layers, |_| {});
    cdn.add("1", &layers, |_| {});
    registry.0.lock().auth = Some("Basic");
    let to = format!("http://{}", cdn.0.lock().address);
    registry.fail([Fault::Redirect(to)]);
    world.open().pull(&registry.name("a/b:1"), credentials()).await.unwrap();
    let log = cdn.0.lock().log.clone();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].3, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_serve_any_registry_and_may_fail() {
    let (world, registry, mirror) =
        (World::new(), Registry::start().await, Registry::start().await);
    registry.add("1", &two(), |_| {});
    mirror.add("1", &two(), |_| {});
    let address = registry.0.lock().address.clone();
    let dir = world.dir.path().join("hosts").join(&address);
    fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "server = \"http://{address}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        mirror.0.lock().address
    );
    fs::File::create(dir.join("hosts.toml")).unwrap().write_all(text.as_bytes()).unwrap();
    let store = world.open();
    store.pull(&registry.name("a/b:1"), credentials()).await.unwrap();
    assert_eq!((registry.gets(""), mirror.gets("blobs")), (0, 3));
    assert!(mirror.0.lock().log.iter().all(|l| l.3.is_none()), "credentials are not for mirrors");
    registry.add("2", &[layer(9, 1000)], |_| {});
    pull(&store, &registry.name("a/b:2")).await.unwrap();
    assert!(registry.gets("") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_in_dockers_words() {
    let (world, registry) = (World::new(), Registry::start().await);
    let store = world.open();
    let name = registry.name("a/b:nope");
    let error = pull(&store, &name).await.unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("manifest for {} not found", name.familiar())),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let closed = Reference::parse("127.0.0.1:1/a/b").unwrap();
    assert!(matches!(
        pull(&store, &closed).await,
        Err(PullError::Registry(RegistryError::Connect { .. }))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_keeps_what_arrived() {
    let (world, registry) = (World::new(), Registry::start().await);
    registry.add("1", &[layer(1, 400_000)], |_| {});
    registry.fail(vec![Fault::Cut(50_000); 1]);
    registry.fail(vec![Fault::Status(503); 40]);
    let store = world.open();
    let name = registry.name("a/b:1");
    assert!(pull(&store, &name).await.is_err());
    assert_eq!(world.count("partial"), 1);
    registry.0.lock().faults.clear();
    pull(&store, &name).await.unwrap();
    assert!(!registry.ranges().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image_fetch_each_blob_once() {
    let (world, registry) = (World::new(), Registry::start().await);
    registry.add("1", &two(), |_| {});
    let store = world.open();
    let name = registry.name("a/b:1");
    let (a, b) = tokio::join!(pull(&store, &name), pull(&store, &name));
    assert_eq!(a.unwrap().image.id(), b.unwrap().image.id());
    let layers = registry.gets("blobs") - 1;
    assert!((2..=3).contains(&layers), "{layers}");
}

/// What a server of plain HTTP does with a TLS client.
#[derive(Clone, Copy)]
enum Manners {
    HangsUp,
    IsSilent,
}

/// The registry behind a door that knows no TLS; returns its address and how many TLS clients came.
async fn plain_door(registry: &Registry, manners: Manners) -> (SocketAddr, Arc<AtomicUsize>) {
    const HANDSHAKE: u8 = 0x16;
    let inner = registry.0.lock().address.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let greeted = Arc::new(AtomicUsize::new(0));
    let count = greeted.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (inner, count) = (inner.clone(), count.clone());
            tokio::spawn(async move {
                let mut first = [0];
                if stream.peek(&mut first).await.is_ok() && first[0] == HANDSHAKE {
                    count.fetch_add(1, Ordering::Relaxed);
                    if matches!(manners, Manners::IsSilent) {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                let mut inner = TcpStream::connect(inner).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut stream, &mut inner).await);
            });
        }
    });
    (address, greeted)
}

/// Settings with which a second attempt would come too late for any test.
fn impatient(settings: &mut Settings) {
    settings.registries.retry_pause = Duration::from_secs(600);
    settings.registries.retry_pause_max = Duration::from_secs(600);
    settings.registries.greeting = Duration::from_millis(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_tls_is_greeted_once_and_not_tried_again() {
    for manners in [Manners::HangsUp, Manners::IsSilent] {
        let (world, registry) = (World::new(), Registry::start().await);
        registry.add("1", &two(), |_| {});
        let store = world.open_with(impatient);
        let (address, greeted) = plain_door(&registry, manners).await;
        let name = Reference::parse(&format!("{address}/a:1")).unwrap();
        let pulled = tokio::time::timeout(Duration::from_secs(60), pull(&store, &name));
        pulled.await.unwrap().unwrap();
        assert_eq!(greeted.load(Ordering::Relaxed), 1, "one greeting for the whole pull");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_a_pull_fails_at_once() {
    let world = World::new();
    let store = world.open_with(impatient);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let name = Reference::parse(&format!("{free}/a:1")).unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(60), pull(&store, &name)).await;
    let error = refused.unwrap().unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot reach {free}")), "{error}");
}
