//! The stock kubectl against `wharf kube serve`: what people type, and what they get.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::process::Command;
use wharf_test::kube::Cluster;
use wharf_test::{program, tools};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: 'nginx:1', ports: [{containerPort: 80}]}]
";

#[test]
fn objects_are_made_shown_changed_and_deleted() {
    let k = Cluster::start();
    k.check("version", 0, "Server Version: v1.36");
    k.check("api-resources", 0, "deployments");
    k.check("create namespace foo", 0, "namespace/foo created");
    k.check("create configmap cm --from-literal=a=b", 0, "configmap/cm created");
    k.check("create configmap cm", 1, "configmaps \"cm\" already exists");
    k.check("get configmap cm", 0, "cm     1");
    k.check("get configmap cm -o jsonpath={.data.a}", 0, "b");
    k.check("get configmap nope", 1, "configmaps \"nope\" not found");
    k.check("label configmap cm x=y", 0, "configmap/cm labeled");
    k.check("annotate configmap cm x=y", 0, "configmap/cm annotated");
    k.check("get configmap -l x=y -o name", 0, "configmap/cm");
    k.check("get configmap -A --chunk-size=1", 0, "kube-root-ca.crt");
    k.check("patch configmap cm -p|{\"data\":{\"c\":\"d\"}}", 0, "patched");
    k.check(
        "patch configmap cm --type=json -p|[{\"op\":\"remove\",\"path\":\"/data/c\"}]",
        0,
        "patched",
    );
    k.check("patch configmap cm --type=merge -p|{\"data\":{\"a\":null}}", 0, "patched");
    k.check("delete configmap cm", 0, "configmap \"cm\" deleted");
    k.check("explain deployment.spec.replicas", 0, "How many there are to be.");
    k.check("delete namespace foo --timeout=60s", 0, "namespace \"foo\" deleted");
    k.check("delete namespace kube-system", 1, "this namespace may not be deleted");
}

#[test]
fn manifests_are_applied_by_client_and_by_server() {
    let k = Cluster::start();
    k.check_with("apply -f -", DEPLOYMENT, 0, "deployment.apps/web created");
    k.check_with("apply -f -", DEPLOYMENT, 0, "deployment.apps/web unchanged");
    let changed = DEPLOYMENT.replace("nginx:1", "nginx:2");
    k.check_with("diff -f -", &changed, 1, "image: nginx:2");
    k.check_with("apply -f -", &changed, 0, "deployment.apps/web configured");
    k.check_with(
        "apply --server-side --field-manager=me -f -",
        DEPLOYMENT,
        1,
        "conflict with \"kubectl-client-side-apply\"",
    );
    k.check_with(
        "apply --server-side --field-manager=me --force-conflicts -f -",
        DEPLOYMENT,
        0,
        "serverside-applied",
    );
    k.check(
        "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}",
        0,
        "nginx:1",
    );
    k.check_with("apply --dry-run=server -f -", &changed, 0, "configured (server dry run)");
    k.check(
        "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}",
        0,
        "nginx:1",
    );
    k.check_with("replace -f -", &changed, 0, "replaced");
    let bad = DEPLOYMENT.replace("replicas: 2", "replicsa: 2");
    k.check_with("apply -f -", &bad, 1, "unknown field \"spec.replicsa\"");
    k.check_with(
        "create -f -",
        &DEPLOYMENT.replace("name: web,", "name: Web_,"),
        1,
        "metadata.name: Invalid value: \"Web_\"",
    );
    k.check("delete deployment web", 0, "deleted");
    k.check_with("apply --server-side -f -", DEPLOYMENT, 0, "serverside-applied");
    let owners = "get deployment web --show-managed-fields -o jsonpath={.metadata.managedFields[*].operation}";
    k.check(owners, 0, "Apply");
    let less = DEPLOYMENT.replace(", ports: [{containerPort: 80}]", "");
    k.check_with("apply --server-side -f -", &less, 0, "serverside-applied");
    let ports = "get deployment web -o jsonpath=[{.spec.template.spec.containers[0].ports}]";
    k.check(ports, 0, "[]");
    k.check("scale deployment web --replicas=5", 0, "scaled");
    k.check("get deployment web", 0, "0/5");
    k.check("set image deployment/web c=nginx:3", 0, "image updated");
    k.check("autoscale deployment web --max=3", 0, "autoscaled");
    k.check("expose deployment web --port=80", 0, "service/web exposed");
    k.check("get service web", 0, "10.96.");
    k.check("delete deployment web --cascade=foreground --timeout=60s", 0, "deleted");
}

