//! Admission policies and webhooks, and conversion by webhook: what users put into the path of writes.

#![allow(clippy::unwrap_used, reason = "a surprise in a test is a panic")]

mod common;

use base64::Engine as _;
use bytes::Bytes;
use common::World;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_base::sync::Mutex;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const CONFIGS: &str = "/api/v1/namespaces/default/configmaps";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn base64(text: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A webhook on a port of its own, answering with what a function makes of the review.
struct Hook {
    url: String,
    bundle: String,
    port: u16,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    /// One whose certificate is its own authority.
    async fn start(answer: fn(&Value) -> Value) -> Hook {
        let names = vec!["127.0.0.1".to_owned(), "hook.default.svc".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Hook::with((made.cert, made.signing_key), answer).await
    }

    async fn with(made: (rcgen::Certificate, rcgen::KeyPair), answer: fn(&Value) -> Value) -> Hook {
        let (cert, key) = made;
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(stream).await else { continue };
                let record = Arc::clone(&record);
                let service = service_fn(move |r: Request<hyper::body::Incoming>| {
                    let record = Arc::clone(&record);
                    async move {
                        let body = r.into_body().collect().await.unwrap().to_bytes();
                        let review: Value = serde_json::from_slice(&body).unwrap();
                        record.lock().push(review.clone());
                        let mut response = answer(&review["request"]);
                        response["uid"] = review["request"]["uid"].clone();
                        let reply = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(
                            reply.to_string(),
                        ))))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service),
                );
            }
        });
        Hook {
            url: format!("https://127.0.0.1:{port}/"),
            bundle: base64(cert.pem().as_bytes()),
            port,
            seen,
        }
    }

    fn config(&self, kind: &str, more: &Value) -> String {
        let mut hook = json!({"name": "hook.example.com", "clientConfig": {"url": self.url, "caBundle": self.bundle},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hook"}, "webhooks": [hook]}).to_string()
    }
}

fn config(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n")
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: small}}\nspec:\n  matchConstraints:\n    resourceRules:\n    - {{apiGroups: [''], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}}\n{spec}"
    )
}

fn binding(more: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: all}}\nspec: {{policyName: small, {more}}}\n"
    )
}

#[tokio::test]
async fn a_policy_denies_with_its_message_and_its_variables() {
    let w = World::new().await;
    w.create(POLICIES, &policy("  variables:\n  - {name: count, expression: 'object.data.size()'}\n  matchConditions:\n  - {name: named, expression: \"object.metadata.name != 'free'\"}\n  validations:\n  - expression: 'variables.count <= 1'\n    messageExpression: \"'has %d entries'.format([variables.count])\"\n  - expression: \"!has(object.data.bad)\"\n    message: no bad\n    reason: Forbidden\n")).await;
    assert_eq!(
        w.write(Method::POST, CONFIGS, "", &config("unbound", "{a: '1', b: '2'}")).await.status,
        201
    );
    w.create(BINDINGS, &binding("validationActions: [Deny]")).await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{a: '1', b: '2'}")).await;
    assert_eq!(got.status, 422, "{}", got.text());
    assert_eq!(
        got.json()["message"],
        "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'all' denied request: has 2 entries"
    );
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{bad: '1'}")).await;
    assert_eq!(
        (got.status, got.json()["reason"].as_str().unwrap().to_owned()),
        (403, "Forbidden".to_owned())
    );
    assert_eq!(
        w.write(Method::POST, CONFIGS, "", &config("free", "{a: '1', b: '2'}")).await.status,
        201
    );
    assert_eq!(w.write(Method::POST, CONFIGS, "", &config("ok", "{a: '1'}")).await.status, 201);
    let got = w.merge(&format!("{CONFIGS}/ok"), json!({"data": {"b": "2"}})).await;
    assert_eq!(got.status, 422);
}

