//! The roles and bindings of a new cluster, from the table `roles.txt`.

use serde_json::{Value, json};

const TABLE: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// A ClusterRole of the table.
struct Role<'a> {
    name: String,
    namespace: &'a str,
    /// The label by which others take its rules in.
    gives: Option<&'a str>,
    /// The label of those whose rules it takes in.
    takes: Option<&'a str>,
    rules: Vec<Value>,
}

/// Every object of the table. Roles that take others in have their rules already.
///
/// The table is part of the program: a mistake in it is a panic that the unit tests see.
pub(super) fn all() -> Vec<Value> {
    let (mut roles, mut bindings) = (Vec::<Role<'_>>::new(), Vec::new());
    for line in TABLE.lines().filter(|l| !l.starts_with(';')) {
        if let Some(rule) = line.strip_prefix(' ') {
            if let Some(role) = roles.last_mut() {
                role.rules.push(read_rule(rule));
            }
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["role", name, ref flags @ ..] => {
                let flag = |sign| flags.iter().find_map(|f| f.strip_prefix(sign));
                roles.push(role(name.to_owned(), "", flag('+'), flag('=')));
            }
            ["controller", name] => {
                let role_name = format!("system:controller:{name}");
                let account = [format!("ServiceAccount:kube-system:{name}")];
                bindings.push(binding("", &role_name, &role_name, &account));
                roles.push(role(role_name, "", None, None));
            }
            ["namespaced", ns, name] => roles.push(role(name.to_owned(), ns, None, None)),
            ["bind", name, ref subjects @ ..] => bindings.push(binding("", name, name, subjects)),
            ["bind-in", ns, name, role, ref subjects @ ..] => {
                bindings.push(binding(ns, name, role, subjects));
            }
            _ => unreachable!("roles.txt: {line}"),
        }
    }
    let mut out: Vec<Value> = roles.iter().map(|r| r.object(&roles)).collect();
    out.extend(bindings);
    out
}

fn role<'a>(
    name: String,
    namespace: &'a str,
    gives: Option<&'a str>,
    takes: Option<&'a str>,
) -> Role<'a> {
    Role { name, namespace, gives, takes, rules: Vec::new() }
}

impl Role<'_> {
    fn object(&self, all: &[Role<'_>]) -> Value {
        let kind = if self.namespace.is_empty() { "ClusterRole" } else { "Role" };
        let mut out = head(kind, self.namespace, &self.name);
        if let Some(label) = self.gives {
            out["metadata"]["labels"][format!("{GROUP}/{label}")] = json!("true");
        }
        if let Some(label) = self.takes {
            let label = format!("{GROUP}/{label}");
            out["aggregationRule"] =
                json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        }
        out["rules"] = Value::Array(self.all_rules(all));
        out
    }

    /// Its own rules, and those of the roles that it takes in.
    fn all_rules(&self, all: &[Role<'_>]) -> Vec<Value> {
        let mut rules = self.rules.clone();
        let taken = all.iter().filter(|r| self.takes.is_some() && r.gives == self.takes);
        for rule in taken.flat_map(|r| r.all_rules(all)) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }
}

fn read_rule(text: &str) -> Value {
    let mut words = text.split(' ');
    let mut list =
        || -> Vec<&str> { words.next().map(|w| w.split(',').collect()).unwrap_or_default() };
    let (verbs, groups, targets, names) = (list(), list(), list(), list());
    let verbs: Vec<&str> = verbs
        .into_iter()
        .flat_map(|v| match v {
            "read" => vec!["get", "list", "watch"],
            "write" => vec!["create", "delete", "deletecollection", "patch", "update"],
            "all" => vec![
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ],
            other => vec![other],
        })
        .collect();
    if groups == ["-"] {
        return json!({"nonResourceURLs": targets, "verbs": verbs});
    }
    let groups: Vec<&str> = groups.into_iter().map(|g| if g == "core" { "" } else { g }).collect();
    let mut rule = json!({"apiGroups": groups, "resources": targets, "verbs": verbs});
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

fn binding(namespace: &str, name: &str, role: &str, subjects: &[impl AsRef<str>]) -> Value {
    let (kind, role_kind) = match namespace {
        "" => ("ClusterRoleBinding", "ClusterRole"),
        _ => ("RoleBinding", "Role"),
    };
    let subject = |s: &str| {
        let (kind, name) = s.split_once(':').unwrap_or(("User", s));
        match (kind, name.split_once(':')) {
            ("ServiceAccount", Some((ns, name))) => {
                json!({"kind": kind, "namespace": ns, "name": name})
            }
            _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
        }
    };
    let mut out = head(kind, namespace, name);
    out["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        out["subjects"] = subjects.iter().map(|s| subject(s.as_ref())).collect();
    }
    out
}

fn head(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = json!({"name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_the_reference_server_has() {
        let all = all();
        let count = |kind: &str| all.iter().filter(|o| o["kind"] == kind).count();
        assert_eq!((count("ClusterRole"), count("ClusterRoleBinding")), (71, 52));
        assert_eq!((count("Role"), count("RoleBinding")), (7, 7));
        let find = |name: &str| all.iter().find(|o| o["metadata"]["name"] == name).unwrap();
        let rules = |name: &str| find(name)["rules"].as_array().unwrap().len();
        assert_eq!(rules("edit"), rules("view") + rules("system:aggregate-to-edit"));
        assert_eq!(rules("admin"), rules("edit") + rules("system:aggregate-to-admin"));
        assert_eq!(find("system:node")["kind"], "ClusterRole");
        let binding =
            all.iter().rfind(|o| o["metadata"]["name"] == "system:controller:job-controller");
        assert_eq!(
            binding.unwrap()["subjects"],
            json!([{"kind": "ServiceAccount", "namespace": "kube-system", "name": "job-controller"}])
        );
    }
}
