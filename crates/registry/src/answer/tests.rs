//! The registry by its answers: the cases of the specification's conformance suite, and bad input.
#![allow(clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_base::clock::Clock;
use wharf_base::db::{Db, DbError};
use wharf_image::ImageStore;
use wharf_spec::digest::{Algorithm, Digest, Hasher};
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

use crate::access::Rules;
use crate::auth::Auth;
use crate::body::requested;
use crate::cache::Cache;
use crate::{Registry, Settings};

/// A registry in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) registry: Registry,
    pub(crate) clock: Clock,
    root: tempfile::TempDir,
}

/// What a request was answered.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

impl Fixture {
    pub(crate) fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(Duration::from_secs(1_000_000));
        let registry = open(root.path().to_owned(), clock.clone(), change);
        Self { registry, clock, root }
    }

    /// The same directory, opened once more.
    fn reopen(self) -> Self {
        let Self { registry, clock, root } = self;
        drop(registry);
        let registry = open(root.path().to_owned(), clock.clone(), |_| ());
        Self { registry, clock, root }
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(target).header("host", "r.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = requested(Full::new(Bytes::copy_from_slice(body)));
        let response = self.registry.answer(request.body(body).unwrap(), false).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    #[track_caller]
    fn check(reply: Reply, what: &str, status: u16) -> Reply {
        assert_eq!(reply.status, status, "{what}: {}", String::from_utf8_lossy(&reply.body));
        reply
    }

    pub(crate) async fn expect(&self, method: &str, target: &str, status: u16) -> Reply {
        let reply = self.ask(method, target, &[], b"").await;
        Self::check(reply, &format!("{method} {target}"), status)
    }

    /// Pushes a blob by `POST` and `PUT`.
    pub(crate) async fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let location = self.begin(name).await;
        let put = self.ask("PUT", &format!("{location}?digest={digest}"), &[], content).await;
        Self::check(put, "PUT of a blob", 201);
        digest
    }

    pub(crate) async fn push_image(
        &self,
        name: &str,
        tag: &str,
        config: &[u8],
        layer: &[u8],
    ) -> Digest {
        self.push_blob(name, config).await;
        self.push_blob(name, layer).await;
        self.push_manifest(name, tag, &image(config, layer), OCI_MANIFEST).await
    }

    async fn push_manifest(&self, name: &str, what: &str, manifest: &Value, kind: &str) -> Digest {
        let reply = self.put_manifest(name, what, manifest, kind).await;
        Self::check(reply, "PUT of a manifest", 201);
        Digest::sha256(manifest.to_string().as_bytes())
    }

    async fn put_manifest(&self, name: &str, what: &str, manifest: &Value, kind: &str) -> Reply {
        let target = format!("/v2/{name}/manifests/{what}");
        self.ask("PUT", &target, &[("content-type", kind)], manifest.to_string().as_bytes()).await
    }

    async fn begin(&self, name: &str) -> String {
        let target = format!("/v2/{name}/blobs/uploads/");
        self.expect("POST", &target, 202).await.header("location")
    }

    pub(crate) fn blobs_on_disk(&self) -> usize {
        ["sha256", "sha512"]
            .iter()
            .map(|dir| fs::read_dir(self.root.path().join("blobs").join(dir)).unwrap().count())
            .sum()
    }

    fn uploads_on_disk(&self) -> usize {
        fs::read_dir(self.root.path().join("uploads")).unwrap().count()
    }
}

fn open(root: PathBuf, clock: Clock, change: impl FnOnce(&mut Settings)) -> Registry {
    // Whoever had it before may still be flushing.
    let db = loop {
        match Db::open(&root.join("db")) {
            Err(DbError::Locked { .. }) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    let images = wharf_image::Settings { clock: clock.clone(), ..wharf_image::Settings::default() };
    let store = ImageStore::open(&root, db.clone(), images).unwrap();
    let mut settings = Settings { clock, ..Settings::default() };
    change(&mut settings);
    Registry::open(store.content(), db, settings).unwrap()
}

fn plain() -> Fixture {
    Fixture::new(|_| ())
}

pub(crate) fn config_and_layer() -> (Vec<u8>, Vec<u8>) {
    (br#"{"os":"linux"}"#.to_vec(), b"a layer".to_vec())
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::sha256(content), "size": content.len()})
}

fn image(config: &[u8], layer: &[u8]) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config), "layers": [descriptor(OCI_LAYER, layer)]
    })
}

#[tokio::test]
async fn the_base_says_what_this_is() {
    let f = plain();
    let reply = f.expect("GET", "/v2/", 200).await;
    assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
    f.expect("GET", "/v2", 200).await;
    let reply = f.expect("POST", "/v2/", 405).await;
    assert_eq!(
        (reply.header("allow").as_str(), reply.code().as_str()),
        ("GET, HEAD", "UNSUPPORTED")
    );
    f.expect("GET", "/", 404).await;
}

