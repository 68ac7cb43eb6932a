//! Names of custom resources within a group: who has them, and the conditions that say so.

use crate::reach::Trust;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use wharf_kube::custom;
use wharf_kube::status::Problem;

/// Names that others have in a group.
#[derive(Debug, Default)]
pub(super) struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(v: &'a Value, key: &str) -> Vec<&'a str> {
    let list = v.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What the accepted names of others take in a group.
pub(super) fn taken<'a>(others: impl Iterator<Item = (&'a str, &'a Value)>, group: &str) -> Taken {
    let mut out = Taken::default();
    for (_, names) in others.filter(|(g, _)| *g == group) {
        let mut resources = vec![text(names, "plural"), text(names, "singular")];
        resources.extend(texts(names, "shortNames"));
        out.resources.extend(resources.into_iter().filter(|n| !n.is_empty()).map(str::to_owned));
        let kinds = [text(names, "kind"), text(names, "listKind")];
        out.kinds.extend(kinds.into_iter().filter(|n| !n.is_empty()).map(str::to_owned));
    }
    out
}

/// The status that a definition should have.
pub(super) fn judge(crd: &Value, taken: &Taken, now: &str) -> Value {
    let wanted = &crd["spec"]["names"];
    let mut accepted = crd["status"]["acceptedNames"].clone();
    let mut conflict: Option<(&str, String)> = None;
    for (key, reason, used) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        let name = text(wanted, key);
        if name != text(&accepted, key) && used.contains(name) {
            conflict = Some((reason, format!("{name:?} is already in use")));
        } else {
            accepted[key] = wanted[key].clone();
        }
    }
    let own = texts(&accepted, "shortNames").iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let clash: Vec<String> = texts(wanted, "shortNames")
        .into_iter()
        .filter(|s| !own.iter().any(|o| o == s) && taken.resources.contains(*s))
        .map(|s| format!("{s:?} is already in use"))
        .collect();
    if clash.is_empty() {
        set(&mut accepted, "shortNames", wanted.get("shortNames"));
    } else {
        let all = if clash.len() == 1 { clash.concat() } else { format!("[{}]", clash.join(", ")) };
        conflict = Some(("ShortNamesConflict", all));
    }
    set(&mut accepted, "categories", wanted.get("categories"));
    let mut status = crd["status"].clone();
    status["acceptedNames"] = accepted;
    let (good, reason, message) = match conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", reason, message),
    };
    condition(&mut status, ("NamesAccepted", good, reason, &message), now);
    if !is_established(&status) {
        let bundle = crd.pointer("/spec/conversion/webhook/clientConfig/caBundle");
        let flawed = bundle.is_some_and(|b| Trust::flaw(b).is_some());
        let (good, reason, message) = if good == "True" && flawed {
            ("False", "InvalidCABundle", "The conversion webhook CABundle is invalid")
        } else if good == "True" {
            ("True", "InitialNamesAccepted", "the initial names have been accepted")
        } else {
            ("False", "NotAccepted", "not all names are accepted")
        };
        condition(&mut status, ("Established", good, reason, message), now);
    }
    if let Some((good, reason, message)) = custom::approved(crd) {
        let good = if good { "True" } else { "False" };
        let ty = "KubernetesAPIApprovalPolicyConformant";
        condition(&mut status, (ty, good, reason, &message), now);
    }
    let versions = crd["spec"]["versions"].as_array();
    let storage = versions.into_iter().flatten().find(|v| v["storage"] == json!(true));
    if let Some(name) = storage.map(|v| v["name"].clone())
        && !status["storedVersions"].as_array().is_some_and(|l| l.contains(&name))
    {
        match status["storedVersions"].as_array_mut() {
            Some(list) => list.push(name),
            None => status["storedVersions"] = json!([name]),
        }
    }
    let ty = crate::kinds::known("apiextensions.CustomResourceDefinitionStatus");
    crate::write::ordered(ty, status)
}

fn set(v: &mut Value, key: &str, to: Option<&Value>) {
    if let Some(m) = v.as_object_mut() {
        match to {
            Some(to) => _ = m.insert(key.to_owned(), to.clone()),
            None => _ = m.shift_remove(key),
        }
    }
}

/// A definition that converts may not get a bad `caBundle` in the place of a good one, once it is established.
pub(crate) fn judge_bundle(new: &Value, old: &Value) -> Option<Problem> {
    let place = "/spec/conversion/webhook/clientConfig/caBundle";
    let bundle = new.pointer(place)?;
    let was = old.pointer(place).and_then(Trust::flaw);
    if was.is_some() || !is_established(&old["status"]) {
        return None;
    }
    let field = "spec.conversion.webhookClientConfig.caBundle";
    Some(Problem::invalid(field, bundle, Trust::flaw(bundle)?))
}

/// Whether a definition is served, or was and so stays.
pub(super) fn is_established(status: &Value) -> bool {
    let all = status["conditions"].as_array();
    all.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// Sets a condition: type, status, reason, message. Its time is that of the last change of status.
pub(super) fn condition(status: &mut Value, c: (&str, &str, &str, &str), now: &str) {
    let (ty, good, reason, message) = c;
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(all) = status["conditions"].as_array_mut() else { return };
    let found = all.iter_mut().find(|c| c["type"] == ty);
    match found {
        Some(old)
            if old["status"] == good && old["reason"] == reason && old["message"] == message => {}
        Some(old) => {
            if old["status"] != good {
                old["lastTransitionTime"] = json!(now);
            }
            old["status"] = json!(good);
            old["reason"] = json!(reason);
            old["message"] = json!(message);
        }
        None => {
            all.push(json!({"type": ty, "status": good, "lastTransitionTime": now,
                "reason": reason, "message": message}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(kind: &str, short: &str) -> Value {
        json!({"metadata": {"generation": 1}, "spec": {"names": {"plural": "as", "singular": "a", "kind": kind, "listKind": format!("{kind}List"),
            "shortNames": [short]}, "versions": [{"name": "v1", "storage": true}]}, "status": {}})
    }

    #[test]
    fn free_names_are_accepted() {
        let s = judge(&crd("A", "x"), &Taken::default(), "2024-01-01T00:00:00Z");
        assert!(is_established(&s));
        assert_eq!(s["acceptedNames"]["shortNames"], json!(["x"]));
        assert_eq!(s["storedVersions"], json!(["v1"]));
        let again =
            json!({"metadata": {"generation": 1}, "spec": crd("A", "x")["spec"], "status": s});
        assert_eq!(judge(&again, &Taken::default(), "2025-01-01T00:00:00Z"), s);
    }

    #[test]
    fn names_that_others_have_are_not() {
        let other = json!({"plural": "bs", "singular": "b", "kind": "A", "listKind": "AList", "shortNames": ["x"]});
        let t = taken([("g", &other)].into_iter(), "g");
        let s = judge(&crd("A", "y"), &t, "2024-01-01T00:00:00Z");
        assert!(!is_established(&s));
        assert_eq!(s["conditions"][0]["reason"], "ListKindConflict");
        let s = judge(&crd("C", "x"), &t, "2024-01-01T00:00:00Z");
        assert_eq!(s["conditions"][0]["message"], "\"x\" is already in use");
        let elsewhere = taken([("h", &other)].into_iter(), "g");
        assert!(is_established(&judge(&crd("A", "x"), &elsewhere, "2024-01-01T00:00:00Z")));
    }
}
