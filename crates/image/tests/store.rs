//! The store as its callers use it: load, save, import, commit, names, removal, pins, reopening.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt as _;
use wharf_base::db::Db;
use wharf_image::*;
use wharf_spec::image::RunConfig;
use wharf_spec::reference::Reference;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> ImageStore {
        // The flush of an earlier store may still hold the database for a moment.
        let db = loop {
            match Db::open(&self.path("db")) {
                Err(wharf_base::db::DbError::Locked { .. }) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        let settings = Settings { program: self.path("program"), ..Settings::default() };
        fs::File::create(self.path("program")).unwrap().write_all(b"\x7fELF not really").unwrap();
        ImageStore::open(&self.path("root"), db, settings).unwrap()
    }

    fn count(&self, dir: &str) -> usize {
        fs::read_dir(self.path("root").join(dir)).unwrap().count()
    }

    /// Layers, without the directory that stands for none.
    fn layers(&self) -> usize {
        self.count("layers") - 1
    }
}

fn body(bytes: Vec<u8>) -> ByteStream {
    let pieces: Vec<_> = bytes.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Box::pin(futures_util::stream::iter(pieces))
}

async fn collect(mut stream: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece.unwrap());
    }
    all
}

fn rootfs(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn import(store: &ImageStore, name: &str, files: &[(&str, &str)]) -> Image {
    let options = ImportOptions {
        name: Some(Reference::parse(name).unwrap()),
        changes: vec!["CMD [\"/bin/x\"]".into()],
        ..ImportOptions::default()
    };
    store.import(body(rootfs(files)), options).await.unwrap()
}

async fn commit(store: &ImageStore, base: &Image, upper: &Path, name: &str) -> Image {
    let options = CommitOptions {
        upper: upper.to_owned(),
        omit: ["omitted".into()].into(),
        base: base.clone(),
        container: "c0ffee".into(),
        config: RunConfig { cmd: Some(vec!["sh".into()]), ..RunConfig::default() },
        changes: vec!["ENV A=b".into()],
        author: "me".into(),
        comment: "why".into(),
        name: Some(Reference::parse(name).unwrap()),
    };
    store.commit(options).await.unwrap()
}

const NOBODY: RemoveOptions<'static> = RemoveOptions { force: false, prune: true, users: &[] };

#[tokio::test(flavor = "multi_thread")]
async fn an_image_travels_through_save_and_load_unchanged() {
    let (here, there) = (World::new(), World::new());
    let store = here.open();
    let base = import(&store, "app:1", &[("etc/a", "one"), ("etc/b", "two")]).await;
    let upper = here.path("upper");
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::create_dir_all(upper.join("omitted/below")).unwrap();
    fs::File::create(upper.join("etc/c")).unwrap().write_all(b"three").unwrap();
    let root = wharf_sys::root::Root::open(&upper).unwrap().dir(Path::new("etc")).unwrap();
    root.make_node("a".as_ref(), wharf_sys::root::Kind::CharDevice, 0, (0, 0)).unwrap();
    let top = commit(&store, &base, &upper, "app:2").await;
    assert_eq!(top.layers().len(), 2);
    assert_eq!(top.run_config().unwrap().env, ["A=b"]);
    let history = top.history();
    assert_eq!((history[0].created_by.as_str(), history[0].comment.as_str()), ("sh", "why"));
    assert_eq!(history[1].comment, "Imported from -");
    let lowers = store.lowers(&top);
    let whiteout = fs::symlink_metadata(lowers[0].join("etc/a")).unwrap();
    assert_eq!(whiteout.rdev(), 0);
    assert!(!lowers[0].join("omitted").exists());
    assert_eq!(fs::read_to_string(lowers[1].join("etc/a")).unwrap(), "one");

    let archive = collect(store.save(&["app".into()]).unwrap()).await;
    let again = collect(store.save(&["app:1".into(), "app:2".into()]).unwrap()).await;
    assert!(archive == again, "a repository is all its tags");

    let other = there.open();
    let loaded = other.load(body(archive.clone()), LoadOptions::default()).await.unwrap();
    let mut names: Vec<String> =
        loaded.iter().flat_map(|l| &l.names).map(Reference::familiar).collect();
    names.sort();
    assert_eq!(names, ["app:1", "app:2"]);
    let copy = other.resolve("app:2").unwrap();
    assert_eq!((copy.id(), copy.manifest()), (top.id(), top.manifest()));
    assert_eq!(fs::read_to_string(other.lowers(&copy)[0].join("etc/c")).unwrap(), "three");
    assert_eq!(collect(other.save(&["app".into()]).unwrap()).await, archive);
    // Loading what is here already changes nothing.
    other.load(body(archive), LoadOptions::default()).await.unwrap();
    assert_eq!((other.list().len(), there.layers(), there.count("tmp")), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_archives_load_too() {
    let (here, there) = (World::new(), World::new());
    let store = here.open();
    import(&store, "app", &[("f", "x")]).await;
    let archive = collect(store.save(&["app".into()]).unwrap()).await;
    let mut gz = flate2::read::GzEncoder::new(&archive[..], flate2::Compression::fast());
    let mut packed = Vec::new();
    gz.read_to_end(&mut packed).unwrap();
    let loaded = there.open().load(body(packed), LoadOptions::default()).await.unwrap();
    assert_eq!(loaded.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_leave_nothing_behind() {
    let (here, there) = (World::new(), World::new());
    let store = here.open();
    let big = "x".repeat(100_000);
    import(&store, "app", &[("f", &big)]).await;
    let archive = collect(store.save(&["app".into()]).unwrap()).await;
    let other = there.open();
    for cut in [300, 2000, 60_000, archive.len() - 4000] {
        let result = other.load(body(archive[..cut].to_vec()), LoadOptions::default()).await;
        assert!(result.is_err(), "{cut}");
    }
    let mut lying = archive.clone();
    let at = lying.windows(4).position(|w| w == b"xxxx").unwrap();
    lying[at] = b'y';
    let error = other.load(body(lying), LoadOptions::default()).await.unwrap_err();
    assert!(error.to_string().starts_with("invalid diffID for layer 0"), "{error}");
    assert!(matches!(
        other.load(body(rootfs(&[("f", "x")])), LoadOptions::default()).await,
        Err(ArchiveError::NoImage)
    ));
    assert_eq!((other.list().len(), there.layers(), there.count("tmp")), (0, 0, 0));
    other.load(body(archive), LoadOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_load_stops_and_cleans_up() {
    let world = World::new();
    let store = world.open();
    let head = Bytes::from(rootfs(&[("f", &"x".repeat(50_000))])[..20_000].to_vec());
    let pieces = futures_util::stream::iter([Ok(head)]);
    let endless = pieces.chain(futures_util::stream::pending());
    let load = store.import(Box::pin(endless), ImportOptions::default());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), load).await.is_err());
    // The blocking side hears of it through the channel; wait for what it leaves.
    for _ in 0..200 {
        if world.count("tmp") == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((world.count("tmp"), world.layers(), store.list().len()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_ids_resolve_as_in_docker() {
    let world = World::new();
    let store = world.open();
    let image = import(&store, "reg.io:5000/team/app:v1", &[("f", "x")]).await;
    let hex = image.id().hex();
    for text in ["reg.io:5000/team/app:v1", hex, &hex[..4], &format!("sha256:{}", &hex[..12])] {
        assert_eq!(store.resolve(text).unwrap().id(), image.id(), "{text}");
    }
    let text = |name: &str| store.resolve(name).unwrap_err().to_string();
    assert_eq!(text("nosuch"), "No such image: nosuch:latest");
    assert_eq!(text("reg.io:5000/team/app"), "No such image: reg.io:5000/team/app:latest");
    assert!(matches!(store.resolve("UPPER"), Err(StoreError::Reference { .. })));
    store.tag(&image, &Reference::parse("other").unwrap()).unwrap();
    assert_eq!(store.summary(&image).repo_tags, ["other:latest", "reg.io:5000/team/app:v1"]);
    assert!(store.summary(&image).matches_reference("oth*"));
    assert!(!store.summary(&image).matches_reference("oth"));
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_follows_dockers_rules() {
    let world = World::new();
    let store = world.open();
    let image = import(&store, "app:1", &[("f", "x")]).await;
    store.tag(&image, &Reference::parse("more:1").unwrap()).unwrap();
    let user = |running| {
        [ImageUser { container: "0123456789abcdef".into(), image: image.id().clone(), running }]
    };
    let conflict = |text: &str, how: RemoveOptions<'_>| match store.remove(text, how) {
        Err(StoreError::Conflict(text)) => text,
        other => panic!("{other:?}"),
    };
    let short = image.id().short().to_owned();
    assert_eq!(
        conflict(&short, NOBODY),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    let removed = store.remove("more:1", NOBODY).unwrap();
    let untagged = Removed::Untagged { name: "more:1".into(), image: image.id().clone() };
    assert_eq!(removed, [untagged]);
    let (stopped, running) = (user(false), user(true));
    assert_eq!(
        conflict("app:1", RemoveOptions { users: &stopped, ..NOBODY }),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container 0123456789ab is using its referenced image {short}"
        )
    );
    assert_eq!(
        conflict(&short, RemoveOptions { users: &running, force: true, prune: true }),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
        )
    );
    store.pin("c1", &image).unwrap();
    let how = RemoveOptions { users: &stopped, force: true, prune: true };
    let removed = store.remove(&short, how).unwrap();
    assert!(removed.contains(&Removed::Image(image.id().clone())));
    assert!(store.list().is_empty());
    // The container still has its layers, also after a restart.
    assert!(store.pinned_lowers("c1").unwrap()[0].join("f").exists());
    drop(store);
    let store = world.open();
    assert!(store.pinned_lowers("c1").unwrap()[0].join("f").exists());
    store.unpin("c1").unwrap();
    assert_eq!((world.layers(), world.count("blobs/sha256")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_layers_stay_until_their_last_image_goes() {
    let world = World::new();
    let store = world.open();
    let base = import(&store, "base", &[("f", "x")]).await;
    let upper = world.path("upper");
    fs::create_dir_all(&upper).unwrap();
    fs::File::create(upper.join("g")).unwrap();
    let top = commit(&store, &base, &upper, "top").await;
    assert!(matches!(store.remove(&base.id().hex()[..9], NOBODY), Err(StoreError::Conflict(_))));
    let lease = store.lease(&top).unwrap();
    let removed = store.remove("top", NOBODY).unwrap();
    assert!(!removed.iter().any(|r| matches!(r, Removed::Layer(_))));
    assert_eq!(world.layers(), 2, "leased");
    drop(lease);
    store.prune(false, &[], |_| true).unwrap();
    assert_eq!(world.layers(), 1);
    assert_eq!(fs::read_to_string(store.lowers(&base)[0].join("f")).unwrap(), "x");
    let pruned = store.prune(true, &[], |_| true).unwrap();
    assert_eq!((pruned.reclaimed, world.layers(), store.list().len()), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_commit_has_no_layer() {
    let world = World::new();
    let store = world.open();
    let base = import(&store, "base", &[("f", "x")]).await;
    fs::create_dir_all(world.path("upper")).unwrap();
    let image = commit(&store, &base, &world.path("upper"), "same").await;
    assert_eq!(image.layers(), base.layers());
    assert_eq!(image.history()[0].size, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_repairs_what_a_crash_left() {
    let world = World::new();
    let store = world.open();
    let image = import(&store, "app", &[("f", "x")]).await;
    let layer = store.lowers(&image)[0].clone();
    drop(store);
    let root = world.path("root");
    fs::create_dir_all(root.join("layers/0123")).unwrap();
    fs::create_dir_all(root.join("tmp/layer-9/x")).unwrap();
    fs::File::create(root.join("blobs/sha256/stray")).unwrap();
    // Lost with the power: unpacked again from its blob.
    fs::remove_dir_all(&layer).unwrap();
    let store = world.open();
    assert_eq!(fs::read_to_string(layer.join("f")).unwrap(), "x");
    assert_eq!((world.layers(), world.count("tmp"), world.count("blobs/sha256")), (1, 0, 3));
    drop(store);
    // Layer and blob lost: the image goes, and says so.
    fs::remove_dir_all(&layer).unwrap();
    for entry in fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        if fs::metadata(&path).unwrap().len() > 1000 {
            fs::remove_file(path).unwrap();
        }
    }
    let store = world.open();
    assert!(store.list().is_empty());
    assert!(matches!(store.resolve("app"), Err(StoreError::NoSuchImage(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn builtin_images_appear_when_asked_for() {
    let (world, other) = (World::new(), World::new());
    let store = world.open();
    let hello = store.resolve("hello-world").unwrap();
    let pause = store.resolve("docker.io/library/pause:latest").unwrap();
    assert_eq!(store.resolve("wharf/welcome").unwrap().layers(), hello.layers());
    assert_eq!(hello.layers(), pause.layers());
    assert_eq!(world.layers(), 1);
    let entrypoint = hello.run_config().unwrap().entrypoint.clone().unwrap();
    assert_eq!(entrypoint, ["/wharf", "builtin-hello"]);
    assert!(store.lowers(&hello)[0].join("wharf").exists());
    assert_eq!(other.open().resolve("hello-world").unwrap().id(), hello.id());
    assert!(store.resolve("hello-world:other").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_compare_upper_and_lowers() {
    let world = World::new();
    let store = world.open();
    let base = import(&store, "base", &[("etc/a", "1"), ("etc/d/e", "2")]).await;
    let upper = world.path("upper");
    fs::create_dir_all(upper.join("etc/new")).unwrap();
    fs::File::create(upper.join("etc/new/f")).unwrap();
    let etc = wharf_sys::root::Root::open(&upper).unwrap().dir(Path::new("etc")).unwrap();
    etc.make_node("a".as_ref(), wharf_sys::root::Kind::CharDevice, 0, (0, 0)).unwrap();
    fs::create_dir_all(upper.join("etc/d")).unwrap();
    fs::File::create(upper.join("etc/d/e")).unwrap();
    let found = changes(&upper, &store.lowers(&base)).unwrap();
    let text: Vec<String> =
        found.iter().map(|c| format!("{:?} {}", c.kind, c.path.display())).collect();
    assert_eq!(
        text,
        [
            "Modified /etc",
            "Deleted /etc/a",
            "Modified /etc/d",
            "Modified /etc/d/e",
            "Added /etc/new",
            "Added /etc/new/f"
        ]
    );
}
