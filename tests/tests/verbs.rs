//! Every verb of kubectl that needs no node, with today's kubectl and the one that the machine has.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use wharf_test::kube::Cluster;
use wharf_test::{eventually, program, tools};

/// A cluster for each kubectl that there is.
fn clusters() -> Vec<Cluster> {
    let mut out = vec![Cluster::start()];
    if let Some(installed) = tools::optional("kubectl-installed") {
        out.push(Cluster::start().through(&installed));
    }
    out
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'nginx:1', ports: [{containerPort: 80}]}]}
";

#[test]
fn what_there_is_can_be_asked() {
    for k in clusters() {
        k.check("api-resources", 0, "deployments");
        k.check("api-resources --api-group=batch -o wide", 0, "cronjobs");
        k.check("api-resources --verbs=list --namespaced -o name", 0, "pods");
        k.check("api-versions", 0, "flowcontrol.apiserver.k8s.io/v1");
        k.check("version -o yaml", 0, "minor: \"36\"");
        k.check("cluster-info", 0, "Kubernetes control plane");
        k.check("explain pods", 0, "KIND:       Pod");
        k.check("explain deployment.spec.strategy --recursive", 0, "maxSurge");
        k.check("explain hpa --api-version=autoscaling/v1", 0, "VERSION:    v1");
        k.check("get --raw /readyz?verbose", 0, "readyz check passed");
        k.check("get --raw /api/v1/namespaces/default", 0, "\"name\":\"default\"");
        k.check("config view", 0, "current-context: wharf");
        k.check("config get-contexts -o name", 0, "wharf");
        k.check("config set-context --current --namespace=kube-system", 0, "modified");
        k.check("config view --minify -o jsonpath={..namespace}", 0, "kube-system");
        k.check("config set-context --current --namespace=default", 0, "modified");
    }
}

#[test]
fn objects_are_got_in_every_form() {
    for k in clusters() {
        for n in 0..5 {
            k.run(&format!("create configmap c{n} --from-literal=k=v{n}"));
        }
        k.run("label configmap c0 c1 tier=front");
        k.check("get configmaps", 0, "NAME");
        k.check("get cm c0 -o json", 0, "\"tier\": \"front\"");
        k.check("get cm c0 -o yaml", 0, "tier: front");
        k.check("get cm c0 -o name", 0, "configmap/c0");
        k.check("get cm c0 -o wide", 0, "DATA");
        k.check("get cm c0 -o jsonpath={.data.k}", 0, "v0");
        k.check("get cm c0 -o go-template={{.data.k}}", 0, "v0");
        k.check("get cm -o custom-columns=N:.metadata.name,V:.data.k", 0, "c4");
        k.check("get cm -L tier", 0, "TIER");
        k.check("get cm --show-labels", 0, "tier=front");
        k.check("get cm --sort-by=.metadata.name --no-headers", 0, "c0");
        k.check("get cm -l tier=front -o name", 0, "configmap/c1");
        k.check("get cm -l|=tier in (front),!x|-o name", 0, "configmap/c0");
        k.check("get cm --field-selector metadata.name=c3 -o name", 0, "configmap/c3");
        k.check("get cm,sa --ignore-not-found", 0, "serviceaccount/default");
        k.check("get all -A", 0, "service/kubernetes");
        let pages = k.run("get cm --chunk-size=2 -o name");
        assert_eq!(pages.lines().count(), 6, "{pages}");
        k.check("get cm nope --ignore-not-found", 0, "");
        k.check("describe cm c0", 0, "v0");
        k.check("describe service kubernetes", 0, "10.96.0.1");
        k.check("events", 0, "");
        watched(&k);
    }
}

