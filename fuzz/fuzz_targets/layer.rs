//! Layer archives: any bytes and any order of entries are imported or refused, and touch nothing outside.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use wharf_image::{ByteStream, ImageStore, ImportOptions, RemoveOptions, Settings};

struct World {
    dir: tempfile::TempDir,
    store: ImageStore,
    runtime: tokio::runtime::Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let root = dir.path().join("store");
    let db = wharf_base::db::Db::open(&root.join("db")).expect("open a database");
    let store = ImageStore::open(&root, db, Settings::default()).expect("open a store");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    World { dir, store, runtime: runtime.expect("start a runtime") }
});

type Entry<'a> = (&'a str, u8, &'a str, &'a [u8]);

/// Entries with right checksums, so that their meaning is reached; or the bytes as they are.
fn archive(raw: bool, entries: &[Entry<'_>], bytes: &[u8]) -> Vec<u8> {
    if raw {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    for (name, kind, link, body) in entries {
        let mut header = tar::Header::new_ustar();
        let put = |field: &mut [u8], text: &str| {
            let len = text.len().min(field.len());
            field[..len].copy_from_slice(&text.as_bytes()[..len]);
        };
        put(&mut header.as_mut_bytes()[..100], name);
        put(&mut header.as_mut_bytes()[157..257], link);
        header.as_mut_bytes()[156] = b"0123456xgLK"[usize::from(*kind) % 11];
        header.set_mode(0o755);
        header.set_size(body.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fuzz_target!(|input: (bool, Vec<Entry<'_>>, &[u8])| {
    let (raw, entries, bytes) = input;
    let tar = archive(raw, &entries, bytes);
    let world = &*WORLD;
    let body: ByteStream = Box::pin(futures_util::stream::once(async move { Ok(tar.into()) }));
    let imported = world.runtime.block_on(world.store.import(body, ImportOptions::default()));
    if let Ok(image) = imported {
        let how = RemoveOptions { force: true, prune: true, users: &[] };
        world.store.remove(&image.id().to_string(), how).expect("remove it");
    }
    let outside = std::fs::read_dir(world.dir.path()).expect("list").count();
    assert!(outside == 1, "something was made outside the store");
});
