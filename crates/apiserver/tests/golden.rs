//! Exchanges recorded from the reference server, 1.36.2, played again: status, body and order of keys must agree.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a surprise in a test is a panic")]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use wharf_apiserver::api::Api;
use wharf_apiserver::authn::{Authenticator, jwt::Keys};
use wharf_apiserver::bootstrap;
use wharf_apiserver::respond::Content;
use wharf_apiserver::server::{Incoming, Server};
use wharf_apiserver::user::User;
use wharf_base::clock::Clock;
use wharf_etcd::{Embedded, Settings, Store};

/// A request and what was answered.
struct Exchange {
    method: Method,
    headers: HeaderMap,
    path: String,
    body: String,
    status: u16,
    media: String,
    warning: Option<String>,
    answer: String,
}

fn read(name: &str) -> Exchange {
    // The suite of real etcd clusters plays the same exchanges from its own package.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/golden", "../crates/apiserver/tests/golden"].map(|f| here.join(f));
    let path = folders.iter().map(|f| f.join(name)).find(|p| p.exists()).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let (request, answer) = text.split_once('\n').unwrap();
    let (head, body) = answer.split_once("\n\n").unwrap();
    let mut e = Exchange {
        method: Method::GET,
        headers: HeaderMap::new(),
        path: String::new(),
        body: String::new(),
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        media: header(head, "content-type").unwrap(),
        warning: header(head, "warning"),
        answer: body.to_owned(),
    };
    let words: Vec<&str> = request.split(' ').collect();
    let mut i = 0;
    while i < words.len() {
        match words[i] {
            "-X" => e.method = words[i + 1].parse().unwrap(),
            "-H" => {
                let name: HeaderName = words[i + 1].trim_end_matches(':').parse().unwrap();
                e.headers.append(name, words[i + 2].parse().unwrap());
                i += 1;
            }
            "-d" => e.body = words[i + 1].to_owned(),
            url => {
                if let Some(rest) = url.strip_prefix("https://127.0.0.1:16443") {
                    e.path = rest.to_owned();
                }
                i += 1;
                continue;
            }
        }
        i += 2;
    }
    e
}

fn header(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
    line.map(|l| l.trim().to_owned())
}

async fn server() -> Server {
    server_on(Arc::new(Embedded::in_memory(&Settings::default()).unwrap())).await
}