#[test]
fn users_may_do_what_roles_say() {
    let k = Cluster::start();
    k.check("auth whoami", 0, "kubernetes-admin");
    k.check("create clusterrolebinding b --clusterrole=view --user=bob", 0, "created");
    k.check("auth can-i list pods --as=bob", 0, "yes");
    k.check("auth can-i create pods --as=bob", 1, "no");
    k.check("get secrets --as=bob", 1, "User \"bob\" cannot list resource \"secrets\"");
    k.check("create serviceaccount robot", 0, "created");
    k.check("create rolebinding r --clusterrole=edit --serviceaccount=default:robot", 0, "created");
    k.check("auth can-i create deployments --as=system:serviceaccount:default:robot", 0, "yes");
    k.check("create clusterrole wide --verb=* --resource=* --as=bob", 1, "forbidden");
    k.check("create token robot", 0, "eyJ");
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let mut k = Cluster::start();
    k.check("create configmap kept --from-literal=a=b", 0, "created");
    k.restart();
    k.check("get configmap kept -o jsonpath={.data.a}", 0, "b");
    k.check("get pods", 0, "No resources found");
    k.check("run p --image=nginx", 0, "pod/p created");
    k.check("get pod p", 0, "Pending");
    k.check("wait --for=jsonpath={.status.phase}=Pending pod/p --timeout=60s", 0, "condition met");
    k.check("wait --for=condition=Ready pod/p --timeout=1s", 1, "timed out waiting");
    k.check("logs p", 1, "does not have a host assigned");
    k.check("delete pod p --timeout=60s", 0, "pod \"p\" deleted");
}

const CRON: &str = include_str!("../../crates/apiserver/tests/data/crontab.yaml");
const TAB: &str = "\
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly}
spec: {cronSpec: '0 1 * * *', image: cron, jobs: [{name: a, run: x}]}
";

#[test]
fn custom_resources_are_used_like_any_other() {
    let k = Cluster::start();
    k.check_with("apply -f -", CRON, 0, "crontabs.stable.example.com created");
    let established = "wait --for=condition=Established crd/crontabs.stable.example.com";
    k.check(established, 0, "condition met");
    k.check("api-resources --api-group=stable.example.com", 0, "stable.example.com/v1");
    k.check("explain crontab.spec.image", 0, "What is run.");
    k.check("explain crontab --recursive", 0, "cronSpec");
    k.check("explain crontab --api-version=stable.example.com/v1beta1", 0, "CronTab");
    k.check_with("apply -f -", TAB, 0, "crontab.stable.example.com/nightly created");
    k.check_with("apply -f -", TAB, 0, "nightly unchanged");
    k.check_with("diff -f -", &TAB.replace("image: cron", "image: cron2"), 1, "image: cron2");
    let more = TAB.replace("name: a, run: x", "name: b, run: z");
    k.check_with(
        "apply --server-side --field-manager=me --force-conflicts -f -",
        &more,
        0,
        "serverside-applied",
    );
    k.check("get ct nightly -o jsonpath={.spec.jobs[*].name}", 0, "a b");
    k.check("get all", 0, "crontab.stable.example.com/nightly");
    k.check("get ct", 0, "NAME      SPEC        REPLICAS   AGE");
    k.check("get crontab -o wide --field-selector=spec.image=cron", 0, "nightly");
    k.check("scale crontab nightly --replicas=3", 0, "scaled");
    k.check("get crontab nightly -o jsonpath={.spec.replicas}", 0, "3");
    k.check(
        "patch crontab nightly --type=merge -p|{\"spec\":{\"replicas\":99}}",
        1,
        "should be less than or equal to 10",
    );
    k.check("label crontab nightly x=y", 0, "labeled");
    k.check_with("create -f -", &TAB.replace("image", "imag"), 1, "unknown field \"spec.imag\"");
    k.check("delete crd crontabs.stable.example.com --timeout=60s", 0, "deleted");
    k.check("get crontabs", 1, "the server could not find the requested resource");
}