#[tokio::test]
async fn blobs_are_pushed_in_every_way() {
    let f = plain();
    let content = b"0123456789";
    let digest = Digest::sha256(content);
    let blob = format!("/v2/a/b/blobs/{digest}");
    f.expect("GET", &blob, 404).await;

    // One request.
    let target = format!("/v2/a/b/blobs/uploads/?digest={digest}");
    let reply = Fixture::check(f.ask("POST", &target, &[], content).await, "single POST", 201);
    assert_eq!(reply.header("location"), blob);
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    assert_eq!(f.expect("GET", &blob, 200).await.body, content.as_slice());
    f.expect("DELETE", &blob, 202).await;
    f.expect("GET", &blob, 404).await;

    // POST and PUT.
    f.push_blob("a/b", content).await;
    f.expect("DELETE", &blob, 202).await;

    // Streamed, and then in pieces with the last in the PUT.
    for (pieces, last) in [
        (vec![("", &content[..])], &b""[..]),
        (vec![("0-3", &content[..4]), ("4-6", &content[4..7])], &content[7..]),
    ] {
        let mut location = f.begin("a/b").await;
        let mut sent = 0;
        for (range, piece) in pieces {
            let headers: &[(&str, &str)] =
                if range.is_empty() { &[] } else { &[("content-range", range)] };
            let reply =
                Fixture::check(f.ask("PATCH", &location, headers, piece).await, "PATCH", 202);
            sent += piece.len();
            assert_eq!(reply.header("range"), format!("0-{}", sent - 1));
            location = reply.header("location");
        }
        let reply = f.expect("GET", &location, 204).await;
        assert_eq!(reply.header("range"), format!("0-{}", sent - 1));
        let put = f.ask("PUT", &format!("{location}?digest={digest}"), &[], last).await;
        assert_eq!(Fixture::check(put, "PUT", 201).header("location"), blob);
        f.expect("GET", &location, 404).await;
        assert_eq!(f.expect("GET", &blob, 200).await.body, content.as_slice());
        f.expect("DELETE", &blob, 202).await;
    }
    assert_eq!((f.blobs_on_disk(), f.uploads_on_disk()), (0, 0));
}

#[tokio::test]
async fn pieces_out_of_order_change_nothing() {
    let f = plain();
    let digest = Digest::sha256(b"0123456789");
    let location = f.begin("a").await;
    let first = f.ask("PATCH", &location, &[("content-range", "4-6")], b"456").await;
    let first = Fixture::check(first, "a first piece that is not the first", 416);
    assert_eq!(first.header("location"), location);
    Fixture::check(
        f.ask("PATCH", &location, &[("content-range", "0-4")], b"01234").await,
        "PATCH",
        202,
    );
    for (range, status) in [("4-8", 416), ("6-9", 416), ("9-5", 416), ("x", 416), ("0-4", 416)] {
        let reply = f.ask("PATCH", &location, &[("content-range", range)], b"56789").await;
        assert_eq!(Fixture::check(reply, range, status).header("range"), "0-4");
    }
    let put = format!("{location}?digest={digest}");
    let reply = f.ask("PUT", &put, &[("content-range", "7-9")], b"789").await;
    Fixture::check(reply, "a last piece that leaves a hole", 416);
    let lies = [("content-range", "5-9"), ("content-length", "3")];
    let reply = Fixture::check(f.ask("PATCH", &location, &lies, b"567").await, "two lengths", 400);
    assert_eq!(reply.code(), "SIZE_INVALID");
    let reply = f.ask("PUT", &put, &[("content-range", "5-9")], b"56789").await;
    Fixture::check(reply, "the rest", 201);
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing_behind() {
    let f = plain();
    let digest = Digest::sha256(b"right");
    let target = format!("/v2/a/blobs/uploads/?digest={digest}");
    let reply = Fixture::check(f.ask("POST", &target, &[], b"wrong").await, "POST", 400);
    assert_eq!(reply.code(), "DIGEST_INVALID");
    let location = f.begin("a").await;
    f.ask("PATCH", &location, &[], b"wro").await;
    let reply = f.ask("PUT", &format!("{location}?digest={digest}"), &[], b"ng").await;
    assert_eq!(Fixture::check(reply, "PUT", 400).code(), "DIGEST_INVALID");
    for query in
        ["", "?digest=", "?digest=sha256:x", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"]
    {
        let location = f.begin("a").await;
        let reply = f.ask("PUT", &format!("{location}{query}"), &[], b"right").await;
        assert_eq!(Fixture::check(reply, query, 400).code(), "DIGEST_INVALID");
        f.expect("DELETE", &location, 204).await;
        f.expect("DELETE", &location, 404).await;
    }
    f.expect("GET", &format!("/v2/a/blobs/{digest}"), 404).await;
    assert_eq!((f.blobs_on_disk(), f.uploads_on_disk()), (0, 0));
}

#[tokio::test]
async fn uploads_belong_to_their_repository() {
    let f = plain();
    let location = f.begin("a").await;
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let target = format!("{elsewhere}?digest={}", Digest::sha256(b""));
        assert_eq!(f.expect(method, &target, 404).await.code(), "BLOB_UPLOAD_UNKNOWN");
    }
    for id in
        ["..", "%2e%2e", "00000000-0000-4000-8000-000000000000", "..%2f..%2fdb%2fjournal", "%00"]
    {
        f.expect("PATCH", &format!("/v2/a/blobs/uploads/{id}"), 404).await;
    }
    f.expect("GET", &location, 204).await;
}

#[tokio::test]
async fn sha512_is_a_digest_too() {
    let f = plain();
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"content");
    let digest = hasher.finish();
    for begin in ["/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/?digest-algorithm=sha512"] {
        let location = f.expect("POST", begin, 202).await.header("location");
        f.ask("PATCH", &location, &[], b"con").await;
        let reply = f.ask("PUT", &format!("{location}?digest={digest}"), &[], b"tent").await;
        Fixture::check(reply, begin, 201);
        f.expect("DELETE", &format!("/v2/a/blobs/{digest}"), 202).await;
    }
    f.expect("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", 400).await;
}

