//! Users and roles: what etcdctl is told, beside Debian's etcd, and what outlasts kills and moves.

use std::process::Command;

use crate::member::{Member, Scratch, free_port, scratch};
use wharf_test::{Output, tools};

/// What users and roles there are to begin with; `root` has the password `pw`, `u` has `upw`.
const SETUP: &[&str] = &[
    "auth enable",
    "user add root:pw",
    "user add root:pw",
    "user add u:upw",
    "user add cert --no-password",
    "role add r",
    "role add r",
    "role add ",
    "role grant-permission r readwrite k",
    "role grant-permission r read p/ p0",
    "role grant-permission r read p0 p5",
    "role grant-permission nope write b",
    "role get r",
    "user grant-role u r",
    "user grant-role u r",
    "user grant-role u nope",
    "user grant-role nope r",
    "auth enable",
];

/// Who does what; etcd and wharf are to say the same.
const CHECKS: &[(&str, &str)] = &[
    ("", "get k"),
    ("", "put k v"),
    ("u:upw", "put k v"),
    ("u:upw", "get k"),
    ("u:upw", "put p/x 1"),
    ("root:pw", "put p/x 1"),
    ("root:pw", "put q/x 1"),
    ("u:upw", "get --prefix p/"),
    ("u:upw", "get p/ p5"),
    ("u:upw", "get --prefix p"),
    ("u:upw", "get --from-key k"),
    ("u:upw", "del k"),
    ("u:upw", "del --prev-kv p/x"),
    ("u:wrong", "get k"),
    ("nope:wrong", "get k"),
    ("cert:x", "get k"),
    ("u:upw", "user list"),
    ("root:pw", "user list"),
    ("u:upw", "user get u"),
    ("u:upw", "user get root"),
    ("u:upw", "role get r"),
    ("u:upw", "role get root"),
    ("u:upw", "role list"),
    ("root:pw", "role list"),
    ("root:pw", "user delete root"),
    ("root:pw", "role delete root"),
    ("root:pw", "user revoke-role root root"),
    ("root:pw", "user revoke-role u nope"),
    ("root:pw", "role revoke-permission r zzz"),
    ("u:upw", "watch q/x"),
    ("root:pw", "role revoke-permission r k"),
    ("u:upw", "put k v"),
    ("root:pw", "role grant-permission r readwrite k"),
    ("root:pw", "lease grant 600"),
    ("root:pw", "put q/leased 1 --lease=LEASE"),
    ("u:upw", "lease revoke LEASE"),
    ("u:upw", "put k v --lease=LEASE"),
    ("root:pw", "lease revoke LEASE"),
    ("root:pw", "role delete r"),
    ("u:upw", "get k"),
    ("root:pw", "user get u"),
    ("root:pw", "user delete u"),
    ("u:upw", "get k"),
];

/// Runs a line of etcdctl for a user; gives what it says beside its log.
fn say(m: &Member, user: &str, line: &str) -> String {
    let user = format!("--user={user}");
    let mut words: Vec<&str> = line.split(' ').collect();
    if user.len() > "--user=".len() {
        words.insert(0, &user);
    }
    let Output { stdout, stderr, .. } = m.ctl(&words);
    // Releases differ in where they say it.
    let lines = stdout.lines().chain(stderr.lines()).filter(|line| !line.starts_with('{'));
    lines.collect::<Vec<_>>().join("\n")
}

fn set_up(m: &Member) -> Vec<String> {
    SETUP.iter().map(|line| say(m, "", line)).collect()
}

fn etcd(dir: &Scratch) -> Member {
    Member::etcd(&dir.join("etcd"), 0, &[(free_port(), free_port())]).listening()
}

#[test]
fn users_may_what_etcd_lets_them() {
    let dir = scratch("users");
    let (etcd, wharf) = (etcd(&dir), Member::wharf(&dir.join("wharf")).listening());
    assert_eq!(set_up(&wharf), set_up(&etcd));
    let mut leases = [String::new(), String::new()];
    for (user, line) in CHECKS {
        let said = [&etcd, &wharf].into_iter().zip(&mut leases).map(|(m, lease)| {
            let said = say(m, user, &line.replace("LEASE", lease));
            if line.starts_with("lease grant") {
                *lease = said.split(' ').nth(1).unwrap().to_owned();
            }
            let port = format!("127.0.0.1:{}", m.port);
            let said = said.replace(&port, "ENDPOINT");
            if lease.is_empty() { said } else { said.replace(&**lease, "LEASE") }
        });
        let said: Vec<_> = said.collect();
        assert_eq!(said[1], said[0], "{user}: {line}");
    }
    etcd.stop();
    wharf.stop();
}