/// A watch shows what is there and then what comes.
fn watched(k: &Cluster) {
    let mut c = k.kubectl("get cm -w --field-selector metadata.name=late -o name");
    let mut child = c.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    k.run("create configmap late");
    assert_eq!(lines.next().unwrap().unwrap(), "configmap/late");
    k.run("delete configmap late");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn every_typed_form_of_create_works() {
    for k in clusters() {
        std::fs::write(k.dir().join("file"), "content").unwrap();
        for (line, expected) in [
            (
                "clusterrole r --verb=get --resource=pods",
                "clusterrole.rbac.authorization.k8s.io/r created",
            ),
            (
                "clusterrolebinding b --clusterrole=r --user=u",
                "clusterrolebinding.rbac.authorization.k8s.io/b created",
            ),
            ("configmap c --from-file=file --from-literal=a=b", "configmap/c created"),
            ("cronjob j --image=i --schedule|=*/1 * * * *", "cronjob.batch/j created"),
            ("deployment d --image=i --replicas=2 --port=80", "deployment.apps/d created"),
            ("ingress i --rule=host/path=svc:80", "ingress.networking.k8s.io/i created"),
            ("job once --image=i", "job.batch/once created"),
            ("job again --from=cronjob/j", "job.batch/again created"),
            ("namespace n", "namespace/n created"),
            (
                "poddisruptionbudget p --selector=a=b --min-available=1",
                "poddisruptionbudget.policy/p created",
            ),
            ("priorityclass high --value=10", "priorityclass.scheduling.k8s.io/high created"),
            ("quota q --hard=configmaps=50", "resourcequota/q created"),
            ("role r --verb=get --resource=pods", "role.rbac.authorization.k8s.io/r created"),
            (
                "rolebinding b --role=r --serviceaccount=default:default",
                "rolebinding.rbac.authorization.k8s.io/b created",
            ),
            ("secret generic s --from-literal=a=b", "secret/s created"),
            (
                "secret docker-registry d --docker-username=u --docker-password=p",
                "secret/d created",
            ),
            ("service clusterip cip --tcp=80:80", "service/cip created"),
            ("service nodeport np --tcp=80:80", "service/np created"),
            ("service loadbalancer lb --tcp=80:80", "service/lb created"),
            ("service externalname en --external-name=example.com", "service/en created"),
            ("serviceaccount robot", "serviceaccount/robot created"),
            ("token robot --duration=1h", "eyJ"),
        ] {
            k.check(&format!("create {line}"), 0, expected);
        }
        k.check_with("create -f -", WEB, 0, "deployment.apps/web created");
        k.check_with("create -f -", WEB, 1, "already exists");
        k.check_with(
            "create --dry-run=server -o yaml -f -",
            &WEB.replace("web", "dry"),
            0,
            "name: dry",
        );
        k.check("get deployment dry", 1, "not found");
        k.check("run p --image=i", 0, "pod/p created");
    }
}

#[test]
fn objects_are_changed_by_every_verb() {
    for k in clusters() {
        k.check_with("apply -f -", WEB, 0, "created");
        k.check_with("apply --server-side --force-conflicts -f -", WEB, 0, "serverside-applied");
        k.check_with("replace -f -", &WEB.replace("nginx:1", "nginx:2"), 0, "replaced");
        k.check_with("replace --force -f -", WEB, 0, "replaced");
        k.check("patch deployment web -p|{\"spec\":{\"replicas\":3}}", 0, "patched");
        k.check(
            "patch deployment web --type=merge -p|{\"metadata\":{\"labels\":{\"a\":\"b\"}}}",
            0,
            "patched",
        );
        k.check("patch deployment web --type=json -p|[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]", 0, "patched");
        k.check(
            "patch deployment web --subresource=scale --type=merge -p|{\"spec\":{\"replicas\":2}}",
            0,
            "patched",
        );
        let mut edit = k.kubectl("edit deployment web");
        edit.env("KUBE_EDITOR", "sed -i s/nginx:1/nginx:3/");
        assert!(program::run(&mut edit, b"").status.success());
        k.check("get deployment web -o jsonpath={..image}", 0, "nginx:3");
        k.check("label deployment web a-", 0, "unlabeled");
        k.check("annotate deployment web note=x", 0, "annotated");
        k.check("annotate deployment web note=y", 1, "--overwrite is false");
        k.check("scale deployment web --replicas=4 --current-replicas=2", 0, "scaled");
        k.check(
            "scale deployment web --replicas=4 --current-replicas=1",
            1,
            "Expected replicas to be 1",
        );
        k.check("autoscale deployment web --min=1 --max=3", 0, "autoscaled");
        k.check("expose deployment web --port=80 --name=exposed", 0, "exposed");
        k.check("set image deployment/web c=nginx:4", 0, "image updated");
        k.check("set env deployment/web A=B", 0, "env updated");
        k.check("set resources deployment web --limits=cpu=1", 0, "resource requirements updated");
        k.check("set serviceaccount deployment web default", 0, "serviceaccount updated");
        k.check("set selector service exposed app=other", 0, "selector updated");
        k.run("create clusterrolebinding b --clusterrole=view --user=u");
        k.check("set subject clusterrolebinding b --user=v", 0, "subjects updated");
        k.check_with("diff -f -", WEB, 1, "nginx:1");
        k.check("rollout pause deployment web", 0, "paused");
        k.check("rollout resume deployment web", 0, "resumed");
        k.check("rollout restart deployment web", 0, "restarted");
        let set = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {set: s}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two, labels: {set: s}}\n";
        k.check_with("apply -f - -l set=s", set, 0, "configmap/two created");
        let less = set.split("---\n").next().unwrap();
        k.check_with("apply --prune -l set=s -f -", less, 0, "configmap/two pruned");
    }
}

