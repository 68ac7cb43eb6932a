//! Who is believed by `wharf kube serve`, what is written down of it, and certificates that change.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use wharf_test::kube::Cluster;

#[test]
fn listed_tokens_are_taken_and_what_they_do_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let tokens = file("tokens", "secret,alice,1,\"devs,ops\"\n");
    let rules = "rules:\n- {level: None, userGroups: [system:masters]}\n- {level: Request, verbs: [create]}\n- {level: Metadata}\n";
    let policy = file("policy", &format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"));
    let log = dir.path().join("log");
    let k = Cluster::with(&[
        "--token-auth-file",
        &tokens,
        "--audit-policy-file",
        &policy,
        "--audit-log-path",
        log.to_str().unwrap(),
    ]);
    k.run("config set-credentials alice --token=secret");
    k.run("config set-credentials eve --token=guess");
    k.check("auth whoami --user=alice", 0, "alice");
    k.check("get pods --user=alice", 1, "User \"alice\" cannot list resource \"pods\"");
    k.check("get pods --user=eve", 1, "You must be logged in");
    let text = std::fs::read_to_string(&log).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let found = |verb: &str, resource: &str| {
        let mut done = events.iter().filter(|e| e["stage"] == "ResponseComplete");
        done.find(|e| e["verb"] == verb && e["objectRef"]["resource"] == resource).unwrap()
    };
    let asked = found("create", "selfsubjectreviews");
    assert_eq!(asked["user"]["username"], "alice");
    assert_eq!(asked["requestObject"]["kind"], "SelfSubjectReview");
    let refused = found("list", "pods");
    assert_eq!(refused["responseStatus"]["code"], 403);
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert!(refused.get("requestObject").is_none());
    assert!(!text.contains("kubernetes-admin"), "the policy leaves administrators out");
}

#[test]
fn certificates_are_new_after_a_signal() {
    use rustix::process::{Pid, Signal, kill_process};
    let k = Cluster::start();
    let before = std::fs::read_to_string(k.config()).unwrap();
    let pid = Pid::from_raw(k.pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    wharf_test::eventually("another certificate", || {
        let now = std::fs::read_to_string(k.config()).ok()?;
        (now != before && now.contains("client-key-data")).then_some(())
    });
    k.check("auth whoami", 0, "kubernetes-admin");
    let old = k.dir().join("old");
    std::fs::write(&old, before).unwrap();
    k.check(&format!("auth whoami --kubeconfig={}", old.display()), 0, "kubernetes-admin");
}

#[test]
fn connections_may_be_as_many_as_the_limit_allows() {
    let k = Cluster::start();
    let limits = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = |text: &str| -> Vec<String> {
        let line = text.lines().find(|l| l.starts_with("Max open files")).unwrap();
        line.split_whitespace().skip(3).take(2).map(str::to_owned).collect()
    };
    let [soft, hard] = files(&limits(k.pid())).try_into().unwrap();
    assert_eq!(soft, hard);
}

#[test]
fn controllers_are_chosen_and_unknown_ones_refused() {
    let k = Cluster::with(&["--controllers=*,-deployment-controller", "--fake-nodes=1"]);
    k.run("create deployment idle --image=i");
    k.run("create job done --image=i");
    k.until("get job done -o jsonpath={.status.succeeded}", "1");
    k.check("get deployment idle -o jsonpath={.status}", 0, "{}");
    let mut wrong = std::process::Command::new(wharf_test::tools::wharf());
    let data = k.dir().join("other");
    wrong.args(["kube", "serve", "--controllers", "-deploymnt", "--data-root"]).arg(&data);
    let done = wharf_test::program::run(&mut wrong, b"");
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && !data.exists(), "{text}");
    assert!(text.contains("there is no controller \"deploymnt\"; there are: "), "{text}");
}