#[test]
fn what_only_root_may_is_refused_to_others() {
    let dir = scratch("admin");
    let wharf = Member::wharf(&dir.join("wharf")).listening();
    set_up(&wharf);
    let lease = say(&wharf, "root:pw", "lease grant 600");
    let lease = lease.split(' ').nth(1).unwrap();
    say(&wharf, "root:pw", &format!("put q/leased 1 --lease={lease}"));
    // Debian's etcd is older than the releases that refuse these.
    for line in [
        "compaction 2",
        "endpoint hashkv",
        "snapshot save /dev/null",
        "defrag",
        "member remove 1",
        "role grant-permission r write z y",
        &format!("lease timetolive {lease} --keys"),
    ] {
        let said = say(&wharf, "u:upw", line);
        assert!(said.contains("permission denied"), "{line}: {said}");
    }
    for line in ["member list", "endpoint status", "lease list", "lease grant 5", "alarm list"] {
        assert!(say(&wharf, "", line).contains("user name is empty"), "{line}");
        assert!(!say(&wharf, "root:pw", line).contains("Error"), "{line}");
    }
    wharf.stop();
}

#[test]
fn users_outlast_kills_and_moves() {
    let dir = scratch("moves");
    let mut wharf = Member::wharf(&dir.join("wharf")).listening();
    set_up(&wharf);
    say(&wharf, "u:upw", "put k v");
    wharf.kill();
    wharf.restart();
    let wharf = wharf.listening();
    let served = |m: &Member| {
        assert_eq!(say(m, "u:upw", "get k"), "k\nv");
        assert!(say(m, "", "get k").contains("user name is empty"));
        assert!(say(m, "u:upw", "put p/x 1").contains("permission denied"));
        say(m, "root:pw", "role get r")
    };
    let role = served(&wharf);
    let saved = dir.join("saved.db").display().to_string();
    say(&wharf, "root:pw", &format!("snapshot save {saved}"));
    wharf.stop();

    let (client, peer) = (free_port(), free_port());
    let peer_url = format!("http://127.0.0.1:{peer}");
    let mut restore = Command::new(tools::path("etcdctl"));
    restore.env("ETCDCTL_API", "3").args(["snapshot", "restore", &saved, "--name=m0"]);
    restore.arg(format!("--initial-cluster=m0={peer_url}"));
    restore.arg(format!("--initial-advertise-peer-urls={peer_url}"));
    restore.arg(format!("--data-dir={}", dir.join("etcd").display()));
    Output::of(&mut restore, b"").ok();
    let etcd = Member::etcd(&dir.join("etcd"), 0, &[(client, peer)]).listening();
    assert_eq!(served(&etcd), role);
    let back = dir.join("back.db").display().to_string();
    say(&etcd, "root:pw", &format!("snapshot save {back}"));
    etcd.stop();

    let to = dir.join("again");
    let mut restore = Command::new(tools::wharf());
    restore.args(["etcd", "snapshot", "restore", &back, "--data-dir"]).arg(&to);
    Output::of(&mut restore, b"").ok();
    let wharf = Member::wharf(&to).listening();
    assert_eq!(served(&wharf), role);
    wharf.stop();
}

#[test]
fn users_are_asked_for_no_more_once_that_is_off() {
    let dir = scratch("off");
    let wharf = Member::wharf(&dir.join("wharf")).listening();
    set_up(&wharf);
    assert!(say(&wharf, "", "watch k").contains("user name is empty"));
    assert!(say(&wharf, "root:pw", "auth disable").contains("Authentication Disabled"));
    assert_eq!(say(&wharf, "", "put k v"), "OK");
    assert_eq!(say(&wharf, "", "auth disable"), "Authentication Disabled");
    wharf.stop();
}