#[tokio::test]
async fn the_empty_blob_is_a_blob() {
    let f = plain();
    let digest = f.push_blob("a", b"").await;
    let reply = f.expect("GET", &format!("/v2/a/blobs/{digest}"), 200).await;
    assert_eq!((reply.body.len(), reply.header("content-length")), (0, "0".into()));
}

#[tokio::test]
async fn blobs_are_sent_in_part_and_not_at_all() {
    let f = plain();
    let content: Vec<u8> = (0..2048u16).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let digest = f.push_blob("a", &content).await;
    let target = format!("/v2/a/blobs/{digest}");
    for (range, expected) in [
        ("bytes=500-1499", 500..1500),
        ("bytes=500-", 500..2048),
        ("bytes=-500", 1548..2048),
        ("bytes=2000-5000", 2000..2048),
    ] {
        let reply =
            Fixture::check(f.ask("GET", &target, &[("range", range)], b"").await, range, 206);
        assert_eq!(reply.body, content[expected.clone()]);
        let shown = format!("bytes {}-{}/2048", expected.start, expected.end - 1);
        assert_eq!(reply.header("content-range"), shown);
        assert_eq!(reply.header("content-length"), expected.len().to_string());
    }
    for range in ["bytes=500-0", "bytes=5000-10000", "bytes=2048-"] {
        let reply =
            Fixture::check(f.ask("GET", &target, &[("range", range)], b"").await, range, 416);
        assert_eq!(reply.header("content-range"), "bytes */2048");
    }
    let reply = f.expect("HEAD", &target, 200).await;
    assert_eq!((reply.header("content-length").as_str(), reply.body.len()), ("2048", 0));
    let tag = reply.header("etag");
    for tags in [tag.as_str(), "*", &digest.to_string(), "\"x\", W/\"y\", *"] {
        let reply = f.ask("GET", &target, &[("if-none-match", tags)], b"").await;
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{tags}");
    }
    let other = [("range", "bytes=0-0"), ("if-range", "\"x\"")];
    assert_eq!(f.ask("GET", &target, &other, b"").await.body.len(), 2048);
    let same = [("range", "bytes=0-0"), ("if-range", tag.as_str())];
    assert_eq!(f.ask("GET", &target, &same, b"").await.body.len(), 1);
}

#[tokio::test]
async fn blobs_are_mounted_from_where_they_are() {
    let f = plain();
    let digest = f.push_blob("from", b"content").await;
    let reply =
        f.expect("POST", &format!("/v2/to/blobs/uploads/?mount={digest}&from=from"), 201).await;
    assert_eq!(reply.header("location"), format!("/v2/to/blobs/{digest}"));
    f.expect("POST", &format!("/v2/third/blobs/uploads/?mount={digest}"), 201).await;
    f.expect("DELETE", &format!("/v2/from/blobs/{digest}"), 202).await;
    f.expect("GET", &format!("/v2/to/blobs/{digest}"), 200).await;
    assert_eq!(f.blobs_on_disk(), 1);
    // Missing there: an upload instead.
    f.expect("POST", &format!("/v2/x/blobs/uploads/?mount={digest}&from=from"), 202).await;
    f.expect("POST", &format!("/v2/x/blobs/uploads/?mount={digest}&from=.."), 400).await;
    f.expect("POST", "/v2/x/blobs/uploads/?mount=sha256:x&from=from", 400).await;
}

#[tokio::test]
async fn images_are_pushed_pulled_and_deleted() {
    let f = plain();
    let (config, layer) = config_and_layer();
    let digest = f.push_image("a", "1", &config, &layer).await;
    let manifest = image(&config, &layer).to_string();
    for what in ["1", &digest.to_string()] {
        let target = format!("/v2/a/manifests/{what}");
        let reply = f.expect("GET", &target, 200).await;
        assert_eq!(reply.body, manifest.as_bytes());
        assert_eq!(reply.header("content-type"), OCI_MANIFEST);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        let head = f.expect("HEAD", &target, 200).await;
        assert_eq!(head.header("content-length"), manifest.len().to_string());
        assert_eq!(head.header("content-type"), OCI_MANIFEST);
        let tag = format!("\"{digest}\"");
        assert_eq!(f.ask("GET", &target, &[("if-none-match", &tag)], b"").await.status, 304);
    }
    let reply = f.expect("DELETE", &format!("/v2/a/blobs/{}", Digest::sha256(&layer)), 405).await;
    assert!(reply.json()["errors"][0]["message"].as_str().unwrap().contains("needs blob"));
    let f = f.reopen();
    f.expect("GET", "/v2/a/manifests/1", 200).await;
    f.expect("DELETE", "/v2/a/manifests/1", 202).await;
    f.expect("DELETE", "/v2/a/manifests/1", 404).await;
    f.expect("GET", &format!("/v2/a/manifests/{digest}"), 200).await;
    f.expect("DELETE", &format!("/v2/a/manifests/{digest}"), 202).await;
    assert_eq!(
        f.expect("GET", &format!("/v2/a/manifests/{digest}"), 404).await.code(),
        "NAME_UNKNOWN"
    );
    f.expect("DELETE", &format!("/v2/a/blobs/{}", Digest::sha256(&layer)), 202).await;
    f.expect("DELETE", &format!("/v2/a/blobs/{}", Digest::sha256(&config)), 202).await;
    assert_eq!(f.blobs_on_disk(), 0);
}

