//! Which flow a request belongs to, and what its priority level may have.

use crate::api::{Api, fault, meta};
use crate::authz::Attributes;
use crate::stored;
use crate::user::User;
use serde_json::Value;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::status::Fault;

const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";

/// Levels and schemas as of a moment.
#[derive(Debug, Default)]
pub(super) struct Plan {
    schemas: Vec<Schema>,
    levels: Vec<Limits>,
}

/// A flow schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) uid: String,
    spec: Value,
}

/// What a priority level may have.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) exempt: bool,
    /// Seats of its own.
    pub(super) seats: usize,
    /// How many of them others may have while it does not use them.
    pub(super) lends: usize,
    /// Seats with what it borrows.
    pub(super) most: usize,
    /// Requests that may wait; nothing where none may.
    pub(super) queue: Option<Room>,
}

/// How many requests may wait: of one flow, and in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) of_flow: usize,
    pub(super) of_all: usize,
}

/// What a request was found to be.
pub(super) struct Found<'p> {
    pub(super) schema: &'p Schema,
    pub(super) level: &'p Limits,
    /// What tells the flows of a schema apart.
    pub(super) flow: String,
}

impl Plan {
    pub(super) async fn read(api: &Api, seats: usize) -> Result<Plan, Fault> {
        let range = Range::new(KeyRange::prefix(PREFIX));
        let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
        let all: Vec<Value> = reply.kvs.iter().map(stored::decode).collect();
        let (schemas, levels): (Vec<Value>, Vec<Value>) =
            all.into_iter().partition(|o| o["kind"] == "FlowSchema");
        Ok(Plan::of(&levels, &schemas, seats))
    }

    pub(super) fn of(levels: &[Value], schemas: &[Value], seats: usize) -> Plan {
        let shares: usize = levels.iter().map(|l| limited(l, "nominalConcurrencyShares", 30)).sum();
        let levels = levels.iter().map(|l| limits(l, seats, shares.max(1))).collect();
        let mut sorted: Vec<&Value> = schemas.iter().collect();
        sorted.sort_by_key(|s| {
            (s["spec"]["matchingPrecedence"].as_i64().unwrap_or(1000), meta(s, "name").to_owned())
        });
        let schema = |s: &Value| Schema { uid: meta(s, "uid").to_owned(), spec: s["spec"].clone() };
        Plan { schemas: sorted.into_iter().map(schema).collect(), levels }
    }

    pub(super) fn level(&self, name: &str) -> Option<&Limits> {
        self.levels.iter().find(|l| l.name == name)
    }

    pub(super) fn levels(&self) -> impl Iterator<Item = &Limits> {
        self.levels.iter()
    }

    /// The first schema that a request fits, and whose level there is.
    pub(super) fn sort(&self, user: &User, a: &Attributes<'_>) -> Option<Found<'_>> {
        self.schemas.iter().find_map(|schema| {
            let rules = schema.spec["rules"].as_array()?;
            rules.iter().find(|r| fits(r, user, a))?;
            let level = self.level(schema.spec["priorityLevelConfiguration"]["name"].as_str()?)?;
            let flow = match schema.spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => user.name.clone(),
                Some("ByNamespace") => a.namespace.to_owned(),
                _ => String::new(),
            };
            Some(Found { schema, level, flow: format!("{}/{flow}", schema.uid) })
        })
    }
}

fn limited(level: &Value, field: &str, usual: usize) -> usize {
    if level["spec"]["type"] == "Exempt" {
        return 0;
    }
    let n = level["spec"]["limited"][field].as_u64();
    n.and_then(|n| usize::try_from(n).ok()).unwrap_or(usual)
}

fn limits(level: &Value, seats: usize, shares: usize) -> Limits {
    let own = (limited(level, "nominalConcurrencyShares", 30) * seats).div_ceil(shares);
    let percent = |field: &str| level["spec"]["limited"][field].as_u64();
    let part = |p: u64| own.saturating_mul(usize::try_from(p).unwrap_or(usize::MAX)) / 100;
    let response = &level["spec"]["limited"]["limitResponse"];
    let queuing = |field: &str, usual: usize| {
        let n = response["queuing"][field].as_u64().and_then(|n| usize::try_from(n).ok());
        n.unwrap_or(usual)
    };
    let queue = (response["type"] == "Queue").then(|| {
        let length = queuing("queueLengthLimit", 50);
        let (hand, queues) = (queuing("handSize", 8), queuing("queues", 64));
        Room { of_flow: length.saturating_mul(hand), of_all: length.saturating_mul(queues) }
    });
    Limits {
        name: meta(level, "name").to_owned(),
        uid: meta(level, "uid").to_owned(),
        exempt: level["spec"]["type"] == "Exempt",
        seats: own,
        lends: part(percent("lendablePercent").unwrap_or(0)),
        most: percent("borrowingLimitPercent").map_or(usize::MAX, |p| own.saturating_add(part(p))),
        queue,
    }
}

