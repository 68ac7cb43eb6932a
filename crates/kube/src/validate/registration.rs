//! Rules of what extends the API: how webhooks are reached, and which requests they are asked about.

use crate::cel::{Declared, Known, Program};
use crate::names;
use crate::status::Problem;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Judges how a webhook is reached: a URL or a service, not both.
pub fn client_config(config: &Value, at: &str, out: &mut Vec<Problem>) {
    let url = config.get("url").and_then(Value::as_str);
    let service = config.get("service").filter(|s| s.is_object());
    match (url, service) {
        (Some(url), None) => {
            if let Some(why) = url_problem(url) {
                out.push(Problem::invalid(format!("{at}.url"), &json!(url), why));
            }
        }
        (None, Some(s)) => {
            for key in ["name", "namespace"] {
                if text(s, key).is_empty() {
                    let why = format!("service {key} is required");
                    out.push(Problem::required(format!("{at}.service.{key}"), why));
                }
            }
            let path = text(s, "path");
            if !path.is_empty() && !path.starts_with('/') {
                let why = "must start with a '/'";
                out.push(Problem::invalid(format!("{at}.service.path"), &s["path"], why));
            }
            if let Some(port) = s.get("port").and_then(Value::as_i64)
                && !(1..=65535).contains(&port)
            {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                out.push(Problem::invalid(format!("{at}.service.port"), &s["port"], why));
            }
        }
        _ => out.push(Problem::required(at, "exactly one of url or service is required")),
    }
}

fn url_problem(url: &str) -> Option<String> {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some(rest) = url.strip_prefix("https://") else {
        return Some(format!("'https' is the only allowed URL scheme{FORM}"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Some(format!("host must be specified{FORM}"));
    }
    if authority.contains('@') {
        return Some("user information is not permitted in the URL".to_owned());
    }
    if url.contains('#') {
        return Some("fragments are not permitted in the URL".to_owned());
    }
    url.contains('?').then(|| "query parameters are not permitted in the URL".to_owned())
}

/// Judges a configuration of webhooks.
pub(super) fn webhooks(new: &Value, out: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for (i, hook) in list(new, "webhooks").iter().enumerate() {
        let at = format!("webhooks[{i}]");
        let name = text(hook, "name");
        if names::subdomain(name).is_some() || name.split('.').count() < 3 {
            let why = names::subdomain(name)
                .unwrap_or("should be a domain with at least three segments separated by dots");
            out.push(Problem::invalid(format!("{at}.name"), &hook["name"], why));
        }
        if !seen.insert(name) {
            out.push(Problem::duplicate(format!("{at}.name"), &hook["name"]));
        }
        client_config(&hook["clientConfig"], &format!("{at}.clientConfig"), out);
        for (j, rule) in list(hook, "rules").iter().enumerate() {
            self::rule(rule, &format!("{at}.rules[{j}]"), out);
        }
        if !matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun") {
            let allowed = ["None", "NoneOnDryRun"];
            out.push(Problem::unsupported(
                format!("{at}.sideEffects"),
                &hook["sideEffects"],
                &allowed,
            ));
        }
        if let Some(n) = hook.get("timeoutSeconds").and_then(Value::as_i64)
            && !(1..=30).contains(&n)
        {
            let why = "the timeout value must be between 1 and 30 seconds";
            out.push(Problem::invalid(format!("{at}.timeoutSeconds"), &json!(n), why));
        }
        let versions = list(hook, "admissionReviewVersions");
        let field = format!("{at}.admissionReviewVersions");
        if versions.is_empty() {
            out.push(Problem::required(field, "must specify one of v1, v1beta1"));
        } else if !versions.iter().any(|v| v == "v1") {
            let why = "must include at least one of v1";
            out.push(Problem::invalid(field, &hook["admissionReviewVersions"], why));
        }
        super::label_selector(&format!("{at}.namespaceSelector"), &hook["namespaceSelector"], out);
        super::label_selector(&format!("{at}.objectSelector"), &hook["objectSelector"], out);
        conditions(list(hook, "matchConditions"), &format!("{at}.matchConditions"), out);
    }
}

fn rule(rule: &Value, at: &str, out: &mut Vec<Problem>) {
    for key in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = list(rule, key);
        if values.is_empty() {
            out.push(Problem::required(format!("{at}.{key}"), ""));
        }
        if key != "resources" && values.len() > 1 && values.iter().any(|v| v == "*") {
            let why = match key {
                "operations" => "if '*' is present, must not specify other operations",
                "apiGroups" => "if '*' is present, must not specify other API groups",
                _ => "if '*' is present, must not specify other API versions",
            };
            out.push(Problem::invalid(format!("{at}.{key}"), &rule[key], why));
        }
    }
}