const POLICY: &str = "\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  validations:
  - {expression: 'object.spec.replicas <= 5'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: few}
spec: {policyName: few, validationActions: [Deny]}
";

#[test]
fn policies_refuse_what_they_say() {
    let k = Cluster::start();
    k.check_with("apply -f -", POLICY, 0, "few created");
    k.check_with(
        "apply -f -",
        &DEPLOYMENT.replace("replicas: 2", "replicas: 6"),
        1,
        "failed expression: object.spec.replicas <= 5",
    );
    k.check_with("apply -f -", DEPLOYMENT, 0, "created");
    k.check("get apiservices", 0, "v1.apps");
}

/// A chart's objects: definitions with rules, roles, an account, a deployment, a webhook that fails open.
const CHART: &str = include_str!("kubectl/chart.yaml");

#[test]
fn a_charts_objects_are_installed_upgraded_and_removed() {
    let k = Cluster::start();
    let apply = "apply --server-side --field-manager=helm -f -";
    k.check("create namespace widgets", 0, "created");
    let definitions = CHART.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    k.check_with(apply, &definitions, 0, "widgets.example.com serverside-applied");
    k.check("wait --for=condition=Established crd --all", 0, "condition met");
    k.check_with(apply, CHART, 0, "widget.example.com/first serverside-applied");
    k.check_with(apply, CHART, 0, "widget.example.com/first serverside-applied");
    k.check("get widget -n widgets first -o jsonpath={.spec.size}", 0, "small");
    let upgraded = CHART.replace("size: small", "size: large").replace("operator:1", "operator:2");
    k.check_with(apply, &upgraded, 0, "deployment.apps/operator serverside-applied");
    k.check("get widget -n widgets first -o jsonpath={.spec.size}", 0, "large");
    let back = upgraded.replace("size: large", "size: small");
    k.check_with(apply, &back, 1, "size must not shrink");
    // What was defined goes before what defines it, as helm uninstalls.
    let reversed = CHART.split("---\n").collect::<Vec<_>>().into_iter().rev();
    let reversed = reversed.collect::<Vec<_>>().join("---\n");
    k.check_with("delete --timeout=60s -f -", &reversed, 0, "deleted");
    k.check("get crd", 0, "No resources found");
    k.check("get deployments,services -n widgets", 0, "No resources found");
}

/// What kubectl checks with the older OpenAPI, which it reads in protobuf, and what people look at first.
#[test]
fn lists_are_checked_and_the_servers_state_is_shown() {
    let k = Cluster::start();
    let list = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}]}";
    k.check_with("create -f -", list, 0, "configmap/one created");
    k.check("explain pods.spec --output=plaintext-openapiv2", 0, "KIND:");
    k.check("get componentstatuses", 0, "Healthy");
    k.check("get --raw|/metrics", 0, "apiserver_request_total{");
    k.check("get --raw|/readyz/nothing", 1, "could not find the requested resource");
}

#[test]
fn programs_of_the_python_client_run() {
    let k = Cluster::start();
    for check in ["objects", "watches", "custom_resources", "leaders"] {
        let mut c = Command::new(tools::path("python3"));
        c.env("KUBECONFIG", k.config()).env("HOME", k.dir());
        c.arg(tools::workspace().join("tests/tests/kube_py.py")).arg(check);
        let done = program::run(&mut c, b"");
        let text = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{check}: {}", String::from_utf8_lossy(&text));
    }
}