#[tokio::test]
async fn manifests_that_are_wrong_are_refused() {
    let f = plain();
    let (config, layer) = config_and_layer();
    let good = image(&config, &layer);
    let put = async |what: &str, manifest: &Value, kind: &str, status: u16| {
        let reply = f.put_manifest("a", what, manifest, kind).await;
        Fixture::check(reply, &manifest.to_string(), status).code()
    };
    assert_eq!(put("1", &good, OCI_MANIFEST, 400).await, "MANIFEST_BLOB_UNKNOWN");
    f.push_blob("a", &config).await;
    f.push_blob("a", &layer).await;
    assert_eq!(put("sha256:baddigeststring", &good, OCI_MANIFEST, 400).await, "DIGEST_INVALID");
    let other = Digest::sha256(b"other").to_string();
    assert_eq!(put(&other, &good, OCI_MANIFEST, 400).await, "DIGEST_INVALID");
    assert_eq!(put("1", &good, OCI_INDEX, 400).await, "MANIFEST_INVALID");
    assert_eq!(put("1", &json!({}), OCI_MANIFEST, 400).await, "MANIFEST_INVALID");
    assert_eq!(put("1", &json!([]), "", 400).await, "MANIFEST_INVALID");
    let schema1 = json!({"schemaVersion": 1, "fsLayers": []});
    assert_eq!(
        put("1", &schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws", 400).await,
        "MANIFEST_INVALID"
    );
    let mut both = good.clone();
    both["manifests"] = json!([]);
    assert_eq!(put("1", &both, OCI_MANIFEST, 400).await, "MANIFEST_INVALID");
    let mut wrong_size = good.clone();
    wrong_size["layers"][0]["size"] = json!(1);
    assert_eq!(put("1", &wrong_size, OCI_MANIFEST, 400).await, "SIZE_INVALID");
    let mut path = good.clone();
    path["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
    assert_eq!(put("1", &path, OCI_MANIFEST, 400).await, "MANIFEST_INVALID");
    let mut large = good.clone();
    large["annotations"] = json!({"x": "y".repeat(4 << 20)});
    assert_eq!(put("1", &large, OCI_MANIFEST, 413).await, "MANIFEST_INVALID");
    assert_eq!(put(&"t".repeat(129), &good, OCI_MANIFEST, 400).await, "TAG_INVALID");
    f.expect("GET", "/v2/a/tags/list", 404).await;
}

#[tokio::test]
async fn indexes_may_be_sparse_and_artifacts_empty() {
    let f = plain();
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_MANIFEST, b"for another platform")]
    });
    f.push_manifest("a", "multi", &index, OCI_INDEX).await;
    let empty = f.push_blob("a", b"{}").await;
    let artifact = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x", "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2, "data": "e30="}
    });
    f.push_manifest("a", "artifact", &artifact, OCI_MANIFEST).await;
    assert_eq!(
        f.expect("GET", "/v2/a/manifests/multi", 200).await.header("content-type"),
        OCI_INDEX
    );
}

#[tokio::test]
async fn one_push_gives_several_tags() {
    let f = plain();
    let (config, layer) = config_and_layer();
    f.push_blob("a", &config).await;
    f.push_blob("a", &layer).await;
    let manifest = image(&config, &layer);
    let digest = Digest::sha256(manifest.to_string().as_bytes());
    let what = format!("{digest}?tag=1&tag=1.2&tag=latest");
    let reply =
        Fixture::check(f.put_manifest("a", &what, &manifest, OCI_MANIFEST).await, "PUT", 201);
    let tags: Vec<_> = reply.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["1", "1.2", "latest"]);
    assert_eq!(reply.header("location"), format!("/v2/a/manifests/{digest}"));
    assert_eq!(
        f.expect("GET", "/v2/a/tags/list", 200).await.json()["tags"],
        json!(["1", "1.2", "latest"])
    );
    f.put_manifest("a", &format!("{digest}?tag=.bad"), &manifest, OCI_MANIFEST).await;
    f.expect("GET", "/v2/a/manifests/.bad", 400).await;
    f.expect("DELETE", &format!("/v2/a/manifests/{digest}"), 202).await;
    f.expect("GET", "/v2/a/tags/list", 404).await;
}