/// Judges conditions by which requests are matched.
fn conditions(all: &[Value], at: &str, out: &mut Vec<Problem>) {
    if all.len() > 64 {
        let rule = crate::status::Rule::TooMany(all.len(), 64);
        out.push(Problem { field: at.to_owned(), rule });
    }
    let mut seen = BTreeSet::new();
    for (i, c) in all.iter().enumerate() {
        let name = text(c, "name");
        if name.is_empty() {
            out.push(Problem::required(format!("{at}[{i}].name"), ""));
        } else if let Some(why) = names::qualified(name) {
            out.push(Problem::invalid(format!("{at}[{i}].name"), &c["name"], why));
        }
        if !seen.insert(name) {
            out.push(Problem::duplicate(format!("{at}[{i}].name"), &c["name"]));
        }
        expression(c, "expression", &format!("{at}[{i}]"), Some(&Known::Bool), out);
    }
}

/// Judges what names the server of a group and version.
pub(super) fn api_service(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
    if new["metadata"]["name"] != json!(wanted) {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted}");
        out.push(Problem::invalid("metadata.name", &new["metadata"]["name"], why));
    }
    if text(spec, "group").is_empty() && text(spec, "version") != "v1" {
        out.push(Problem::required(
            "spec.group",
            "only v1 may have an empty group and it better be legacy kube",
        ));
    }
    if let Some(why) = names::label_1035(text(spec, "version")) {
        out.push(Problem::invalid("spec.version", &spec["version"], why));
    }
    for (key, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let n = spec[key].as_i64().unwrap_or(0);
        if !(1..=most).contains(&n) {
            let why = format!("must be positive and less than or equal to {most}");
            out.push(Problem::invalid(format!("spec.{key}"), &json!(n), why));
        }
    }
    let skips = spec["insecureSkipTLSVerify"] == json!(true);
    let bundle = !text(spec, "caBundle").is_empty();
    match spec.get("service").filter(|s| s.is_object()) {
        None if bundle => {
            let why = "local APIServices may not have a caBundle";
            out.push(Problem::invalid("spec.caBundle", &spec["caBundle"], why));
        }
        None if skips => {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            out.push(Problem::invalid("spec.insecureSkipTLSVerify", &json!(true), why));
        }
        None => {}
        Some(s) => {
            for key in ["namespace", "name"] {
                if text(s, key).is_empty() {
                    out.push(Problem::required(format!("spec.service.{key}"), ""));
                }
            }
            if skips && bundle {
                let why = "may not be true if caBundle is present";
                out.push(Problem::invalid("spec.insecureSkipTLSVerify", &json!(true), why));
            }
        }
    }
}

/// What the expressions of policies and conditions may name.
pub fn policy_names() -> Declared<'static> {
    let names =
        ["object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer"];
    let all = names.iter().fold(Declared::new(), |d, name| d.dynamic(name));
    all.object("Object").object("JSONPatch")
}

/// Judges an expression; `wanted` is the type that it must have, where there is one.
fn expression(v: &Value, key: &str, at: &str, wanted: Option<&Known<'_>>, out: &mut Vec<Problem>) {
    let source = text(v, key);
    let field = format!("{at}.{key}");
    if source.trim().is_empty() {
        out.push(Problem::required(field, format!("{key} is not specified")));
        return;
    }
    match Program::compile(source, &policy_names()) {
        Err(e) => out.push(Problem::invalid(field, &v[key], e.to_string())),
        Ok((_, ty)) => {
            if let Some(wanted) = wanted.filter(|w| ty != **w && ty != Known::Dyn) {
                let why = match wanted {
                    Known::Bool => "must evaluate to bool",
                    _ => "must evaluate to string",
                };
                out.push(Problem::invalid(field, &v[key], why));
            }
        }
    }
}

