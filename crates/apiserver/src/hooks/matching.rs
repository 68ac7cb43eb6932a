//! Which requests a hook is about.

use super::question::Question;
use super::{list, text};
use crate::kinds::Kind;
use serde_json::{Map, Value};
use std::sync::Arc;
use wharf_kube::selector::Labels;

/// The rules of a webhook, or the match resources of a policy or binding.
#[derive(Debug)]
pub(super) struct Rules {
    include: Vec<Value>,
    exclude: Vec<Value>,
    /// Whether a rule about one version of a resource is about all.
    equivalent: bool,
    namespaces: Value,
    objects: Value,
    /// Nothing is said, which means everything.
    open: bool,
}

impl Rules {
    pub(super) fn of_webhook(config: &Value) -> Rules {
        Rules {
            include: list(config, "rules").to_vec(),
            exclude: Vec::new(),
            open: false,
            ..Rules::common(config)
        }
    }

    pub(super) fn of_policy(v: &Value) -> Rules {
        Rules {
            include: list(v, "resourceRules").to_vec(),
            exclude: list(v, "excludeResourceRules").to_vec(),
            // A binding that says nothing takes what its policy says.
            open: list(v, "resourceRules").is_empty(),
            ..Rules::common(v)
        }
    }

    fn common(v: &Value) -> Rules {
        Rules {
            include: Vec::new(),
            exclude: Vec::new(),
            equivalent: text(v, "matchPolicy") != "Exact",
            namespaces: v.get("namespaceSelector").cloned().unwrap_or_default(),
            objects: v.get("objectSelector").cloned().unwrap_or_default(),
            open: true,
        }
    }

    /// The kind as which a request is of concern: its own, or another version of it.
    pub(super) fn matches(
        &self,
        q: &Question<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Option<Arc<Kind>> {
        if !selects_namespace(&self.namespaces, q, new.or(old)) || !self.selects_object(new, old) {
            return None;
        }
        let own = q.call.kind;
        let name = q.name(new.or(old));
        if self.exclude.iter().any(|r| is_about(r, q, own, name)) {
            return None;
        }
        if self.open || self.include.iter().any(|r| is_about(r, q, own, name)) {
            return Some(Arc::clone(own));
        }
        if !self.equivalent {
            return None;
        }
        let others = q.api.kinds.all();
        let mut same = others.iter().filter(|k| {
            k.group() == own.group()
                && k.resource.plural == own.resource.plural
                && k.api_version != own.api_version
        });
        same.find(|k| self.include.iter().any(|r| is_about(r, q, k, name))).cloned()
    }

    fn selects_object(&self, new: Option<&Value>, old: Option<&Value>) -> bool {
        if is_empty(&self.objects) {
            return true;
        }
        let Some(labels) = Labels::from_object(&self.objects) else { return false };
        [new, old].into_iter().flatten().any(|o| labels.matches(labels_of(o)))
    }
}

fn is_empty(selector: &Value) -> bool {
    selector.as_object().is_none_or(Map::is_empty)
}

fn labels_of(o: &Value) -> Option<&Map<String, Value>> {
    o.pointer("/metadata/labels").and_then(Value::as_object)
}

/// Objects without a namespace are always selected; a namespace is selected by its own labels.
fn selects_namespace(selector: &Value, q: &Question<'_>, object: Option<&Value>) -> bool {
    if is_empty(selector) {
        return true;
    }
    let Some(labels) = Labels::from_object(selector) else { return false };
    if (q.call.kind.group(), q.call.kind.resource.plural) == ("", "namespaces") {
        return labels.matches(object.and_then(labels_of));
    }
    match &q.namespace {
        Some(ns) => labels.matches(labels_of(ns)),
        None => true,
    }
}

fn has(rule: &Value, key: &str, wanted: &str) -> bool {
    list(rule, key).iter().any(|v| v == "*" || v == wanted)
}

fn is_about(rule: &Value, q: &Question<'_>, kind: &Kind, name: &str) -> bool {
    let scope = match text(rule, "scope") {
        "Cluster" => q.call.namespace.is_none() || kind.resource.plural == "namespaces",
        "Namespaced" => kind.resource.namespaced,
        _ => true,
    };
    let names = list(rule, "resourceNames");
    scope
        && has(rule, "operations", q.operation)
        && has(rule, "apiGroups", kind.group())
        && has(rule, "apiVersions", &kind.resource.gv.version)
        && list(rule, "resources")
            .iter()
            .filter_map(Value::as_str)
            .any(|r| names_resource(r, kind.resource.plural, q.call.subresource))
        && (names.is_empty() || names.iter().any(|n| n == name))
}

/// `pods`, `pods/status`, `pods/*`, `*`, `*/scale`, `*/*`.
fn names_resource(rule: &str, plural: &str, subresource: Option<&str>) -> bool {
    let (resource, sub) = rule.split_once('/').map_or((rule, None), |(r, s)| (r, Some(s)));
    (resource == "*" || resource == plural)
        && match (sub, subresource) {
            (None, None) | (Some("*"), _) => true,
            (Some(wanted), Some(sub)) => wanted == sub,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_with_stars() {
        for (rule, plural, sub, expected) in [
            ("pods", "pods", None, true),
            ("pods", "pods", Some("status"), false),
            ("pods/*", "pods", Some("status"), true),
            ("*", "pods", None, true),
            ("*", "pods", Some("status"), false),
            ("*/*", "pods", None, true),
            ("*/scale", "deployments", Some("scale"), true),
            ("*/scale", "deployments", None, false),
        ] {
            assert_eq!(names_resource(rule, plural, sub), expected, "{rule} {plural} {sub:?}");
        }
    }
}