#[tokio::test]
async fn tags_come_in_order_and_in_pages() {
    let f = plain();
    let (config, layer) = config_and_layer();
    for tag in ["b", "a", "C", "d", "1"] {
        f.push_image("x/y", tag, &config, &layer).await;
    }
    let list = async |query: &str| {
        let reply = f.expect("GET", &format!("/v2/x/y/tags/list{query}"), 200).await;
        let tags: Vec<String> = serde_json::from_value(reply.json()["tags"].clone()).unwrap();
        (tags.concat(), reply.header("link"))
    };
    assert_eq!(list("").await, ("1Cabd".into(), String::new()));
    assert_eq!(
        list("?n=2").await,
        ("1C".into(), "</v2/x/y/tags/list?last=C&n=2>; rel=\"next\"".into())
    );
    assert_eq!(
        list("?last=C&n=2").await,
        ("ab".into(), "</v2/x/y/tags/list?last=b&n=2>; rel=\"next\"".into())
    );
    assert_eq!(list("?last=b").await, ("d".into(), String::new()));
    assert_eq!(list("?n=0").await, (String::new(), String::new()));
    assert_eq!(list("?n=5").await.1, "");
    assert_eq!(list("?n=99999999999").await.0, "1Cabd");
    f.expect("GET", "/v2/x/y/tags/list?n=-1", 400).await;
    f.expect("GET", "/v2/x/y/tags/list?n=999999999999999999999999", 400).await;
    assert_eq!(f.expect("GET", "/v2/none/tags/list", 404).await.code(), "NAME_UNKNOWN");
}