#[test]
fn objects_are_deleted_as_asked() {
    for k in clusters() {
        for (name, cascade) in [("a", "background"), ("b", "foreground"), ("c", "orphan")] {
            k.check_with("apply -f -", &WEB.replace("web", name), 0, "created");
            k.check(
                &format!("delete deployment {name} --cascade={cascade} --timeout=60s"),
                0,
                "deleted",
            );
        }
        k.run("create configmap x");
        k.run("create configmap y");
        k.check("delete configmap x y", 0, "configmap \"y\" deleted");
        k.check("delete configmap x", 1, "not found");
        k.check("delete configmap x --ignore-not-found", 0, "");
        k.run("create secret generic s --from-literal=a=b");
        k.check("delete secret --all --dry-run=server", 0, "(server dry run)");
        k.check("delete secret --all", 0, "secret \"s\" deleted");
        k.run("run p --image=i");
        k.check("delete pod p --now --timeout=60s", 0, "deleted");
        k.check("delete pod p --force", 1, "not found");
        k.check_with("apply -f -", WEB, 0, "created");
        k.check_with("delete -f -", WEB, 0, "deleted");
    }
}

#[test]
fn rights_are_asked_and_reconciled() {
    for k in clusters() {
        k.check("auth whoami", 0, "kubernetes-admin");
        k.check("auth can-i create pods", 0, "yes");
        k.check(
            "auth can-i --list --as=system:serviceaccount:default:default",
            0,
            "selfsubjectreviews",
        );
        let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n";
        k.check_with(
            "auth reconcile -f -",
            role,
            0,
            "clusterrole.rbac.authorization.k8s.io/r reconciled",
        );
        k.check_with(
            "auth reconcile -f -",
            &role.replace("[get]", "[list]"),
            0,
            "missing rules added",
        );
        k.check("get clusterrole r -o jsonpath={.rules[*].verbs[*]}", 0, "list");
    }
}

