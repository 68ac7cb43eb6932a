//! Rules of single kinds that look at more than one field, or at what an object was before.

use super::{elements, entries, events, label_selector, pods, registration, selects};
use crate::names;
use crate::quantity::Quantity;
use crate::status::{Problem, Rule};
use serde_json::Value;

/// Bytes that a ConfigMap or Secret may hold.
const DATA: usize = 1024 * 1024;
/// What is said of a field that is never changed.
const IMMUTABLE: &str = "field is immutable";

/// Judges one object.
pub(super) fn check(
    group: &str,
    kind: &str,
    new: &Value,
    old: Option<&Value>,
    out: &mut Vec<Problem>,
) {
    match (group, kind) {
        ("", "ConfigMap") => config(new, old, "ConfigMap", out),
        ("", "Secret") => secret(new, old, out),
        ("", "Pod") => pods::pod(new, out),
        ("", "Service") => service(new, old, out),
        ("", "ReplicationController") => replication_controller(new, out),
        ("", "PersistentVolumeClaim") => claim(new, old, out),
        ("", "PersistentVolume") => volume(new, out),
        ("", "LimitRange") => limit_range(new, out),
        ("", "PodTemplate") => pods::template("template", &new["template"], None, out),
        ("events.k8s.io", "Event") => events::strict(new, old, out),
        ("", "ResourceQuota") => immutable(new, old, "/spec/scopes", out),
        ("apps", "ControllerRevision") => immutable(new, old, "/data", out),
        ("apps", "Deployment") => deployment(new, old, out),
        ("apps", "ReplicaSet" | "StatefulSet" | "DaemonSet") => workload(kind, new, old, out),
        ("batch", "Job") => job(new, old, out),
        ("batch", "CronJob") => cron_job(new, out),
        ("networking.k8s.io", "Ingress") => ingress(new, out),
        ("policy", "PodDisruptionBudget") => budget(new, out),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            binding(kind, new, old, out)
        }
        ("rbac.authorization.k8s.io", "ClusterRole" | "Role") => role(kind, new, out),
        ("storage.k8s.io", "StorageClass") => storage_class(new, old, out),
        ("scheduling.k8s.io", "PriorityClass") => priority_class(new, old, out),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(new, out),
        ("certificates.k8s.io", "CertificateSigningRequest") => signing_request(new, old, out),
        ("apiregistration.k8s.io", "APIService") => registration::api_service(new, out),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            crate::custom::check_definition(new, old, out);
        }
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => registration::webhooks(new, out),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            registration::validating(new, out);
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => {
            registration::mutating(new, out)
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            registration::binding(new, true, out);
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => {
            registration::binding(new, false, out);
        }
        _ => {}
    }
}

/// Whether a field changed in an update.
fn changed(new: &Value, old: Option<&Value>, path: &str) -> bool {
    old.is_some_and(|old| old.pointer(path) != new.pointer(path))
}

fn immutable(new: &Value, old: Option<&Value>, path: &str, out: &mut Vec<Problem>) {
    if changed(new, old, path) {
        let field = path.trim_start_matches('/').replace('/', ".");
        out.push(Problem::invalid(field, new.pointer(path).unwrap_or(&Value::Null), IMMUTABLE));
    }
}

fn config(new: &Value, old: Option<&Value>, _kind: &str, out: &mut Vec<Problem>) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in entries(new.get(field)) {
            size += key.len() + value.as_str().map_or(0, str::len);
            let path = format!("{field}[{key}]");
            if let Some(why) = names::config_key(key) {
                out.push(Problem::invalid(path.clone(), &Value::String(key.clone()), why));
            }
            if field == "data" && new["binaryData"].get(key).is_some() {
                out.push(Problem::invalid(
                    path,
                    &Value::String(key.clone()),
                    format!("duplicate of key present in binaryData: {key}"),
                ));
            }
        }
    }
    if size > DATA {
        out.push(Problem { field: String::new(), rule: Rule::TooLong(DATA) });
    }
    frozen(new, old, &["data", "binaryData"], out);
}