fn fits(rule: &Value, user: &User, a: &Attributes<'_>) -> bool {
    let any = |field: &str, f: &dyn Fn(&Value) -> bool| {
        rule[field].as_array().is_some_and(|l| l.iter().any(f))
    };
    let is_subject = any("subjects", &|s| is_subject(s, user));
    let concerns = if a.resource.is_empty() {
        any("nonResourceRules", &|r| has(r, "verbs", a.verb) && is_path(r, a.path))
    } else {
        any("resourceRules", &|r| is_resource(r, a))
    };
    is_subject && concerns
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    rule[field].as_array().is_some_and(|l| l.iter().any(|v| v == "*" || v == wanted))
}

fn is_subject(s: &Value, user: &User) -> bool {
    let is = |v: &Value, name: &str| v == "*" || v == name;
    match s["kind"].as_str() {
        Some("User") => is(&s["user"]["name"], &user.name),
        Some("Group") => {
            s["group"]["name"] == "*" || s["group"]["name"].as_str().is_some_and(|g| user.is_in(g))
        }
        Some("ServiceAccount") => {
            let account = user.name.strip_prefix("system:serviceaccount:");
            account.and_then(|a| a.split_once(':')).is_some_and(|(ns, name)| {
                let of = &s["serviceAccount"];
                of["namespace"] == ns && is(&of["name"], name)
            })
        }
        _ => false,
    }
}

fn is_path(rule: &Value, path: &str) -> bool {
    let fits = |v: &Value| {
        let Some(v) = v.as_str() else { return false };
        v == path || v.strip_suffix('*').is_some_and(|stem| path.starts_with(stem))
    };
    rule["nonResourceURLs"].as_array().is_some_and(|l| l.iter().any(fits))
}

fn is_resource(rule: &Value, a: &Attributes<'_>) -> bool {
    let resource = match a.subresource {
        "" => a.resource.to_owned(),
        sub => format!("{}/{sub}", a.resource),
    };
    let placed = if a.namespace.is_empty() {
        rule["clusterScope"] == true
    } else {
        has(rule, "namespaces", a.namespace)
    };
    has(rule, "verbs", a.verb)
        && has(rule, "apiGroups", a.group)
        && has(rule, "resources", &resource)
        && placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan() -> Plan {
        let schema = |name: &str, precedence: i64, level: &str, subject: Value, rule: Value| {
            json!({"metadata": {"name": name, "uid": name}, "spec": {"matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"},
                "rules": [{"subjects": [subject], "resourceRules": [rule]}]}})
        };
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
        let leases = json!({"verbs": ["get"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["kube-system"]});
        let group = |g: &str| json!({"kind": "Group", "group": {"name": g}});
        let account = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}});
        let schemas = [
            schema("rest", 9900, "low", group("system:authenticated"), all.clone()),
            schema("admins", 1, "high", group("system:masters"), all.clone()),
            schema("leaders", 100, "high", account, leases),
            schema("lost", 2, "nowhere", group("*"), all),
        ];
        let level = |name: &str, shares: i64| {
            json!({"metadata": {"name": name, "uid": name}, "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": 50, "borrowingLimitPercent": 25, "limitResponse": {"type": "Queue"}}}})
        };
        Plan::of(&[level("low", 1), level("high", 3)], &schemas, 10)
    }

    #[track_caller]
    fn check(user: &User, resource: &str, group: &str, ns: &str, expected: &str) {
        let plan = plan();
        let a = Attributes { verb: "get", resource, group, namespace: ns, ..Attributes::default() };
        let found = plan.sort(user, &a).map(|f| f.flow);
        assert_eq!(found.unwrap_or_default(), expected);
    }

    #[test]
    fn the_first_schema_that_fits_counts() {
        let bob = User::new("bob", vec!["system:authenticated".to_owned()]);
        check(&bob, "pods", "", "n", "rest/bob");
        check(&bob, "nodes", "", "", "rest/bob");
        let root =
            User::new("root", vec!["system:masters".to_owned(), "system:authenticated".to_owned()]);
        check(&root, "pods", "", "n", "admins/root");
        let name = "system:serviceaccount:kube-system:x";
        let account = User::new(name, vec!["system:authenticated".to_owned()]);
        check(&account, "leases", "coordination.k8s.io", "kube-system", &format!("leaders/{name}"));
        check(&account, "leases", "coordination.k8s.io", "n", &format!("rest/{name}"));
    }

    #[test]
    fn seats_are_shared_out() {
        let plan = plan();
        let of = |n: &str| plan.level(n).map(|l| (l.seats, l.lends, l.most)).unwrap();
        assert_eq!((of("low"), of("high")), ((3, 1, 3), (8, 4, 10)));
        assert_eq!(plan.level("low").unwrap().queue.unwrap().of_flow, 400);
    }
}