#[tokio::test]
async fn the_catalog_has_pages_too() {
    let f = plain();
    let (config, layer) = config_and_layer();
    for name in ["b", "a", "c/d"] {
        f.push_image(name, "1", &config, &layer).await;
    }
    let reply = f.expect("GET", "/v2/_catalog", 200).await;
    assert_eq!(reply.json(), json!({"repositories": ["a", "b", "c/d"]}));
    let reply = f.expect("GET", "/v2/_catalog?n=2", 200).await;
    assert_eq!(reply.header("link"), "</v2/_catalog?last=b&n=2>; rel=\"next\"");
    let reply = f.expect("GET", "/v2/_catalog?n=2&last=b", 200).await;
    assert_eq!(
        (reply.json(), reply.header("link")),
        (json!({"repositories": ["c/d"]}), String::new())
    );
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_paged() {
    let f = plain();
    let (config, layer) = config_and_layer();
    f.push_blob("a", &config).await;
    let subject = descriptor(OCI_MANIFEST, image(&config, &layer).to_string().as_bytes());
    let list = format!("/v2/a/referrers/{}", subject["digest"].as_str().unwrap());
    let reply = f.expect("GET", &list, 200).await;
    assert_eq!(reply.header("content-type"), OCI_INDEX);
    assert_eq!(reply.json()["manifests"], json!([]));
    let mut digests = BTreeMap::new();
    for (i, kind) in ["application/sbom+json", "application/sig", ""].iter().enumerate() {
        let mut referrer = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, &config),
            "layers": [], "subject": subject, "annotations": {"n": i.to_string()}
        });
        if !kind.is_empty() {
            referrer["artifactType"] = json!(kind);
        }
        let text = referrer.to_string();
        let digest = Digest::sha256(text.as_bytes()).to_string();
        let target = format!("/v2/a/manifests/{digest}");
        let reply = f.ask("PUT", &target, &[("content-type", OCI_MANIFEST)], text.as_bytes()).await;
        let reply = Fixture::check(reply, "PUT with subject", 201);
        assert_eq!(reply.header("oci-subject"), subject["digest"].as_str().unwrap());
        let kind = if kind.is_empty() { OCI_CONFIG } else { kind };
        digests.insert(digest, (kind.to_owned(), i.to_string(), text.len()));
    }
    let all = f.expect("GET", &list, 200).await.json();
    let found: BTreeMap<_, _> = all["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let text = |v: &Value| v.as_str().unwrap().to_owned();
            let size = usize::try_from(d["size"].as_u64().unwrap()).unwrap();
            (text(&d["digest"]), (text(&d["artifactType"]), text(&d["annotations"]["n"]), size))
        })
        .collect();
    assert_eq!(found, digests);
    for query in ["application/sbom+json", "application%2Fsbom%2Bjson"] {
        let reply = f.expect("GET", &format!("{list}?artifactType={query}"), 200).await;
        assert_eq!(reply.header("oci-filters-applied"), "artifactType");
        assert_eq!(reply.json()["manifests"].as_array().unwrap().len(), 1, "{query}");
    }
    let (mut target, mut seen) = (format!("{list}?n=1"), 0);
    while !target.is_empty() {
        let reply = f.expect("GET", &target, 200).await;
        seen += reply.json()["manifests"].as_array().unwrap().len();
        let link = reply.header("link");
        target = link.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
    }
    assert_eq!(seen, 3);
    f.expect("GET", "/v2/a/referrers/nonsense", 400).await;
    f.expect("GET", &format!("/v2/none/referrers/{}", Digest::sha256(b"")), 200).await;
    f.expect("DELETE", &format!("/v2/a/manifests/{}", digests.keys().next().unwrap()), 202).await;
    assert_eq!(f.expect("GET", &list, 200).await.json()["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn puts_may_have_conditions() {
    let f = plain();
    let (config, layer) = config_and_layer();
    let digest = f.push_image("a", "1", &config, &layer).await;
    let mut other = image(&config, &layer);
    other["annotations"] = json!({"a": "b"});
    let put = async |tag: &str, header: (&str, &str)| {
        let headers = [("content-type", OCI_MANIFEST), header];
        let target = format!("/v2/a/manifests/{tag}");
        f.ask("PUT", &target, &headers, other.to_string().as_bytes()).await.status
    };
    assert_eq!(put("1", ("if-none-match", "*")).await, 412);
    assert_eq!(put("new", ("if-none-match", "*")).await, 201);
    assert_eq!(put("1", ("if-match", "\"sha256:x\"")).await, 412);
    assert_eq!(put("newer", ("if-match", "*")).await, 412);
    assert_eq!(put("1", ("if-match", &format!("\"{digest}\""))).await, 201);
}

#[tokio::test]
async fn a_registry_may_be_read_only_or_keep_everything() {
    let f = Fixture::new(|settings| settings.read_only = true);
    assert_eq!(f.expect("POST", "/v2/a/blobs/uploads/", 405).await.code(), "UNSUPPORTED");
    f.expect("DELETE", "/v2/a/manifests/1", 405).await;
    f.expect("GET", "/v2/", 200).await;
    let f = Fixture::new(|settings| settings.deletes = false);
    let (config, layer) = config_and_layer();
    f.push_image("a", "1", &config, &layer).await;
    f.expect("DELETE", "/v2/a/manifests/1", 405).await;
    f.expect("DELETE", &format!("/v2/a/blobs/{}", Digest::sha256(&layer)), 405).await;
    let location = f.begin("a").await;
    f.expect("DELETE", &location, 204).await;
}

#[tokio::test]
async fn rules_keep_tags_and_repositories() {
    let text = "[[rule]]\nrepository = 'kept/*'\npull = ['*']\npush = ['*']\ndelete = ['*']\nimmutable-tags = ['v*']\n[[rule]]\nrepository = 'shut'\n";
    let f = Fixture::new(|settings| settings.rules = Rules::parse(text).unwrap());
    let (config, layer) = config_and_layer();
    let digest = f.push_image("kept/a", "v1", &config, &layer).await;
    f.push_manifest("kept/a", "v1", &image(&config, &layer), OCI_MANIFEST).await;
    let mut other = image(&config, &layer);
    other["annotations"] = json!({"a": "b"});
    assert_eq!(f.put_manifest("kept/a", "v1", &other, OCI_MANIFEST).await.status, 403);
    assert_eq!(f.put_manifest("kept/a", "latest", &other, OCI_MANIFEST).await.status, 201);
    f.expect("DELETE", "/v2/kept/a/manifests/v1", 403).await;
    f.expect("DELETE", &format!("/v2/kept/a/manifests/{digest}"), 403).await;
    assert_eq!(
        f.expect("GET", "/v2/kept/a/manifests/v1", 200).await.header("docker-content-digest"),
        digest.to_string()
    );
    assert_eq!(f.expect("GET", "/v2/shut/tags/list", 403).await.code(), "DENIED");
    f.expect(
        "POST",
        &format!("/v2/other/blobs/uploads/?mount={}&from=shut", Digest::sha256(&layer)),
        202,
    )
    .await;
}

fn passwords(dir: &std::path::Path) -> PathBuf {
    let path = dir.join("htpasswd");
    fs::write(&path, format!("ann:{}", bcrypt::hash("secret", 4).unwrap())).unwrap();
    path
}

/// `ann:secret`
const ANN: (&str, &str) = ("authorization", "Basic YW5uOnNlY3JldA==");
/// `ann:wrong`
const WRONG: (&str, &str) = ("authorization", "Basic YW5uOndyb25n");

#[tokio::test]
async fn passwords_open_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Auth::basic(&passwords(dir.path())).unwrap();
    let f = Fixture::new(|settings| settings.auth = auth);
    let reply = f.expect("GET", "/v2/", 401).await;
    assert_eq!(reply.header("www-authenticate"), "Basic realm=\"wharf registry\"");
    assert_eq!(reply.code(), "UNAUTHORIZED");
    assert_eq!(f.ask("GET", "/v2/", &[WRONG], b"").await.status, 401);
    assert_eq!(f.ask("GET", "/v2/", &[ANN], b"").await.status, 200);
    f.expect("GET", "/v2/a/tags/list", 401).await;
    assert_eq!(f.ask("POST", "/v2/a/blobs/uploads/", &[ANN], b"").await.status, 202);
    for odd in ["", "Basic", "Basic !", "Basic YW5u", "Bearer x", "Negotiate"] {
        assert_eq!(f.ask("GET", "/v2/", &[("authorization", odd)], b"").await.status, 401, "{odd}");
    }
    f.expect("GET", "/token", 404).await;
}