#[test]
fn waits_end_when_what_they_wait_for_is_true() {
    for k in clusters() {
        k.run("run p --image=i");
        k.check(
            "wait pod/p --for=jsonpath={.status.phase}=Pending --timeout=60s",
            0,
            "condition met",
        );
        k.check("wait pod/p --for=condition=Ready --timeout=1s", 1, "timed out");
        let mut wait = k.kubectl("wait pod/p --for=delete --timeout=60s");
        let mut child = wait.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        k.run("delete pod p");
        assert!(child.wait().unwrap().success());
        k.run("create configmap c");
        k.check("wait configmap/c --for=create --timeout=60s", 0, "condition met");
    }
}

#[test]
fn nodes_are_tainted_and_cordoned_without_a_runtime() {
    let mut all = vec![Cluster::with(&["--fake-nodes", "2"])];
    if let Some(installed) = tools::optional("kubectl-installed") {
        all.push(Cluster::with(&["--fake-nodes", "2"]).through(&installed));
    }
    for k in all {
        k.check("wait node fake-0 fake-1 --for=condition=Ready --timeout=60s", 0, "condition met");
        k.until("get nodes", "Ready");
        k.check("taint node fake-0 k=v:NoSchedule", 0, "tainted");
        k.check("taint node fake-0 k-", 0, "untainted");
        k.check("cordon fake-0", 0, "cordoned");
        k.run("run p --image=i");
        k.check("wait pod/p --for=condition=Ready --timeout=60s", 0, "condition met");
        k.check("get pod p -o wide", 0, "fake-1");
        k.check("uncordon fake-0", 0, "uncordoned");
        k.run("run once --image=i --restart=Never");
        k.until("get pod once", "Completed");
        k.check("drain fake-1 --force --timeout=60s", 0, "drained");
        k.check("delete pod --all --timeout=60s", 0, "");
    }
}

#[test]
fn certificates_are_approved_signed_and_used() {
    for k in clusters() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "carol");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "devs");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = base64(pem.as_bytes());
        let object = format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: carol}}\nspec: {{request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}\n"
        );
        k.check_with("create -f -", &object, 0, "created");
        k.check("get csr carol", 0, "Pending");
        k.check("certificate approve carol", 0, "approved");
        eventually("a certificate", || {
            let text = k.run("get csr carol -o jsonpath={.status.certificate}");
            (!text.is_empty()).then_some(())
        });
        let certificate = k.run("get csr carol -o jsonpath={.status.certificate}");
        k.run(&format!("config set users.carol.client-certificate-data {certificate}"));
        let key = base64(key.serialize_pem().as_bytes());
        k.run(&format!("config set users.carol.client-key-data {key}"));
        k.check("auth whoami --user=carol", 0, "carol");
        k.check("get pods --user=carol", 1, "User \"carol\" cannot list resource \"pods\"");
        k.check_with("create -f -", &object.replace("name: carol", "name: other"), 0, "created");
        k.check("certificate deny other", 0, "denied");
        k.check("get csr other", 0, "Denied");
    }
}

#[test]
fn a_proxy_and_a_kustomization_work() {
    for k in clusters() {
        let mut c = k.kubectl("proxy --port=0");
        let mut child = c.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let address = line.rsplit(' ').next().unwrap();
        let answer = fetch(address, "/api/v1/namespaces/default");
        assert!(
            answer.contains("\"name\": \"default\"") || answer.contains("\"name\":\"default\""),
            "{answer}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let dir = k.dir().join("kustomize");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("web.yaml"), WEB).unwrap();
        std::fs::write(dir.join("kustomization.yaml"), "resources: [web.yaml]\nnamePrefix: my-\n")
            .unwrap();
        k.check("kustomize kustomize", 0, "name: my-web");
        k.check("apply -k kustomize", 0, "deployment.apps/my-web created");
        k.check("get -k kustomize -o name", 0, "deployment.apps/my-web");
        k.check("delete -k kustomize", 0, "deleted");
    }
}

/// What a server without TLS answers.
fn fetch(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let letter = LETTERS[(n >> (18 - 6 * i)) as usize & 63];
            out.push(if i > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    out
}