/// What is marked immutable stays as it is, and stays marked.
fn frozen(new: &Value, old: Option<&Value>, fields: &[&str], out: &mut Vec<Problem>) {
    let Some(old) = old.filter(|o| o["immutable"] == true) else { return };
    let why = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        out.push(Problem::forbidden("immutable", why));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            out.push(Problem::forbidden(*field, why));
        }
    }
}

fn secret(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let mut size = 0;
    for (key, value) in entries(new.get("data")) {
        size += value.as_str().map_or(0, |s| s.len() / 4 * 3);
        if let Some(why) = names::config_key(key) {
            out.push(Problem::invalid(format!("data[{key}]"), &Value::String(key.clone()), why));
        }
    }
    if size > DATA {
        out.push(Problem { field: "data".into(), rule: Rule::TooLong(DATA) });
    }
    let needed: &[&str] = match new["type"].as_str().unwrap_or_default() {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needed.iter().filter(|k| new["data"].get(**k).is_none()) {
        out.push(Problem::required(format!("data[{key}]"), ""));
    }
    immutable(new, old, "/type", out);
    frozen(new, old, &["data"], out);
}

fn service(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let kind = spec["type"].as_str().unwrap_or_default();
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let headless = spec["clusterIP"] == "None";
    if ports == 0 && !headless && kind != "ExternalName" {
        out.push(Problem::required("spec.ports", ""));
    }
    if kind == "ExternalName" {
        let name = spec["externalName"].as_str().unwrap_or_default();
        if name.is_empty() {
            out.push(Problem::required("spec.externalName", ""));
        } else if let Some(why) = names::subdomain(name.trim_end_matches('.')) {
            out.push(Problem::invalid("spec.externalName", &spec["externalName"], why));
        }
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        out.push(Problem::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why));
    }
    if ports > 1 {
        for (i, p) in elements(spec.get("ports")) {
            if p["name"].as_str().unwrap_or_default().is_empty() {
                out.push(Problem::required(format!("spec.ports[{i}].name"), ""));
            }
        }
    }
    for (i, p) in elements(spec.get("ports")) {
        if kind == "ClusterIP" && p["nodePort"].as_i64().unwrap_or(0) != 0 {
            out.push(Problem::forbidden(
                format!("spec.ports[{i}].nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
        let earlier = elements(spec.get("ports")).take(i);
        let same = |o: &Value| o["port"] == p["port"] && o["protocol"] == p["protocol"];
        if earlier.into_iter().any(|(_, o)| same(o)) {
            let pair = serde_json::json!({"port": p["port"], "protocol": p["protocol"]});
            out.push(Problem::duplicate(format!("spec.ports[{i}]"), &pair));
        }
    }
    out.extend(super::labels("spec.selector", spec.get("selector")));
    let was_external = old.is_some_and(|o| o["spec"]["type"] == "ExternalName");
    let had = old.is_some_and(|o| o["spec"]["clusterIP"].as_str().is_some_and(|s| !s.is_empty()));
    if had && kind != "ExternalName" && !was_external && changed(new, old, "/spec/clusterIP") {
        let value = serde_json::json!([spec["clusterIP"]]);
        out.push(Problem::invalid("spec.clusterIPs[0]", &value, "may not change once set"));
    }
}

fn replication_controller(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let selector = spec["selector"].as_object();
    if selector.is_none_or(serde_json::Map::is_empty) {
        out.push(Problem::required("spec.selector", ""));
        return;
    }
    let wanted = serde_json::json!({"matchLabels": spec["selector"]});
    pods::template("spec.template", &spec["template"], Some((&wanted, false)), out);
    pods::always_restarts("spec.template", &spec["template"], out);
}

fn deployment(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    workload("Deployment", new, old, out);
    let strategy = &new["spec"]["strategy"];
    if strategy["type"] == "Recreate" && strategy.get("rollingUpdate").is_some() {
        out.push(Problem::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ));
    }
    let zero = |v: &Value| *v == 0 || *v == "0%";
    let rolling = &strategy["rollingUpdate"];
    if rolling.is_object() && zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        out.push(Problem::invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            &rolling["maxUnavailable"],
            "may not be 0 when `maxSurge` is 0",
        ));
    }
    let (min, deadline) =
        (new["spec"]["minReadySeconds"].as_i64(), new["spec"]["progressDeadlineSeconds"].as_i64());
    if let (Some(deadline), min) = (deadline, min.unwrap_or(0))
        && deadline <= min
    {
        out.push(Problem::invalid(
            "spec.progressDeadlineSeconds",
            &deadline.into(),
            "must be greater than minReadySeconds",
        ));
    }
}

fn workload(kind: &str, new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let selector = &spec["selector"];
    if selector.is_object() {
        label_selector("spec.selector", selector, out);
        let empty = selector.as_object().is_some_and(serde_json::Map::is_empty);
        if empty {
            out.push(Problem::invalid(
                "spec.selector",
                selector,
                "empty selector is invalid for ".to_owned() + &kind.to_lowercase(),
            ));
        }
        pods::template("spec.template", &spec["template"], Some((selector, true)), out);
    } else {
        pods::template("spec.template", &spec["template"], None, out);
    }
    pods::always_restarts("spec.template", &spec["template"], out);
    immutable(new, old, "/spec/selector", out);
    if kind == "StatefulSet" {
        stateful_set(new, old, out);
    }
}

/// Fields of a StatefulSet that may change.
const STATEFUL: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn stateful_set(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let Some(old) = old else { return };
    let rest = |v: &Value| {
        let mut m = v["spec"].as_object().cloned().unwrap_or_default();
        STATEFUL.iter().for_each(|f| _ = m.shift_remove(*f));
        m
    };
    if rest(new) != rest(old) && new["spec"]["selector"] == old["spec"]["selector"] {
        out.push(Problem::forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"));
    }
}

fn job(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    job_spec("spec", spec, out);
    if spec["selector"].is_object()
        && !selects(&spec["selector"], spec.pointer("/template/metadata/labels"))
    {
        out.push(Problem::invalid(
            "spec.template.metadata.labels",
            &spec["template"]["metadata"]["labels"],
            "`selector` does not match template `labels`",
        ));
    }
    for path in [
        "/spec/selector",
        "/spec/completionMode",
        "/spec/podFailurePolicy",
        "/spec/backoffLimitPerIndex",
    ] {
        immutable(new, old, path, out);
    }
    if spec["completionMode"] != "Indexed" {
        immutable(new, old, "/spec/completions", out);
    }
    let suspended = old
        .is_some_and(|o| o["spec"]["suspend"] == true && o.pointer("/status/startTime").is_none());
    if !suspended {
        immutable(new, old, "/spec/template", out);
    }
}

fn job_spec(at: &str, spec: &Value, out: &mut Vec<Problem>) {
    pods::template(&format!("{at}.template"), &spec["template"], None, out);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if *policy == "Always" {
        out.push(Problem::unsupported(
            format!("{at}.template.spec.restartPolicy"),
            policy,
            &["OnFailure", "Never"],
        ));
    }
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        out.push(Problem::required(format!("{at}.completions"), "when completion mode is Indexed"));
    }
}

fn cron_job(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let schedule = spec["schedule"].as_str().unwrap_or_default();
    if !schedule.is_empty()
        && let Err(why) = crate::cron::Schedule::parse(schedule)
    {
        out.push(Problem::invalid("spec.schedule", &spec["schedule"], why));
    }
    if let Some(why) = spec["timeZone"].as_str().and_then(crate::cron::zone_problem) {
        out.push(Problem::invalid("spec.timeZone", &spec["timeZone"], why));
    }
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    // The controller appends eleven characters to make the names of jobs.
    if name.len() > 52 {
        out.push(Problem::invalid(
            "metadata.name",
            &new["metadata"]["name"],
            "must be no more than 52 characters",
        ));
    }
    job_spec("spec.jobTemplate.spec", &spec["jobTemplate"]["spec"], out);
}

fn claim(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let storage = new.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
    match storage.map(Quantity::parse) {
        None => out.push(Problem::required("spec.resources[storage]", "")),
        Some(Ok(q)) if q.value() <= 0 => {
            out.push(Problem::invalid(
                "spec.resources[storage]",
                &new["spec"]["resources"]["requests"]["storage"],
                "must be greater than zero",
            ));
        }
        _ => {}
    }
    let Some(old) = old else { return };
    let fixed = |v: &Value| {
        let mut m = v["spec"].as_object().cloned().unwrap_or_default();
        for f in ["resources", "volumeName", "volumeAttributesClassName", "storageClassName"] {
            m.shift_remove(f);
        }
        m
    };
    if fixed(new) != fixed(old) {
        out.push(Problem::forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"));
    }
}

fn volume(new: &Value, out: &mut Vec<Problem>) {
    let spec = new["spec"].as_object().cloned().unwrap_or_default();
    let known = [
        "capacity",
        "accessModes",
        "claimRef",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "mountOptions",
        "volumeMode",
        "nodeAffinity",
        "volumeAttributesClassName",
    ];
    let sources = spec.keys().filter(|k| !known.contains(&k.as_str())).count();
    match sources {
        0 => out.push(Problem::required("spec", "must specify a volume type")),
        1 => {}
        _ => out.push(Problem::forbidden("spec", "may not specify more than 1 volume type")),
    }
}

fn limit_range(new: &Value, out: &mut Vec<Problem>) {
    for (i, item) in elements(new["spec"].get("limits")) {
        for (key, min) in entries(item.get("min")) {
            let (Some(min), Some(max)) = (min.as_str(), item["max"][key].as_str()) else {
                continue;
            };
            if let (Ok(a), Ok(b)) = (Quantity::parse(min), Quantity::parse(max))
                && a > b
            {
                let why = format!("min value {min} is greater than max value {max}");
                out.push(Problem::invalid(
                    format!("spec.limits[{i}].min[{key}]"),
                    &item["min"][key],
                    why,
                ));
            }
        }
    }
}

fn ingress(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let rules = spec["rules"].as_array().map_or(0, Vec::len);
    if rules == 0 && spec["defaultBackend"].is_null() {
        out.push(Problem::invalid(
            "spec",
            spec,
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    for (i, rule) in elements(spec.get("rules")) {
        for (j, path) in elements(rule["http"].get("paths")) {
            let text = path["path"].as_str().unwrap_or_default();
            let rooted = path["pathType"] != "ImplementationSpecific" || !text.is_empty();
            if rooted && !text.starts_with('/') {
                let at = format!("spec.rules[{i}].http.paths[{j}].path");
                out.push(Problem::invalid(at, &path["path"], "must be an absolute path"));
            }
        }
    }
}

fn budget(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        out.push(Problem::invalid(
            "spec",
            spec,
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    if spec["selector"].is_object() {
        label_selector("spec.selector", &spec["selector"], out);
    }
}

fn binding(kind: &str, new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let role = &new["roleRef"];
    if role["apiGroup"] != "rbac.authorization.k8s.io" {
        out.push(Problem::unsupported(
            "roleRef.apiGroup",
            &role["apiGroup"],
            &["rbac.authorization.k8s.io"],
        ));
    }
    let allowed: &[&str] =
        if kind == "RoleBinding" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !role["kind"].as_str().is_some_and(|k| allowed.contains(&k)) {
        out.push(Problem::unsupported("roleRef.kind", &role["kind"], allowed));
    }
    for (i, s) in elements(new.get("subjects")) {
        let at = format!("subjects[{i}]");
        match s["kind"].as_str().unwrap_or_default() {
            "ServiceAccount" => {
                if s["namespace"].as_str().unwrap_or_default().is_empty() {
                    out.push(Problem::required(format!("{at}.namespace"), ""));
                }
            }
            "User" | "Group" => {}
            _ => out.push(Problem::unsupported(
                format!("{at}.kind"),
                &s["kind"],
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
    if changed(new, old, "/roleRef") {
        out.push(Problem::invalid("roleRef", role, "cannot change roleRef"));
    }
}

fn role(kind: &str, new: &Value, out: &mut Vec<Problem>) {
    for (i, rule) in elements(new.get("rules")) {
        let count = |f: &str| rule[f].as_array().map_or(0, Vec::len);
        let at = format!("rules[{i}]");
        if count("nonResourceURLs") > 0 {
            if kind == "Role" {
                out.push(Problem::invalid(
                    format!("{at}.nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            if count("apiGroups") + count("resources") + count("resourceNames") > 0 {
                out.push(Problem::invalid(
                    format!("{at}.nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        if count("apiGroups") == 0 {
            out.push(Problem::required(
                format!("{at}.apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if count("resources") == 0 {
            out.push(Problem::required(
                format!("{at}.resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
}

fn storage_class(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let path = |p: &str| changed(new, old, p);
    for (p, field) in [
        ("/parameters", "parameters"),
        ("/provisioner", "provisioner"),
        ("/reclaimPolicy", "reclaimPolicy"),
        ("/volumeBindingMode", "volumeBindingMode"),
    ] {
        if path(p) {
            out.push(Problem::forbidden(field, format!("updates to {field} are forbidden.")));
        }
    }
}

fn priority_class(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let value = new["value"].as_i64().unwrap_or(0);
    let system = matches!(name, "system-cluster-critical" | "system-node-critical");
    if name.starts_with("system-") && !system {
        out.push(Problem::forbidden("metadata.name", "priority class names with 'system-' prefix are reserved for system use only. error: only system-cluster-critical and system-node-critical are allowed"));
    } else if value > 1_000_000_000 && !system {
        out.push(Problem::forbidden(
            "value",
            format!("maximum allowed value of a user defined priority is {}", 1_000_000_000),
        ));
    }
    if changed(new, old, "/value") {
        out.push(Problem::forbidden("value", "may not be changed in an update."));
    }
    immutable(new, old, "/preemptionPolicy", out);
}

fn autoscaler(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let (min, max) =
        (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if min < 1 {
        out.push(Problem::invalid(
            "spec.minReplicas",
            &spec["minReplicas"],
            "must be greater than or equal to 1",
        ));
    }
    if max > 0 && max < min {
        out.push(Problem::invalid(
            "spec.maxReplicas",
            &spec["maxReplicas"],
            "must be greater than or equal to `minReplicas`",
        ));
    }
}

fn signing_request(new: &Value, old: Option<&Value>, out: &mut Vec<Problem>) {
    if changed(new, old, "/spec") {
        out.push(Problem::invalid("spec", &Value::Null, IMMUTABLE));
    }
    let decided = |t: &str| elements(new["status"].get("conditions")).any(|(_, c)| c["type"] == t);
    if decided("Approved") && decided("Denied") {
        out.push(Problem::invalid(
            "status.conditions",
            &Value::Null,
            "Approved and Denied conditions are mutually exclusive",
        ));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let before = old.map(|o| &o["status"]).into_iter();
        let had =
            before.flat_map(|s| elements(s.get("conditions"))).any(|(_, c)| c["type"] == kind);
        if had && !decided(kind) {
            let why = format!("updates may not remove a condition of type {kind:?}");
            out.push(Problem::forbidden("status.conditions", why));
        }
    }
}