#[tokio::test]
async fn tokens_open_the_door_and_say_which_is_shut() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Auth::token(&passwords(dir.path())).unwrap();
    let rules = "[[rule]]\nrepository = 'open/**'\npull = ['*']\npush = ['@users']\n";
    let f = Fixture::new(|settings| {
        settings.auth = auth;
        settings.rules = Rules::parse(rules).unwrap();
    });
    let reply = f.expect("GET", "/v2/", 401).await;
    assert_eq!(
        reply.header("www-authenticate"),
        "Bearer realm=\"http://r.test/token\",service=\"r.test\""
    );
    let reply = f.expect("POST", "/v2/open/a/blobs/uploads/", 401).await;
    assert_eq!(
        reply.header("www-authenticate"),
        "Bearer realm=\"http://r.test/token\",service=\"r.test\",scope=\"repository:open/a:pull,push\""
    );
    let token = async |headers: &[(&str, &str)]| {
        let reply = f.ask("GET", "/token?service=r.test&offline_token=true", headers, b"").await;
        (reply.status, reply.json())
    };
    assert_eq!(token(&[WRONG]).await.0, 401);
    let anonymous = token(&[]).await.1;
    assert!(anonymous.get("refresh_token").is_none());
    let bearer = |answer: &Value| format!("Bearer {}", answer["token"].as_str().unwrap());
    let anonymous = bearer(&anonymous);
    let anonymous = [("authorization", anonymous.as_str())];
    assert_eq!(f.ask("GET", "/v2/open/a/tags/list", &anonymous, b"").await.status, 404);
    assert_eq!(f.ask("GET", "/v2/shut/tags/list", &anonymous, b"").await.status, 401);
    assert_eq!(f.ask("POST", "/v2/open/a/blobs/uploads/", &anonymous, b"").await.status, 401);
    let answer = token(&[ANN]).await.1;
    let ann = bearer(&answer);
    let ann = [("authorization", ann.as_str())];
    assert_eq!(f.ask("GET", "/v2/", &ann, b"").await.status, 200);
    assert_eq!(f.ask("POST", "/v2/open/a/blobs/uploads/", &ann, b"").await.status, 202);
    assert_eq!(f.ask("DELETE", "/v2/open/a/manifests/1", &ann, b"").await.status, 403);
    let form = format!(
        "grant_type=refresh_token&refresh_token={}",
        answer["refresh_token"].as_str().unwrap()
    );
    let reply = f.ask("POST", "/token", &[], form.as_bytes()).await;
    assert_eq!(reply.status, 200);
    let again = bearer(&reply.json());
    assert_eq!(f.ask("GET", "/v2/", &[("authorization", &again)], b"").await.status, 200);
    let form = b"grant_type=password&username=ann&password=secret";
    assert_eq!(f.ask("POST", "/token", &[], form).await.status, 200);
    for bad in
        ["grant_type=password&username=ann&password=x", "grant_type=refresh_token&refresh_token=x"]
    {
        assert_eq!(f.ask("POST", "/token", &[], bad.as_bytes()).await.status, 401, "{bad}");
    }
    assert_eq!(f.ask("POST", "/token", &[], b"x=y").await.status, 400);
    f.clock.advance(Duration::from_secs(3600));
    assert_eq!(f.ask("GET", "/v2/", &ann, b"").await.status, 401);
}

#[tokio::test]
async fn what_cannot_be_pulled_cannot_be_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Auth::basic(&passwords(dir.path())).unwrap();
    let rules = "[[rule]]\nrepository = 'secret'\npush = ['ann']\n";
    let f = Fixture::new(|settings| {
        settings.auth = auth;
        settings.rules = Rules::parse(rules).unwrap();
    });
    let digest = Digest::sha256(b"secret");
    let target = format!("/v2/secret/blobs/uploads/?digest={digest}");
    assert_eq!(f.ask("POST", &target, &[ANN], b"secret").await.status, 201);
    for query in [format!("mount={digest}&from=secret"), format!("mount={digest}")] {
        let target = format!("/v2/mine/blobs/uploads/?{query}");
        assert_eq!(f.ask("POST", &target, &[ANN], b"").await.status, 202, "{query}");
    }
    let offer = [ANN, ("wharf-offer", "0123456789abcdef0123456789abcdef")];
    let target = format!("/v2/mine/blobs/uploads/?mount={digest}");
    assert_eq!(f.ask("POST", &target, &offer, b"").await.status, 202, "an offer that nobody made");
    let catalog = f.ask("GET", "/v2/_catalog", &[ANN], b"").await;
    assert_eq!(catalog.json(), json!({"repositories": []}));
}

/// A registry on a port of loopback, until the token is dropped.
async fn on_a_port(f: &Fixture) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let registry = f.registry.clone();
    tokio::spawn(crate::serve(registry, listener, None, shutdown.clone(), Duration::ZERO));
    (address, shutdown.drop_guard())
}

/// Sends `requests` at once and reads until the registry closes.
async fn raw(address: &str, requests: &str) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

/// The head of the first answer in `bytes`, and what is behind it.
fn cut(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), &bytes[end..])
}