pub(crate) async fn server_on(store: Arc<dyn Store>) -> Server {
    let api = Api::new(store, Clock::system());
    bootstrap::run(&api, ([127, 0, 0, 1], 6443).into()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pki = wharf_apiserver::certs::Pki::open(dir.path(), &[]).unwrap();
    let keys = Keys::from_der(&pki.token_key().unwrap()).unwrap();
    Server::new(
        api,
        Authenticator::new(keys, "https://test".to_owned()),
        "127.0.0.1:6443".to_owned(),
    )
}

/// What a server answered.
struct Got {
    status: u16,
    headers: HeaderMap,
    body: String,
}

async fn send(server: &Server, e: &Exchange, user: Option<User>) -> Got {
    let mut headers = e.headers.clone();
    headers.insert("user-agent", "curl/8.0".parse().unwrap());
    let (path, query) = e.path.split_once('?').unwrap_or((&e.path, ""));
    let answer = server
        .handle(Incoming {
            method: e.method.clone(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: Bytes::from(e.body.clone()),
            certificate: user,
            peer: None,
        })
        .await;
    let body = match answer.body {
        Content::Whole(b) | Content::Ended(b) => b.to_vec(),
        Content::Passed(_) => panic!("passed on to another server"),
        Content::Stream(mut events) => {
            let mut all = Vec::new();
            while let Some(b) = events.next().await {
                all.extend_from_slice(&b);
            }
            all
        }
    };
    let body = String::from_utf8(body).unwrap();
    Got { status: answer.status.as_u16(), headers: answer.headers, body }
}

fn admin() -> Option<User> {
    Some(User::new("kubernetes-admin", vec!["system:masters".to_owned()]))
}

/// Values that no two servers share.
const OWN: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "time",
    "gitVersion",
    "gitCommit",
    "buildDate",
    "goVersion",
    "compiler",
    "remainingItemCount",
    "platform",
    "nodePort",
    "continue",
    "description",
];

fn same(at: &str, want: &Value, got: &Value) {
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => {
            let keys = |m: &serde_json::Map<String, Value>| m.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(w), keys(g), "keys of {at}");
            for (k, w) in w {
                if OWN.contains(&k.as_str()) {
                    assert_eq!(w.is_string(), g[k].is_string(), "{at}.{k}");
                } else if k == "name"
                    && at.ends_with("metadata")
                    && want.get("generateName").is_some()
                {
                    let prefix = want["generateName"].as_str().unwrap();
                    assert!(g[k].as_str().unwrap().starts_with(prefix), "{at}.{k}");
                } else {
                    same(&format!("{at}.{k}"), w, &g[k]);
                }
            }
        }
        (Value::Array(w), Value::Array(g)) => {
            assert_eq!(w.len(), g.len(), "length of {at}: {got}");
            w.iter().zip(g).enumerate().for_each(|(i, (w, g))| same(&format!("{at}[{i}]"), w, g));
        }
        (Value::String(w), Value::String(g)) if w.starts_with("10.96.") => {
            assert!(g.starts_with("10.96."), "{at}");
        }
        (Value::String(w), Value::String(g)) if at.contains(".cells[") && w.ends_with('s') => {
            assert!(g.ends_with('s'), "{at}");
        }
        (Value::String(w), Value::String(g)) => {
            let mask = |s: &str| -> String {
                let numbers = at.ends_with(".message");
                s.chars().filter(|c| !(numbers && c.is_ascii_digit())).collect()
            };
            assert_eq!(mask(w), mask(g), "{at}");
        }
        _ => assert_eq!(want, got, "{at}"),
    }
}

async fn check_as(server: &Server, name: &str, e: &Exchange, user: Option<User>) -> Got {
    let got = send(server, e, user).await;
    assert_eq!(got.status, e.status, "{name}: {}", got.body);
    assert_eq!(got.headers["content-type"].to_str().unwrap(), e.media, "{name}");
    let warning = got.headers.get("warning").map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(warning, e.warning, "{name}");
    assert!(got.headers.contains_key("audit-id"), "{name}");
    let documents = |text: &str| -> Vec<Value> {
        let all = serde_json::Deserializer::from_str(text).into_iter();
        all.collect::<Result<_, _>>().unwrap()
    };
    let (want, have) = (documents(&e.answer), documents(&got.body));
    assert_eq!(want.len(), have.len(), "{name}: {}", got.body);
    want.iter().zip(&have).for_each(|(w, g)| same(name, w, g));
    got
}

async fn check(server: &Server, name: &str) -> Got {
    check_as(server, name, &read(name), admin()).await
}

async fn generate(server: &Server) {
    let mut e = read("03-create-cm.txt");
    e.path = "/api/v1/namespaces/default/configmaps".to_owned();
    e.body =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"g-"}}"#.to_owned();
    assert_eq!(send(server, &e, admin()).await.status, 201);
}

/// The clock of timers is paused: waits of the server end at once.
#[tokio::test(start_paused = true)]
async fn recorded_exchanges_come_out_the_same() {
    play(&server().await).await;
}