#[tokio::test]
async fn a_policy_takes_parameters_and_may_only_warn() {
    let w = World::new().await;
    w.create(CONFIGS, &config("limits", "{most: '1'}")).await;
    w.create(POLICIES, &policy("  paramKind: {apiVersion: v1, kind: ConfigMap}\n  validations:\n  - expression: 'object.data.size() <= int(params.data.most)'\n")).await;
    w.create(BINDINGS, &binding("validationActions: [Warn], paramRef: {name: limits, namespace: default, parameterNotFoundAction: Deny}")).await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{a: '1', b: '2'}")).await;
    assert_eq!(got.status, 201, "{}", got.text());
    assert_eq!(
        got.warnings(),
        [
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'small' with binding 'all': failed expression: object.data.size() <= int(params.data.most)\""
        ]
    );
    w.delete(&format!("{CONFIGS}/limits")).await;
    let got = w.write(Method::POST, CONFIGS, "", &config("b", "{a: '1'}")).await;
    assert_eq!(got.status, 403, "{}", got.text());
}

#[tokio::test]
async fn expressions_that_do_not_compile_are_refused() {
    let w = World::new().await;
    let got = w
        .write(Method::POST, POLICIES, "", &policy("  validations:\n  - expression: 'nope > 1'\n"))
        .await;
    assert_eq!(got.status, 422);
    let message = got.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("spec.validations[0].expression: Invalid value: \"nope > 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nope'"), "{message}");
}

#[tokio::test]
async fn a_mutating_policy_applies_and_patches() {
    let w = World::new().await;
    let policy = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: mark}
spec:
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: "Object{metadata: Object.metadata{labels: Object.metadata.labels{by: request.userInfo.username}}}"
  - patchType: JSONPatch
    jsonPatch:
      expression: "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/x'), value: 'y'}]"
