//! Limit ranges: what containers get that say nothing, and what no object of a namespace may ask for.

use crate::api::{Api, Call, meta};
use serde_json::{Value, json};
use wharf_etcd::{KeyRange, Range};
use wharf_kube::quantity::Quantity;
use wharf_kube::quota::{Amounts, amounts, pod_total};
use wharf_kube::status::Fault;

/// The limits of a namespace's ranges.
async fn items(api: &Api, namespace: &str) -> Result<Vec<Value>, Fault> {
    let prefix = format!("/registry/limitranges/{namespace}/");
    let reply = api.store.range(Range::new(KeyRange::prefix(prefix))).await;
    let reply = reply.map_err(|e| crate::api::fault(&e))?;
    let ranges = reply.kvs.iter().map(|kv| api.objects.tree(kv));
    let limits = ranges.flat_map(|r| r["spec"]["limits"].as_array().cloned().unwrap_or_default());
    Ok(limits.collect())
}

/// Gives the containers of a new pod what they leave out.
pub(super) async fn mutate(api: &Api, call: &Call<'_>, pod: &mut Value) -> Result<(), Fault> {
    let items = items(api, call.namespace.unwrap_or_default()).await?;
    let (mut requests, mut limits) = (json!({}), json!({}));
    for item in items.iter().filter(|i| i["type"] == "Container") {
        merge(&mut requests, &item["defaultRequest"]);
        merge(&mut limits, &item["default"]);
    }
    let mut told = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for c in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = c["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults, what) in
                [("requests", &requests, "request"), ("limits", &limits, "limit")]
            {
                let given = fill(c, field, defaults);
                if !given.is_empty() {
                    told.push(format!("{} {what} for {word} {name}", given.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = json!(text);
    }
    Ok(())
}

fn merge(to: &mut Value, from: &Value) {
    for (k, v) in from.as_object().into_iter().flatten() {
        if to.get(k).is_none() {
            to[k] = v.clone();
        }
    }
}

/// Sets what a container does not say itself; gives the names of that, in order.
fn fill(container: &mut Value, field: &str, defaults: &Value) -> Vec<String> {
    let mut given = Vec::new();
    for (k, v) in defaults.as_object().into_iter().flatten() {
        if container["resources"][field].get(k).is_none() {
            container["resources"][field][k] = v.clone();
            given.push(k.clone());
        }
    }
    given.sort();
    given
}

/// Refuses what breaks a limit.
pub(super) async fn validate(api: &Api, call: &Call<'_>, object: &Value) -> Result<(), Fault> {
    let items = items(api, call.namespace.unwrap_or_default()).await?;
    if items.is_empty() {
        return Ok(());
    }
    let mut broken = Vec::new();
    for item in &items {
        match (call.kind.resource.plural, item["type"].as_str().unwrap_or_default()) {
            ("pods", "Container") => {
                let lists = ["initContainers", "containers"];
                for c in lists.iter().filter_map(|l| object["spec"][*l].as_array()).flatten() {
                    let of = |what: &str| amounts(&c["resources"][what]);
                    judge(item, "Container", &of("requests"), Some(&of("limits")), &mut broken);
                }
            }
            ("pods", "Pod") => {
                let (requests, limits) =
                    (pod_total(object, "requests"), pod_total(object, "limits"));
                judge(item, "Pod", &requests, Some(&limits), &mut broken);
            }
            ("persistentvolumeclaims", "PersistentVolumeClaim") => {
                let requests = amounts(&object["spec"]["resources"]["requests"]);
                judge(item, "PersistentVolumeClaim", &requests, None, &mut broken);
            }
            _ => {}
        }
    }
    match &broken[..] {
        [] => Ok(()),
        [one] => Err(Fault::forbidden(call.about(), meta(object, "name"), one)),
        many => {
            let why = format!("[{}]", many.join(", "));
            Err(Fault::forbidden(call.about(), meta(object, "name"), &why))
        }
    }
}

/// Compares requests, and limits where the kind has any, with one item's bounds.
fn judge(
    item: &Value,
    kind: &str,
    requests: &Amounts,
    limits: Option<&Amounts>,
    out: &mut Vec<String>,
) {
    for (name, min) in amounts(&item["min"]) {
        let text = format!("minimum {name} usage per {kind} is {min}");
        match requests.get(&name) {
            None => out.push(format!("{text}.  No request is specified")),
            Some(q) if *q < min => out.push(format!("{text}, but request is {q}")),
            Some(_) => {}
        }
        if let Some(q) = limits.and_then(|l| l.get(&name)).filter(|q| **q < min) {
            out.push(format!("{text}, but limit is {q}"));
        }
    }
    for (name, max) in amounts(&item["max"]) {
        let text = format!("maximum {name} usage per {kind} is {max}");
        let over = |amounts: &Amounts| amounts.get(&name).filter(|q| **q > max).copied();
        match limits {
            Some(l) if !l.contains_key(&name) => {
                out.push(format!("{text}.  No limit is specified"))
            }
            None if !requests.contains_key(&name) => {
                out.push(format!("{text}.  No request is specified"));
            }
            _ => {}
        }
        if let Some(q) = limits.and_then(over) {
            out.push(format!("{text}, but limit is {q}"));
        }
        if let Some(q) = over(requests) {
            out.push(format!("{text}, but request is {q}"));
        }
    }
    for (name, most) in amounts(&item["maxLimitRequestRatio"]) {
        out.extend(ratio(kind, &name, most, requests, limits));
    }
}

fn ratio(
    kind: &str,
    name: &str,
    most: Quantity,
    requests: &Amounts,
    limits: Option<&Amounts>,
) -> Option<String> {
    let text = format!("{name} max limit to request ratio per {kind} is {most}");
    let set = |q: Option<&Quantity>| q.map(Quantity::millis).filter(|n| *n != 0);
    let Some(request) = set(requests.get(name)) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let Some(limit) = set(limits.and_then(|l| l.get(name))) else {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    };
    #[allow(
        clippy::cast_precision_loss,
        reason = "a ratio for people, and for a bound of few digits"
    )]
    let (provided, bound) = (limit as f64 / request as f64, most.millis() as f64 / 1000.0);
    (provided > bound).then(|| format!("{text}, but provided ratio is {provided:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged_in_the_servers_words() {
        let item = json!({"min": {"cpu": "100m"}, "max": {"cpu": "1", "memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let of = |v: Value| amounts(&v);
        let mut out = Vec::new();
        judge(
            &item,
            "Container",
            &of(json!({"cpu": "50m"})),
            Some(&of(json!({"cpu": "2"}))),
            &mut out,
        );
        assert_eq!(
            out,
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 40.000000",
            ]
        );
    }
}
