//! The stock helm against `wharf kube serve`: a chart with the shape of a public operator's, from its first
//! installation to its end.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::process::Command;
use wharf_test::kube::Cluster;
use wharf_test::{program, tools};

/// Runs helm, which ends with `code`; gives what it printed.
#[track_caller]
fn helm(k: &Cluster, line: &str, code: i32) -> String {
    let mut c = Command::new(tools::path("helm"));
    c.env("KUBECONFIG", k.config()).env("HOME", k.dir()).current_dir(k.dir());
    let chart = tools::workspace().join("tests/tests/kubectl/operator");
    c.args(line.replace("CHART", chart.to_str().unwrap()).split_whitespace());
    c.args(["--namespace", "widgets"]);
    let done = program::run(&mut c, b"");
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert_eq!(done.status.code(), Some(code), "helm {line}\n{text}");
    text
}

#[track_caller]
fn check(k: &Cluster, line: &str, code: i32, expected: &str) {
    let text = helm(k, line, code);
    assert!(text.contains(expected), "helm {line}\nwanted {expected:?} in\n{text}");
}

#[test]
fn a_chart_is_installed_tested_upgraded_rolled_back_and_removed() {
    let k = Cluster::with(&["--fake-nodes", "1"]);
    let wait = "--wait --timeout 60s";
    check(&k, &format!("install op CHART --create-namespace {wait}"), 0, "STATUS: deployed");
    check(&k, "list", 0, "deployed");
    check(&k, "test op --timeout 60s", 0, "Phase:          Succeeded");
    k.check("get configmap op -n widgets -o jsonpath={.data}", 0, "\"known\":\"true\"");
    k.check("get configmap op -n widgets -o jsonpath={.data}", 0, "\"budgets\":\"true\"");
    k.check("get jobs -n widgets", 0, "No resources found");
    let token = "get secret op-token -n widgets -o jsonpath={.data.token}";
    let made = k.run(token);
    check(&k, &format!("upgrade op CHART --set size=large {wait}"), 0, "STATUS: deployed");
    assert_eq!(k.run(token), made, "a lookup found what the first revision made");
    k.check("get widget op -n widgets", 0, "large");
    check(&k, "upgrade op CHART --set size=medium", 1, "values don't meet the specifications");
    let shrunk = format!("upgrade op CHART --set size=small {wait}");
    check(&k, &shrunk, 1, "size must not shrink");
    check(&k, "history op", 0, "failed");
    check(&k, &format!("rollback op 2 {wait}"), 0, "Rollback was a success");
    check(&k, "status op", 0, "STATUS: deployed");
    check(&k, "upgrade op CHART --set size=large --dry-run=server", 0, "kind: Widget");
    let scaled = "--set size=large,autoscaling.enabled=false,replicas=2";
    check(&k, &format!("upgrade --install op CHART {scaled} {wait}"), 0, "STATUS: deployed");
    k.check("get deployment op -n widgets -o jsonpath={.status.readyReplicas}", 0, "2");
    k.check("get hpa -n widgets", 0, "No resources found");
    check(&k, "get manifest op", 0, "kind: NetworkPolicy");
    check(&k, &format!("uninstall op {wait}"), 0, "uninstalled");
    k.check("get deployments,services,widgets,pdb,secrets -n widgets", 0, "No resources found");
    k.check("get crd widgets.example.com -o name", 0, "widgets.example.com");
}
