//! The stock kubectl against `wharf kube serve`: what people type, and what they get.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use wharf_test::kube::Cluster;

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