/// Plays every recorded exchange.
pub(crate) async fn play(s: &Server) {
    for name in [
        "01-version.txt",
        "02-api-aggregated.txt",
        "03-create-cm.txt",
        "04-create-conflict.txt",
        "05-update-conflict.txt",
        "06-strict.txt",
        "07-warn.txt",
        "08-invalid.txt",
        "09-notfound.txt",
        "10-415.txt",
        "11-406.txt",
        "12-apply.txt",
        "13-apply-force.txt",
        "14-table.txt",
        "15-partial.txt",
    ] {
        check(s, name).await;
    }
    for _ in 0..5 {
        generate(s).await;
    }
    let page = check(s, "16-page1.txt").await;
    let first: Value = serde_json::from_str(&page.body).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let mut next = read("17-page2.txt");
    next.path = format!("/api/v1/namespaces/default/configmaps?limit=2&continue={token}");
    check_as(s, "17-page2.txt", &next, admin()).await;
    for name in [
        "18-badcontinue.txt",
        "19-watchlist.txt",
        "20-watch-too-old.txt",
        "21-rv-future.txt",
        "22-sendInitialEvents-list.txt",
        "23-jsonpatch-fail.txt",
        "24-dryrun.txt",
        "27-impersonate.txt",
        "28-fieldsel-bad.txt",
        "29-deploy.txt",
        "30-svc.txt",
        "31-scale.txt",
        "32-pod-no-sa.txt",
        "33-ssar.txt",
        "34-delete-ns.txt",
        "35-delete-cm.txt",
    ] {
        check(s, name).await;
    }
    expired(s, &first).await;
}

/// History that was compacted: a page goes on by a new token, a watch says that it cannot begin.
async fn expired(s: &Server, first: &Value) {
    let now = s.api.store.revision().await.unwrap();
    s.api.store.compact(now).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let mut e = read("36-continue-expired.txt");
    e.path = format!("/api/v1/namespaces/default/configmaps?limit=2&continue={token}");
    let got = send(s, &e, admin()).await;
    let f: Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!((got.status, f["reason"].as_str().unwrap()), (410, "Expired"), "{f}");
    let again = f["metadata"]["continue"].as_str().unwrap();
    e.path = format!("/api/v1/namespaces/default/configmaps?limit=2&continue={again}");
    check_as(s, "36-continue-expired.txt", &e, admin()).await;
    let mut watch = read("37-watch-410.txt");
    watch.path = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=2&timeoutSeconds=3"
        .to_owned();
    check_as(s, "37-watch-410.txt", &watch, admin()).await;
}

#[tokio::test]
async fn nobody_and_strangers_are_refused() {
    let s = server().await;
    let mut e = read("26-anon.txt");
    e.path = "/api/v1/pods".to_owned();
    check_as(&s, "26-anon.txt", &e, None).await;
    let mut e = read("25-unauth.txt");
    e.path = "/api/v1/pods".to_owned();
    e.headers.insert("authorization", "Bearer nonsense".parse().unwrap());
    check_as(&s, "25-unauth.txt", &e, None).await;
}

/// Every route of every kind refuses those who are nobody, and says 403 rather than what is there.
#[tokio::test]
async fn no_route_is_open_to_anybody() {
    let s = server().await;
    for k in s.api.kinds.all() {
        let base = match k.group() {
            "" => format!("/api/{}", k.resource.gv.version),
            _ => format!("/apis/{}", k.api_version),
        };
        let ns = if k.resource.namespaced { "/namespaces/default" } else { "" };
        let mut paths = vec![
            format!("{base}{ns}/{}", k.resource.plural),
            format!("{base}{ns}/{}/x", k.resource.plural),
        ];
        paths.extend(
            k.resource
                .subresources
                .iter()
                .map(|sub| format!("{base}{ns}/{}/x/{}", k.resource.plural, sub.name)),
        );
        for path in paths {
            for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                let mut e = read("26-anon.txt");
                (e.path, e.method) = (path.clone(), method.clone());
                let status = send(&s, &e, None).await.status;
                let no_such = matches!(method, Method::PUT | Method::PATCH) && status == 405;
                assert!(status == 403 || no_such, "{method} {path}: {status}");
            }
        }
    }
}
