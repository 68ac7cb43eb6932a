//! The API in JSON: the same requests to Debian's etcd and to wharf, and the same answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::{Value, json};

use crate::member::{Member, free_port, scratch};

/// What is asked, in order: path and body. An answer's `"ID"` or `"token"` can be used later as `$ID` or `$TOKEN`.
const ASKED: &[(&str, &str)] = &[
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","rangeEnd":"Zm96","newer":{"than":["this"]}}"#),
    ("/v3beta/kv/range", r#"{"key":"Zm9v","keys_only":true}"#),
    ("/v3/kv/range", "{}"),
    ("/v3/kv/range", ""),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"100"}"#),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"VERSION","result":"EQUAL","key":"Zm9v","version":"1"}],
            "success":[{"requestPut":{"key":"Zm9v","value":"YmF6","prev_kv":true}}],
            "failure":[{"request_range":{"key":"Zm9v"}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":1,"key":"Zm9v","create_revision":2}],
            "success":[{"requestDeleteRange":{"key":"Zm9v","prevKv":true}},{"requestRange":{"key":"Zm9v"}}]}"#,
    ),
    ("/v3/nothing", "{}"),
    ("/v3/lease/grant", r#"{"TTL":600}"#),
    ("/v3/kv/put", r#"{"key":"bA==","lease":"$ID"}"#),
    ("/v3/lease/keepalive", r#"{"ID":"$ID"}"#),
    ("/v3/lease/leases", "{}"),
    ("/v3/kv/lease/timetolive", r#"{"ID":"5","keys":true}"#),
    ("/v3/lease/revoke", r#"{"ID":"$ID"}"#),
    ("/v3/kv/lease/revoke", r#"{"ID":"5"}"#),
    ("/v3/kv/deleterange", r#"{"key":"AA==","range_end":"AA=="}"#),
    ("/v3/lock/lock", r#"{"name":"bG9jaw==","lease":"77"}"#),
    ("/v3/election/leader", r#"{"name":"bm9uZQ=="}"#),
    ("/v3/election/proclaim", "{}"),
    ("/v3/kv/compaction", r#"{"revision":"3"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
    ("/v3/auth/user/add", r#"{"name":"root","password":"p"}"#),
    ("/v3/auth/role/add", r#"{"name":"root"}"#),
    ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
    ("/v3/auth/enable", "{}"),
    ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    ("/v3/auth/authenticate", r#"{"name":"root","password":"wrong"}"#),
    ("/v3/auth/authenticate", r#"{"name":"root","password":"p"}"#),
    ("/v3/kv/range $TOKEN", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/range wrong", r#"{"key":"Zm9v"}"#),
    ("/v3/auth/user/list $TOKEN", "{}"),
    ("/v3/auth/disable $TOKEN", "{}"),
];

/// Sends a request and leaves its answer to be read.
fn ask(m: &Member, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, m.port)).unwrap();
    stream.set_read_timeout(Some(wharf_test::PATIENCE)).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n");
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
    stream
}

/// The status and the body of an answer.
fn post(m: &Member, path: &str, body: &str) -> (u16, String) {
    let (path, headers) = match path.split_once(' ') {
        Some((path, token)) => (path, format!("Authorization: {token}\r\n")),
        None => (path, String::new()),
    };
    let mut text = String::new();
    ask(m, "POST", path, &headers, body).read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim().to_owned())
}

/// An answer without what differs from one member to the next.
fn plain(status: u16, body: &str) -> (u16, Value) {
    let mut value = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
    strip(&mut value);
    (status, value)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for own in ["cluster_id", "member_id", "raft_term", "ID", "lease", "token"] {
                fields.remove(own);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => (),
    }
}

#[test]
fn answers_in_json_are_those_of_etcd() {
    let dir = scratch("gateway");
    let etcd = Member::etcd(&dir.join("etcd"), 0, &[(free_port(), free_port())]).listening();
    let wharf = Member::wharf(&dir.join("wharf")).listening();
    let mut known = [(String::new(), String::new()), (String::new(), String::new())];
    for (path, body) in ASKED {
        let answers = [&etcd, &wharf].into_iter().zip(&mut known).map(|(m, (id, token))| {
            let fill = |text: &str| text.replace("$ID", id).replace("$TOKEN", token);
            let (status, text) = post(m, &fill(path), &fill(body));
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            for (name, place) in [("ID", id), ("token", token)] {
                if let Some(new) = value[name].as_str().filter(|_| place.is_empty()) {
                    new.clone_into(place);
                }
            }
            // Debian's etcd has a gateway from before its statuses were those of today.
            plain(if status == 412 { 400 } else { status }, &text)
        });
        let answers: Vec<_> = answers.collect();
        assert_eq!(answers[1], answers[0], "{path} {body}");
    }
    etcd.stop();
    wharf.stop();
}

#[test]
fn a_watch_is_a_line_for_each_answer() {
    let dir = scratch("lines");
    let wharf = Member::wharf(&dir).listening();
    let watch = ask(&wharf, "POST", "/v3/watch", "", r#"{"create_request":{"key":"aw=="}}"#);
    let mut lines = BufReader::new(watch).lines().map(Result::unwrap).skip_while(|l| !l.is_empty());
    lines.next();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap()).unwrap();
    assert_eq!(next()["result"]["created"], true);
    for n in ["MQ==", "Mg=="] {
        post(&wharf, "/v3/kv/put", &json!({"key": "aw==", "value": n}).to_string());
        assert_eq!(next()["result"]["events"][0]["kv"]["value"], n);
    }
    post(&wharf, "/v3/kv/deleterange", r#"{"key":"aw=="}"#);
    assert_eq!(next()["result"]["events"][0]["type"], "DELETE");
    wharf.stop();
}

#[test]
fn whoever_hangs_up_leaves_the_queue() {
    let dir = scratch("locks");
    let wharf = Member::wharf(&dir).listening();
    let lease = |n: u32| {
        post(&wharf, "/v3/lease/grant", &json!({"TTL": 600, "ID": n}).to_string());
        json!({"name": "bA==", "lease": n}).to_string()
    };
    let (first, second, third) = (lease(1), lease(2), lease(3));
    let held = post(&wharf, "/v3/lock/lock", &first).1;
    let held: Value = serde_json::from_str(&held).unwrap();
    let places = || {
        let all =
            post(&wharf, "/v3/kv/range", r#"{"key":"bA==","range_end":"bQ==","count_only":true}"#);
        serde_json::from_str::<Value>(&all.1).unwrap()["count"].clone()
    };
    let waiting = ask(&wharf, "POST", "/v3/lock/lock", "", &second);
    wharf_test::eventually("the second to wait", || (places() == "2").then_some(()));
    let mut last = ask(&wharf, "POST", "/v3/lock/lock", "", &third);
    wharf_test::eventually("the third to wait", || (places() == "3").then_some(()));
    drop(waiting);
    wharf_test::eventually("the second to be gone", || (places() == "2").then_some(()));
    post(&wharf, "/v3/lock/unlock", &json!({"key": held["key"]}).to_string());
    let mut text = String::new();
    last.read_to_string(&mut text).unwrap();
    assert!(text.contains("200 OK") && text.contains(r#""key":"bC8z""#), "{text}");
    wharf.stop();
}

#[test]
fn an_observer_hears_each_leader() {
    let dir = scratch("leaders");
    let wharf = Member::wharf(&dir).listening();
    let observe = ask(&wharf, "POST", "/v3/election/observe", "", r#"{"name":"ZQ=="}"#);
    let mut lines =
        BufReader::new(observe).lines().map(Result::unwrap).skip_while(|l| !l.is_empty());
    let campaign = |value: &str| {
        let asked = json!({"name": "ZQ==", "value": value}).to_string();
        serde_json::from_str::<Value>(&post(&wharf, "/v3/election/campaign", &asked).1).unwrap()
    };
    let leader = campaign("YQ==")["leader"].clone();
    lines.next();
    let mut heard = || {
        let line: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        line["result"]["kv"]["value"].clone()
    };
    assert_eq!(heard(), "YQ==");
    let proclaim = json!({"leader": leader, "value": "Yg=="}).to_string();
    assert_eq!(post(&wharf, "/v3/election/proclaim", &proclaim).0, 200);
    assert_eq!(heard(), "Yg==");
    assert_eq!(post(&wharf, "/v3/election/resign", &json!({"leader": leader}).to_string()).0, 200);
    assert!(post(&wharf, "/v3/election/leader", r#"{"name":"ZQ=="}"#).1.contains("no leader"));
    assert!(post(&wharf, "/v3/election/proclaim", &proclaim).1.contains("election: not leader"));
    campaign("Yw==");
    assert_eq!(heard(), "Yw==");
    wharf.stop();
}

#[test]
fn the_gateway_refuses_what_is_no_call() {
    let dir = scratch("calls");
    let wharf = Member::wharf(&dir).listening();
    let status = |method: &str, path: &str, headers: &str, body: &str| {
        let mut text = String::new();
        ask(&wharf, method, path, headers, body).read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status("GET", "/v3/kv/range", "", ""), "405");
    assert_eq!(status("POST", "/v3/kv/range", "", r#"{"key":5"#), "400");
    assert_eq!(status("POST", "/v3/kv/range", "", r#"{"key":"!!"}"#), "400");
    assert_eq!(status("POST", "/v3/watch", "", r#"{"create_re"#), "400");
    let body = r#"{"key":"aw=="}"#;
    assert_eq!(status("POST", "/v3/kv/range", "Origin: http://elsewhere.example\r\n", body), "403");
    assert_eq!(status("POST", "/v3/kv/range", "Origin: http://localhost\r\n", body), "200");
    wharf.stop();
}