"#;
    w.create("/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies", policy).await;
    w.create("/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
        "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicyBinding\nmetadata: {name: mark}\nspec: {policyName: mark}\n").await;
    let got = w.create(CONFIGS, &config("a", "{k: v}")).await;
    assert_eq!(got["metadata"]["labels"], json!({"by": "kubernetes-admin", "example.com/x": "y"}));
    assert_eq!(got["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn a_webhook_changes_what_is_written() {
    let w = World::new().await;
    let hook = Hook::start(|r| {
        let patch = json!([{"op": "add", "path": "/data/seen", "value": r["operation"]}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": base64(patch.to_string().as_bytes()), "warnings": ["touched"]})
    })
    .await;
    let more = json!({"matchConditions": [{"name": "not", "expression": "object.metadata.name != 'skip-me'"}]});
    w.create(
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        &hook.config("MutatingWebhookConfiguration", &more),
    )
    .await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{k: v}")).await;
    assert_eq!(got.status, 201, "{}", got.text());
    assert_eq!(got.json()["data"], json!({"k": "v", "seen": "CREATE"}));
    assert_eq!(got.warnings(), ["299 - \"touched\""]);
    let got = w.create(CONFIGS, &config("skip-me", "{k: v}")).await;
    assert_eq!(got["data"], json!({"k": "v"}));
    let seen = hook.seen.lock()[0].clone();
    assert_eq!(seen["kind"], "AdmissionReview");
    assert_eq!(
        seen["request"]["resource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(seen["request"]["object"]["data"]["k"], "v");
    assert_eq!(seen["request"]["userInfo"]["username"], "kubernetes-admin");
}

#[tokio::test]
async fn a_webhook_refuses_and_its_failure_is_as_its_policy_says() {
    let w = World::new().await;
    let hook = Hook::start(|r| {
        let bad = r["object"]["data"]["bad"].is_string();
        json!({"allowed": !bad, "status": {"message": "this is bad", "code": 403, "reason": "Forbidden"}})
    })
    .await;
    let target = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    w.create(target, &hook.config("ValidatingWebhookConfiguration", &json!({}))).await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{bad: v}")).await;
    assert_eq!(got.status, 403);
    assert_eq!(
        got.json()["message"],
        "admission webhook \"hook.example.com\" denied the request: this is bad"
    );
    assert_eq!(w.write(Method::POST, CONFIGS, "", &config("ok", "{k: v}")).await.status, 201);
    let closed = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": "https://127.0.0.1:1/"}]);
    let one = format!("{target}/hook");
    assert_eq!(
        w.write(Method::PATCH, &one, "application/json-patch+json", &closed.to_string())
            .await
            .status,
        200
    );
    let got = w.write(Method::POST, CONFIGS, "", &config("b", "{k: v}")).await;
    assert_eq!(got.status, 500);
    let message = got.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: Post \"https://127.0.0.1:1/?timeout=5s\": dial tcp 127.0.0.1:1:"), "{message}");
    let open = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    assert_eq!(
        w.write(Method::PATCH, &one, "application/json-patch+json", &open.to_string()).await.status,
        200
    );
    assert_eq!(w.write(Method::POST, CONFIGS, "", &config("b", "{bad: v}")).await.status, 201);
}

#[tokio::test]
async fn a_webhook_may_be_known_by_its_certificate_alone() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(authority, key);
    for (host, code) in [("127.0.0.1", 403), ("127.0.0.2", 500)] {
        let w = World::new().await;
        let key = rcgen::KeyPair::generate().unwrap();
        let mut own = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        own.distinguished_name.push(rcgen::DnType::CommonName, "hook");
        let cert = own.signed_by(&key, &issuer).unwrap();
        let denies =
            |_: &Value| json!({"allowed": false, "status": {"code": 403, "message": "no"}});
        // Its bundle is its certificate, and who signed it is nobody's business.
        let hook = Hook::with((cert, key), denies).await;
        let kind = "ValidatingWebhookConfiguration";
        w.create(VALIDATING, &hook.config(kind, &json!({}))).await;
        let got = w.write(Method::POST, CONFIGS, "", &config("a", "{a: '1'}")).await;
        assert_eq!(got.status, code, "{host}: {}", got.text());
    }
}

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

fn allows(_: &Value) -> Value {
    json!({"allowed": true})
}

#[tokio::test]
async fn a_webhook_sees_what_its_selectors_choose_and_learns_of_a_dry_run() {
    let w = World::new().await;
    let hook = Hook::start(allows).await;
    let more = json!({"objectSelector": {"matchLabels": {"seen": "yes"}}, "namespaceSelector": {
        "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["default"]}]}});
    w.create(VALIDATING, &hook.config("ValidatingWebhookConfiguration", &more)).await;
    let labelled = |name: &str| format!("{{metadata: {{name: {name}, labels: {{seen: 'yes'}}}}}}");
    let count = || hook.seen.lock().len();
    w.create(CONFIGS, &config("plain", "{a: '1'}")).await;
    w.create("/api/v1/namespaces/kube-public/configmaps", &labelled("elsewhere")).await;
    assert_eq!(count(), 0);
    w.create(&format!("{CONFIGS}?dryRun=All"), &labelled("a")).await;
    assert_eq!(hook.seen.lock()[0]["request"]["dryRun"], true);
    w.create(CONFIGS, &labelled("a")).await;
    assert_eq!(hook.seen.lock()[1]["request"]["dryRun"], false);
    // What was selected before is still its business.
    w.merge(&format!("{CONFIGS}/a"), json!({"metadata": {"labels": {"seen": null}}})).await;
    assert_eq!(count(), 3);
    w.merge(&format!("{CONFIGS}/a"), json!({"data": {"b": "2"}})).await;
    assert_eq!(count(), 3);
}

#[tokio::test]
async fn a_webhook_of_another_version_is_asked_in_its_own_unless_it_wants_exactly_that() {
    for (policy, asked) in [("Equivalent", 1), ("Exact", 0)] {
        let w = World::new().await;
        let hook = Hook::start(allows).await;
        let more = json!({"matchPolicy": policy, "rules": [{"operations": ["CREATE"], "apiGroups": ["autoscaling"],
            "apiVersions": ["v2"], "resources": ["horizontalpodautoscalers"]}]});
        w.create(VALIDATING, &hook.config("ValidatingWebhookConfiguration", &more)).await;
        let scaler = "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {maxReplicas: 3, targetCPUUtilizationPercentage: 50, scaleTargetRef: {kind: Deployment, name: d, apiVersion: apps/v1}}}";
        let all = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
        w.create(all, scaler).await;
        let seen = hook.seen.lock();
        assert_eq!(seen.len(), asked, "{policy}");
        for review in seen.iter() {
            let request = &review["request"];
            assert_eq!(request["kind"]["version"], "v2");
            assert_eq!(request["requestKind"]["version"], "v1");
            assert_eq!(request["object"]["spec"]["metrics"][0]["resource"]["name"], "cpu");
        }
    }
}

#[tokio::test]
async fn a_webhook_is_asked_again_when_a_later_one_changed_the_object() {
    let w = World::new().await;
    let first = Hook::start(allows).await;
    let second = Hook::start(|_| {
        let patch = json!([{"op": "add", "path": "/data/late", "value": "yes"}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": base64(patch.to_string().as_bytes())})
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    for (name, hook, again) in [("a", &first, "IfNeeded"), ("b", &second, "Never")] {
        let more = json!({"name": format!("{name}.example.com"), "reinvocationPolicy": again});
        let config = hook.config(kind, &more).replace("\"hook\"", &format!("\"{name}\""));
        w.create(MUTATING, &config).await;
    }
    let made = w.create(CONFIGS, &config("a", "{a: '1'}")).await;
    assert_eq!(made["data"], json!({"a": "1", "late": "yes"}));
    let seen = first.seen.lock();
    assert_eq!((seen.len(), second.seen.lock().len()), (2, 1));
    assert_eq!(seen[1]["request"]["object"]["data"]["late"], "yes");
}

#[tokio::test]
async fn a_webhook_is_reached_through_its_service() {
    let w = World::new().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    w.create("/api/v1/namespaces/default/services", "apiVersion: v1\nkind: Service\nmetadata: {name: hook}\nspec: {type: ExternalName, externalName: localhost}\n").await;
    let service = json!({"name": "hook", "namespace": "default", "path": "/x", "port": hook.port});
    let more = json!({"clientConfig": {"service": service, "caBundle": hook.bundle}});
    w.create(
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        &hook.config("ValidatingWebhookConfiguration", &more),
    )
    .await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{k: v}")).await;
    assert_eq!(
        got.json()["message"],
        "admission webhook \"hook.example.com\" denied the request without explanation"
    );
    w.delete("/api/v1/namespaces/default/services/hook").await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{k: v}")).await;
    let message = got.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(".svc:") && message.ends_with("service \"hook\" not found"),
        "{message}"
    );
}

const CRD: &str = include_str!("data/crontab.yaml");

#[tokio::test]
async fn versions_are_converted_by_a_webhook() {
    let w = World::new().await;
    let hook = Hook::start(|r| {
        let to = r["desiredAPIVersion"].as_str().unwrap().to_owned();
        let convert = |o: &Value| {
            let mut o = o.clone();
            o["apiVersion"] = json!(to);
            if to.ends_with("v1") {
                let old = o["spec"].as_object_mut().unwrap().remove("cron").unwrap_or(json!("1"));
                o["spec"]["cronSpec"] = old;
            } else {
                let old =
                    o["spec"].as_object_mut().unwrap().remove("cronSpec").unwrap_or(json!("1"));
                o["spec"]["cron"] = old;
            }
            o
        };
        let objects: Vec<Value> = r["objects"].as_array().unwrap().iter().map(convert).collect();
        json!({"convertedObjects": objects, "result": {"status": "Success"}})
    })
    .await;
    let conversion = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": hook.url, "caBundle": hook.bundle}, "conversionReviewVersions": ["v1"]}});
    let crd = CRD.replace(
        "  scope: Namespaced\n",
        &format!("  scope: Namespaced\n  conversion: {conversion}\n"),
    );
    w.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await;
    let new = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let old = "/apis/stable.example.com/v1beta1/namespaces/default/crontabs";
    w.create(new, "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: a}\nspec: {cronSpec: '1 2'}\n").await;
    assert_eq!(w.get(&format!("{old}/a")).await.json()["spec"]["cron"], "1 2");
    w.create(old, "apiVersion: stable.example.com/v1beta1\nkind: CronTab\nmetadata: {name: b}\nspec: {cron: '3 4'}\n").await;
    assert_eq!(w.get(&format!("{new}/b")).await.json()["spec"]["cronSpec"], "3 4");
    let list = w.get(new).await.json();
    let specs: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|i| &i["spec"]["cronSpec"]).collect();
    assert_eq!(specs, [&json!("1 2"), &json!("3 4")]);
}

#[tokio::test]
async fn a_policy_may_ask_what_the_user_may() {
    let w = World::new().await;
    w.create(POLICIES, &policy("  validations:\n  - expression: \"authorizer.group('').resource('secrets').namespace('default').check('get').allowed()\"\n")).await;
    w.create(BINDINGS, &binding("validationActions: [Deny]")).await;
    assert_eq!(w.write(Method::POST, CONFIGS, "", &config("a", "{k: v}")).await.status, 201);
    let jane = wharf_apiserver::user::User::new("jane", Vec::new());
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    w.create(&format!("{rbac}/roles"), "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r}\nrules: [{apiGroups: [''], resources: [configmaps], verbs: [create]}]\n").await;
    w.create(&format!("{rbac}/rolebindings"), "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: r}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}\nsubjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]\n").await;
    let headers = [("content-type", "application/yaml")];
    let got =
        w.send(Method::POST, CONFIGS, &headers, config("b", "{k: v}").into_bytes(), &jane).await;
    assert_eq!(got.status, 422, "{}", got.text());
}

#[tokio::test]
async fn answers_name_the_flow_schema_and_its_level() {
    let w = World::new().await;
    let got = w.get("/api/v1/namespaces/default").await;
    for (header, kind) in [
        ("x-kubernetes-pf-flowschema-uid", "flowschemas"),
        ("x-kubernetes-pf-prioritylevel-uid", "prioritylevelconfigurations"),
    ] {
        let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{kind}/exempt");
        let of = w.get(&path).await.json();
        assert_eq!(got.headers[header].to_str().unwrap(), of["metadata"]["uid"], "{kind}");
        // Discovery and refusals tell it as well.
        for path in ["/apis", "/version", "/api/v1/namespaces/none", "/api/v1/nothing"] {
            assert_eq!(w.get(path).await.headers[header], got.headers[header], "{path}");
        }
        let nobody = wharf_apiserver::user::User::new("jane", Vec::new());
        let refused = w.send(Method::GET, CONFIGS, &[], Vec::new(), &nobody).await;
        assert_eq!(refused.status, 403);
        assert_ne!(refused.headers[header], got.headers[header], "another's");
    }
}

#[tokio::test]
async fn streams_and_what_is_posted_below_objects_are_judged() {
    let w = World::new().await;
    let all = "/api/v1/namespaces/default";
    w.create(&format!("{all}/serviceaccounts"), "{metadata: {name: default}}").await;
    w.create(
        &format!("{all}/pods"),
        "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}",
    )
    .await;
    let hook = Hook::start(|r| {
        let text = r["object"].to_string();
        json!({"allowed": !text.contains("rm") && !text.contains("drain"), "status": {"message": "not here"}})
    })
    .await;
    let rule = |operation: &str, resources: &[&str]| json!({"operations": [operation], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources});
    let rules = json!({"rules": [rule("CONNECT", &["pods/exec", "services/proxy"]),
        rule("CREATE", &["pods/eviction", "pods/binding"]), rule("UPDATE", &["pods", "pods/status"])]});
    w.create(VALIDATING, &hook.config("ValidatingWebhookConfiguration", &rules)).await;
    let denied = "admission webhook \"hook.example.com\" denied the request: not here";
    let exec = format!("{all}/pods/p/exec?container=c&command=rm&command=-r&stdin=true&tty=0");
    let got = w.write(Method::POST, &exec, "", "").await;
    assert_eq!((got.status, got.json()["message"].as_str().unwrap()), (400, denied));
    let seen = hook.seen.lock().pop().unwrap()["request"].clone();
    let options = json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "container": "c", "command": ["rm", "-r"]});
    assert_eq!(seen["object"], options);
    assert_eq!(
        (&seen["operation"], &seen["subResource"], &seen["name"]),
        (&json!("CONNECT"), &json!("exec"), &json!("p"))
    );
    assert_eq!(seen["kind"], json!({"group": "", "version": "v1", "kind": "PodExecOptions"}));
    assert_eq!((&seen["resource"]["resource"], &seen["options"]), (&json!("pods"), &Value::Null));
    // One that is allowed goes on to the pod, which has no node; a log is nobody's business.
    let got = w.get(&format!("{all}/pods/p/exec?command=ls")).await;
    assert_eq!(got.json()["message"], "pod p does not have a host assigned");
    assert!(w.get(&format!("{all}/pods/p/log")).await.status >= 400);
    assert_eq!(hook.seen.lock().len(), 1);
    let got = w.get(&format!("{all}/services/s/proxy/rm/x")).await;
    assert_eq!(got.json()["message"], denied);
    assert_eq!(hook.seen.lock().pop().unwrap()["request"]["object"]["path"], "/rm/x");
    let binding =
        "{apiVersion: v1, kind: Binding, metadata: {name: p}, target: {kind: Node, name: NODE}}";
    let to = |node: &str| binding.replace("NODE", node);
    let path = format!("{all}/pods/p/binding");
    let got = w.write(Method::POST, &path, "", &to("drained")).await;
    assert_eq!(got.json()["message"], denied);
    let got = w.write(Method::POST, &path, "", &to("one")).await;
    assert_eq!(got.status, 201, "{}", got.text());
    let eviction = "{apiVersion: policy/v1, kind: Eviction, metadata: {name: p}}";
    hook.seen.lock().clear();
    let got = w.write(Method::POST, &format!("{all}/pods/p/eviction"), "", eviction).await;
    assert_eq!(got.status, 201, "{}", got.text());
    // What the server does to carry it out is no request of anybody's.
    let seen = hook.seen.lock().clone();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["request"]["kind"]["kind"], "Eviction");
}

#[tokio::test]
async fn policies_judge_streams() {
    let w = World::new().await;
    let policy = policy("  validations:\n  - {expression: \"!('rm' in object.command)\", message: no rm, reason: Forbidden}\n")
        .replace("operations: [CREATE, UPDATE], resources: [configmaps]", "operations: [CONNECT], resources: [pods/exec]");
    w.create(POLICIES, &policy).await;
    w.create(BINDINGS, &binding("validationActions: [Deny]")).await;
    let exec = "/api/v1/namespaces/default/pods/p/exec?command=";
    let got = w.write(Method::POST, &format!("{exec}rm"), "", "").await;
    assert_eq!(got.status, 403, "{}", got.text());
    assert!(got.text().contains("denied request: no rm"), "{}", got.text());
    assert_eq!(w.write(Method::POST, &format!("{exec}ls"), "", "").await.status, 404);
}

#[tokio::test]
async fn policies_change_streams_and_what_is_posted_below_objects() {
    let w = World::new().await;
    let all = "/api/v1/namespaces/default";
    w.create(&format!("{all}/serviceaccounts"), "{metadata: {name: default}}").await;
    let pod = "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";
    w.create(&format!("{all}/pods"), pod).await;
    let registration = "/apis/admissionregistration.k8s.io/v1";
    let policy = |name: &str, operation: &str, resource: &str, mutation: &str| {
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             failurePolicy: Fail\n  reinvocationPolicy: Never\n  matchConstraints:\n    resourceRules:\n    \
             - {{apiGroups: [''], apiVersions: [v1], operations: [{operation}], resources: [{resource}]}}\n  \
             mutations: [{mutation}]\n"
        )
    };
    let bound = |name: &str| {
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicyBinding\nmetadata: {{name: {name}}}\n\
             spec: {{policyName: {name}}}\n"
        )
    };
    let patch = |expression: &str| {
        format!("{{patchType: JSONPatch, jsonPatch: {{expression: {expression:?}}}}}")
    };
    let contain = patch("[JSONPatch{op: 'add', path: '/container', value: 'chosen'}]");
    let node = patch("[JSONPatch{op: 'replace', path: '/target/name', value: 'other'}]");
    for (name, operation, resource, mutation) in
        [("exec", "CONNECT", "pods/exec", &contain), ("bind", "CREATE", "pods/binding", &node)]
    {
        let policies = format!("{registration}/mutatingadmissionpolicies");
        w.create(&policies, &policy(name, operation, resource, mutation)).await;
        w.create(&format!("{registration}/mutatingadmissionpolicybindings"), &bound(name)).await;
    }
    // Webhooks are asked after the policies, and see what those made.
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let rule = json!({"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/exec"]});
    let config = hook.config("ValidatingWebhookConfiguration", &json!({"rules": [rule]}));
    w.create(VALIDATING, &config).await;
    let exec = format!("{all}/pods/p/exec?command=ls");
    let got = w.get(&exec).await;
    assert_eq!(got.json()["message"], "pod p does not have a host assigned");
    let seen = hook.seen.lock().pop().unwrap()["request"]["object"].clone();
    assert_eq!((&seen["kind"], &seen["container"]), (&json!("PodExecOptions"), &json!("chosen")));
    let got = w.get(&format!("{exec}&dryRun=All")).await;
    assert_eq!((got.status, &got.json()["message"]), (400, &json!("dryRun is not supported")));
    let binding =
        "{apiVersion: v1, kind: Binding, metadata: {name: p}, target: {kind: Node, name: one}}";
    let got = w.write(Method::POST, &format!("{all}/pods/p/binding"), "", binding).await;
    assert_eq!(got.status, 201, "{}", got.text());
    assert_eq!(w.get(&format!("{all}/pods/p")).await.json()["spec"]["nodeName"], "other");
}

/// A log that a test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn policies_note_in_the_audit_log() {
    use wharf_apiserver::audit::{Audit, Policy};
    let (mut w, log) = (World::new().await, Log::default());
    let rules = b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n";
    w.server.audit = Some(Audit::new(Policy::parse(rules).unwrap(), Box::new(log.clone())));
    w.create(POLICIES, &policy("  validations:\n  - expression: 'object.data.size() <= 1'\n  auditAnnotations:\n  - {key: count, valueExpression: 'string(object.data.size())'}\n")).await;
    w.create(BINDINGS, &binding("validationActions: [Audit]")).await;
    let got = w.write(Method::POST, CONFIGS, "", &config("a", "{a: '1', b: '2'}")).await;
    assert_eq!(got.status, 201, "{}", got.text());
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let notes = &last["annotations"];
    assert_eq!(notes["small/count"], "2", "{last}");
    let failure = notes["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
    let failure: Value = serde_json::from_str(failure).unwrap();
    let expected = json!([{"message": "failed expression: object.data.size() <= 1", "policy": "small",
        "binding": "all", "expressionIndex": 0, "validationActions": ["Audit"]}]);
    assert_eq!(failure, expected);
}