/// Judges what policies have in common.
fn policy(spec: &Value, out: &mut Vec<Problem>) {
    if let Some(kind) = spec.get("paramKind").filter(|k| k.is_object()) {
        for key in ["apiVersion", "kind"] {
            if text(kind, key).is_empty() {
                out.push(Problem::required(format!("spec.paramKind.{key}"), ""));
            }
        }
    }
    if !spec["matchConstraints"].is_object() {
        out.push(Problem::required("spec.matchConstraints", ""));
    } else if list(&spec["matchConstraints"], "resourceRules").is_empty() {
        out.push(Problem::required("spec.matchConstraints.resourceRules", ""));
    }
    for (i, r) in list(&spec["matchConstraints"], "resourceRules").iter().enumerate() {
        rule(r, &format!("spec.matchConstraints.resourceRules[{i}]"), out);
    }
    conditions(list(spec, "matchConditions"), "spec.matchConditions", out);
    for (i, v) in list(spec, "variables").iter().enumerate() {
        let at = format!("spec.variables[{i}]");
        if text(v, "name").is_empty() {
            out.push(Problem::required(format!("{at}.name"), "name is not specified"));
        }
        expression(v, "expression", &at, None, out);
    }
}

/// Judges a policy that judges.
pub(super) fn validating(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    policy(spec, out);
    let (validations, notes) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && notes.is_empty() {
        let why = "validations or auditAnnotations must be specified";
        out.push(Problem::required("spec.validations", why));
        out.push(Problem::required("spec.auditAnnotations", why));
    }
    for (i, v) in validations.iter().enumerate() {
        let at = format!("spec.validations[{i}]");
        expression(v, "expression", &at, Some(&Known::Bool), out);
        if !text(v, "messageExpression").is_empty() {
            expression(v, "messageExpression", &at, Some(&Known::Str), out);
        }
        if text(v, "message").trim().contains('\n') {
            let why = "message must not contain line breaks";
            out.push(Problem::invalid(format!("{at}.message"), &v["message"], why));
        }
        let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
        if !matches!(text(v, "reason"), "") && !reasons.contains(&text(v, "reason")) {
            out.push(Problem::unsupported(format!("{at}.reason"), &v["reason"], &reasons));
        }
    }
    for (i, v) in notes.iter().enumerate() {
        let at = format!("spec.auditAnnotations[{i}]");
        if let Some(why) = names::qualified(text(v, "key")) {
            out.push(Problem::invalid(format!("{at}.key"), &v["key"], why));
        }
        expression(v, "valueExpression", &at, None, out);
    }
}

/// Judges a policy that changes.
pub(super) fn mutating(new: &Value, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    policy(spec, out);
    if list(spec, "mutations").is_empty() {
        out.push(Problem::required("spec.mutations", "mutations must contain at least one item"));
    }
    for (i, m) in list(spec, "mutations").iter().enumerate() {
        let at = format!("spec.mutations[{i}]");
        let (own, other) = match text(m, "patchType") {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "" => {
                out.push(Problem::required(format!("{at}.patchType"), ""));
                continue;
            }
            _ => continue,
        };
        if m[other].is_object() {
            let why =
                format!("{other} may not be specified when patchType is {}", text(m, "patchType"));
            out.push(Problem::invalid(format!("{at}.{other}"), &m[other], why));
        }
        if m[own].is_object() {
            expression(&m[own], "expression", &format!("{at}.{own}"), None, out);
        } else {
            let why = format!("must be specified when patchType is {}", text(m, "patchType"));
            out.push(Problem::required(format!("{at}.{own}"), why));
        }
    }
    if text(spec, "reinvocationPolicy").is_empty() {
        out.push(Problem::required("spec.reinvocationPolicy", ""));
    }
}

/// Judges what binds a policy; `acts` says that it must name actions.
pub(super) fn binding(new: &Value, acts: bool, out: &mut Vec<Problem>) {
    let spec = &new["spec"];
    if text(spec, "policyName").is_empty() {
        out.push(Problem::required("spec.policyName", ""));
    }
    let actions = list(spec, "validationActions");
    if acts && actions.is_empty() {
        out.push(Problem::required(
            "spec.validationActions",
            "at least one validation action is required",
        ));
    }
    if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        out.push(Problem::invalid("spec.validationActions", &spec["validationActions"], why));
    }
    if let Some(p) = spec.get("paramRef").filter(|p| p.is_object()) {
        let (name, selector) = (!text(p, "name").is_empty(), p["selector"].is_object());
        match (name, selector) {
            (true, true) => {
                let why = "name and selector are mutually exclusive";
                out.push(Problem::forbidden("spec.paramRef.name", why));
            }
            (false, false) => out.push(Problem::required(
                "spec.paramRef",
                "one of name or selector must be specified",
            )),
            _ => {}
        }
        if text(p, "parameterNotFoundAction").is_empty() {
            out.push(Problem::required("spec.paramRef.parameterNotFoundAction", ""));
        }
    }
}
