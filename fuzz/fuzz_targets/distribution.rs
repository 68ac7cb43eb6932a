//! Requests to the registry: a first line, header lines, an empty line, a body; several, apart by a line of `---`.
#![no_main]
use std::sync::OnceLock;

use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use wharf_base::db::Db;
use wharf_image::ImageStore;
use wharf_registry::{Registry, Settings, requested};

struct World {
    registry: Registry,
    runtime: tokio::runtime::Runtime,
    _root: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let root = tempfile::tempdir().expect("a directory");
        let db = Db::open(&root.path().join("db")).expect("a database");
        let store = ImageStore::open(root.path(), db.clone(), Default::default()).expect("a store");
        let registry = Registry::open(store.content(), db, Settings::default()).expect("a registry");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        World { registry, runtime: runtime.expect("threads"), _root: root }
    })
}

fn request(bytes: &[u8]) -> Option<http::Request<wharf_registry::Requested>> {
    let end = bytes.windows(2).position(|w| w == b"\n\n").unwrap_or(bytes.len());
    let body = bytes.get(end + 2..).unwrap_or_default().to_vec();
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let (first, rest) = head.split_once('\n').unwrap_or((head, ""));
    let (method, target) = first.split_once(' ')?;
    let mut request = http::Request::builder().method(method).uri(target);
    for line in rest.lines() {
        let (name, value) = line.split_once(':')?;
        request = request.header(name, value.trim());
    }
    request.body(requested(Full::new(bytes::Bytes::from(body)))).ok()
}

fuzz_target!(|bytes: &[u8]| {
    let world = world();
    world.runtime.block_on(async {
        let mut rest = bytes;
        loop {
            let end = rest.windows(5).position(|w| w == b"\n---\n");
            if let Some(request) = request(&rest[..end.unwrap_or(rest.len())]) {
                let response = world.registry.answer(request, false).await;
                assert_ne!(response.status(), 500, "no request breaks the registry");
                response.into_body().collect().await.expect("an answer is whole");
            }
            match end {
                Some(end) => rest = &rest[end + 5..],
                None => break,
            }
        }
    });
});