#[tokio::test]
async fn files_leave_by_the_kernel_and_the_connection_goes_on() {
    let f = plain();
    let layer: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let digest = f.push_blob("a", &layer).await;
    let (address, _up) = on_a_port(&f).await;
    let get =
        |headers: &str| format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let many = [
        get(""),
        get("Range: bytes=5-9\r\n"),
        format!("HEAD /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"),
        "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        get("Connection: close\r\n"),
    ];
    let all = raw(&address, &many.concat()).await;
    let (head, rest) = cut(&all);
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for part in [
        "content-length: 3000000\r\n",
        "\r\ndate: ",
        &format!("docker-content-digest: {digest}\r\n"),
        "x-content-type-options: nosniff\r\n",
    ] {
        assert!(head.contains(part), "{part}: {head}");
    }
    assert!(rest[..layer.len()] == layer);
    let (head, rest) = cut(&rest[layer.len()..]);
    assert!(head.starts_with("http/1.1 206 partial content\r\n"), "{head}");
    assert!(head.contains("content-range: bytes 5-9/3000000\r\n"), "{head}");
    assert_eq!(rest[..5], layer[5..10]);
    let (head, rest) = cut(&rest[5..]);
    assert!(head.contains("content-length: 3000000\r\n"), "{head}");
    let (_, rest) = cut(rest);
    let (head, rest) = cut(rest.strip_prefix(b"{}").unwrap());
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(rest == layer);
    // A request with a body is answered by HTTP's own machinery, which knows where the next one begins.
    let all = raw(&address, &(get("Connection: close\r\nContent-Length: 2\r\n") + "zz")).await;
    assert!(cut(&all).1 == layer);
}

fn cache_of(address: &str) -> Fixture {
    let registries = wharf_image::RegistrySettings {
        retry_pause: Duration::from_millis(1),
        retry_pause_max: Duration::from_millis(1),
        ..wharf_image::RegistrySettings::default()
    };
    let images = wharf_image::Settings { registries, ..wharf_image::Settings::default() };
    let registries = wharf_image::Registries::new(&images);
    Fixture::new(|settings| {
        let ttl = Duration::from_secs(60);
        let clock = settings.clock.clone();
        settings.cache = Some(Cache::new(registries, address, AuthConfig::default(), ttl, clock));
    })
}

#[tokio::test]
async fn a_cache_fetches_once_and_serves_when_the_other_is_down() {
    let origin = plain();
    let config = br#"{"os":"linux"}"#.to_vec();
    let layer: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let digest = origin.push_image("a/b", "1", &config, &layer).await;
    let (address, up) = on_a_port(&origin).await;
    let cache = cache_of(&address);
    let blob = format!("/v2/a/b/blobs/{}", Digest::sha256(&layer));
    let reply = cache.expect("GET", "/v2/a/b/manifests/1", 200).await;
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    let head = cache.expect("HEAD", &blob, 200).await;
    assert_eq!(head.header("content-length"), layer.len().to_string());
    let both = tokio::join!(cache.expect("GET", &blob, 200), cache.expect("GET", &blob, 200));
    assert!(both.0.body == layer && both.1.body == layer);
    let part = cache.ask("GET", &blob, &[("range", "bytes=5-9")], b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &layer[5..10]));
    assert_eq!(cache.expect("GET", "/v2/a/b/tags/list", 200).await.json()["tags"], json!(["1"]));
    cache.expect("GET", "/v2/a/b/manifests/2", 404).await;
    cache.expect("GET", &format!("/v2/a/b/blobs/{}", Digest::sha256(b"none")), 404).await;
    cache.expect("POST", "/v2/a/b/blobs/uploads/", 405).await;
    // The tag moves: seen when it is old enough, not before.
    let other = origin.push_image("a/b", "1", &config, b"another").await;
    assert_eq!(
        cache.expect("HEAD", "/v2/a/b/manifests/1", 200).await.header("docker-content-digest"),
        digest.to_string()
    );
    cache.clock.advance(Duration::from_secs(60));
    assert_eq!(
        cache.expect("HEAD", "/v2/a/b/manifests/1", 200).await.header("docker-content-digest"),
        other.to_string()
    );
    drop(up);
    cache.clock.advance(Duration::from_secs(60));
    cache.expect("GET", "/v2/a/b/manifests/1", 200).await;
    assert_eq!(cache.expect("GET", &blob, 200).await.body, layer);
    cache.expect("GET", &format!("/v2/a/b/blobs/{}", Digest::sha256(b"another")), 502).await;
    assert_eq!(cache.uploads_on_disk(), 0);
}

#[tokio::test]
async fn a_cache_keeps_no_lies() {
    let origin = plain();
    let digest = origin.push_blob("a", b"the truth").await;
    std::fs::write(origin.root.path().join("blobs/sha256").join(digest.hex()), "other bit")
        .unwrap();
    let (address, _up) = on_a_port(&origin).await;
    let cache = cache_of(&address);
    let request = Request::get(format!("/v2/a/blobs/{digest}")).body(requested(Full::default()));
    let response = cache.registry.answer(request.unwrap(), false).await;
    assert!(response.into_body().collect().await.is_err(), "the connection breaks");
    assert_eq!((cache.blobs_on_disk(), cache.uploads_on_disk()), (0, 0));
}

#[tokio::test]
async fn lost_blobs_are_missed_at_the_next_start() {
    let f = plain();
    let (config, layer) = config_and_layer();
    let digest = f.push_image("a", "1", &config, &layer).await;
    fs::remove_file(f.root.path().join("blobs/sha256").join(digest.hex())).unwrap();
    let f = f.reopen();
    f.expect("GET", "/v2/a/manifests/1", 404).await;
    f.push_manifest("a", "1", &image(&config, &layer), OCI_MANIFEST).await;
    f.expect("GET", "/v2/a/manifests/1", 200).await;
}
