//! Authorization: role-based access control over the roles and bindings in the store, and what nodes may.

mod node;

pub use node::node_of;

use crate::api::{Api, fault};
use crate::request::Target;
use crate::stored;
use crate::tail::{News, Tail};
use crate::user::{MASTERS, User};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex as AsyncMutex;
use wharf_base::sync::Mutex;
use wharf_etcd::{EventKind, Kv, Revision};
use wharf_kube::status::{About, Fault};

/// What a request wants to do.
#[derive(Debug, Clone, Default)]
pub struct Attributes<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The group.
    pub group: &'a str,
    /// The resource; empty for a path.
    pub resource: &'a str,
    /// The subresource.
    pub subresource: &'a str,
    /// The namespace; empty for all.
    pub namespace: &'a str,
    /// The object; empty for the collection.
    pub name: &'a str,
    /// The path, where there is no resource.
    pub path: &'a str,
    /// The field selector of a list or watch.
    pub selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// Of a request on objects.
    pub fn of(t: &'a Target, verb: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            group: &t.gv.group,
            resource: &t.resource,
            subresource: t.subresource.as_deref().unwrap_or_default(),
            namespace: t.namespace.as_deref().unwrap_or_default(),
            name: t.name.as_deref().unwrap_or_default(),
            path: "",
            selector: "",
        }
    }

    /// The refusal that the reference server words so.
    pub fn refusal(&self, user: &User, why: &str) -> Fault {
        let reason = if why.is_empty() { String::new() } else { format!(": {why}") };
        if self.resource.is_empty() {
            let about = About { group: "", resource: "" };
            let mut f = Fault::forbidden(about, "", "");
            f.message = format!(
                "forbidden: User {:?} cannot {} path {:?}{reason}",
                user.name, self.verb, self.path
            );
            f.details = Some(wharf_kube::status::Details::default());
            return f;
        }
        let sub = if self.subresource.is_empty() {
            String::new()
        } else {
            format!("/{}", self.subresource)
        };
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        let text = format!(
            "User {:?} cannot {} resource \"{}{sub}\" in API group {:?} {place}{reason}",
            user.name, self.verb, self.resource, self.group
        );
        Fault::forbidden(About { group: self.group, resource: self.resource }, self.name, &text)
    }
}

/// Whether something may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and by which rule.
    Allow(String),
    /// No, and why where there is more to say than that nothing allows it.
    Deny(String),
}

/// Decides by the roles in the store, of which it keeps a picture, and by what the pods of nodes name.
pub struct Authorizer {
    /// The roles, and up to which revision they are known to be these.
    kept: Mutex<(Revision, Arc<Picture>)>,
    stored: AsyncMutex<Stored>,
    nodes: node::Nodes,
}

/// The roles and bindings of the store.
struct Stored {
    tail: Tail,
    objects: BTreeMap<Vec<u8>, Kv>,
}

/// Roles and bindings as of a revision.
#[derive(Debug, Default)]
struct Picture {
    cluster_roles: BTreeMap<String, Vec<Rule>>,
    roles: BTreeMap<(String, String), Vec<Rule>>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Clone, Default)]
struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
}

#[derive(Debug)]
struct Binding {
    /// Empty for cluster-wide ones.
    namespace: String,
    name: String,
    role: (String, String),
    subjects: Vec<(String, String, String)>,
}

const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

impl Default for Authorizer {
    fn default() -> Authorizer {
        let stored = Stored { tail: Tail::new(PREFIX), objects: BTreeMap::new() };
        let (kept, nodes) = (Mutex::default(), node::Nodes::default());
        Authorizer { kept, stored: AsyncMutex::new(stored), nodes }
    }
}

impl Authorizer {
    /// Decides. When roles cannot be read, only those decide who need none.
    pub async fn decide(&self, api: &Api, user: &User, a: &Attributes<'_>) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        match self.decide_by_roles(api, user, a).await {
            Ok(decision) => decision,
            Err(f) => Decision::Deny(f.message),
        }
    }

    async fn decide_by_roles(
        &self,
        api: &Api,
        user: &User,
        a: &Attributes<'_>,
    ) -> Result<Decision, Fault> {
        let picture = self.picture(api).await?;
        let mut why = String::new();
        if let Some(name) = node_of(user) {
            match self.nodes.decide(api, name, a).await? {
                node::Rule::Decided(Decision::Deny(reason)) => why = reason,
                node::Rule::Decided(allow) => return Ok(allow),
                node::Rule::Role => {
                    let role = ("ClusterRole".to_owned(), "system:node".to_owned());
                    if picture.role(&role, "").iter().any(|r| r.allows(a)) {
                        return Ok(Decision::Allow(String::new()));
                    }
                }
            }
        }
        // Roles that are bound to a node may still give what it asks for.
        Ok(match picture.decide(user, a) {
            Decision::Deny(_) => Decision::Deny(why),
            allow => allow,
        })
    }

    /// Every rule that a user has in a namespace, as `SelfSubjectRulesReview` lists them.
    pub async fn rules(
        &self,
        api: &Api,
        user: &User,
        namespace: &str,
    ) -> Result<Vec<Value>, Fault> {
        if user.is_in(MASTERS) {
            let all = serde_json::json!(["*"]);
            return Ok(vec![
                serde_json::json!({"verbs": all, "apiGroups": all, "resources": all}),
                serde_json::json!({"verbs": all, "nonResourceURLs": all}),
            ]);
        }
        let picture = self.picture(api).await?;
        Ok(picture.rules_of(user, namespace).map(|(_, r)| r.to_value()).collect())
    }

    /// Whether a user has every right that rules give, so that nobody grants more than they have.
    pub async fn covers(
        &self,
        api: &Api,
        user: &User,
        namespace: &str,
        rules: &Value,
    ) -> Result<bool, Fault> {
        if user.is_in(MASTERS) {
            return Ok(true);
        }
        let picture = self.picture(api).await?;
        let wanted: Vec<Rule> = read_rules(rules);
        Ok(wanted.iter().all(|w| {
            w.split()
                .iter()
                .all(|one| picture.rules_of(user, namespace).any(|(_, r)| r.includes(one)))
        }))
    }

    /// The rules of a role.
    pub async fn role_rules(
        &self,
        api: &Api,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<Value>, Fault> {
        let picture = self.picture(api).await?;
        let key = (kind.to_owned(), name.to_owned());
        Ok(picture.role(&key, namespace).iter().map(Rule::to_value).collect())
    }

    /// What decides as the roles are now.
    pub async fn judge(&self, api: &Api) -> Result<Judge, Fault> {
        self.picture(api).await.map(Judge)
    }

    /// The roles as they are now; they are read again where any of them changed.
    async fn picture(&self, api: &Api) -> Result<Arc<Picture>, Fault> {
        let now = api.store.revision().await.map_err(|e| fault(&e))?;
        let kept = || Some(self.kept.lock().clone()).filter(|(seen, _)| *seen >= now);
        if let Some((_, picture)) = kept() {
            return Ok(picture);
        }
        let mut stored = self.stored.lock().await;
        // Somebody else may have looked meanwhile.
        if let Some((_, picture)) = kept() {
            return Ok(picture);
        }
        let news = stored.tail.news(&*api.store, now).await.map_err(|e| fault(&e))?;
        let changed = stored.take(news);
        let mut kept = self.kept.lock();
        kept.0 = stored.tail.seen();
        if changed {
            kept.1 = Arc::new(Picture::read(stored.objects.values()));
        }
        Ok(Arc::clone(&kept.1))
    }
}

impl Stored {
    /// Takes changes in; says whether there were any.
    fn take(&mut self, news: News) -> bool {
        match news {
            News::All(kvs) => {
                self.objects = kvs.into_iter().map(|kv| (kv.key().to_vec(), kv)).collect();
                true
            }
            News::Changes(events) => {
                let changed = !events.is_empty();
                for e in events {
                    match e.kind {
                        EventKind::Put => self.objects.insert(e.kv.key().to_vec(), e.kv),
                        EventKind::Delete => self.objects.remove(e.kv.key()),
                    };
                }
                changed
            }
        }
    }
}

/// The roles as they are at one moment, for whoever cannot wait for an answer.
pub struct Judge(Arc<Picture>);

impl Judge {
    /// Decides by the roles of the moment.
    pub fn decide(&self, user: &User, a: &Attributes<'_>) -> Decision {
        if user.is_in(MASTERS) { Decision::Allow(String::new()) } else { self.0.decide(user, a) }
    }
}

impl Picture {
    fn read<'a>(kvs: impl Iterator<Item = &'a Kv>) -> Picture {
        let mut out = Picture::default();
        for kv in kvs {
            let o = stored::decode(kv);
            let name = crate::api::meta(&o, "name").to_owned();
            let namespace = crate::api::meta(&o, "namespace").to_owned();
            match o["kind"].as_str().unwrap_or_default() {
                "ClusterRole" => {
                    out.cluster_roles.insert(name, read_rules(&o["rules"]));
                }
                "Role" => {
                    out.roles.insert((namespace, name), read_rules(&o["rules"]));
                }
                _ => out.bindings.push(Binding::read(namespace, name, &o)),
            }
        }
        out
    }

    fn role(&self, role: &(String, String), namespace: &str) -> &[Rule] {
        let found = match role.0.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.1),
            _ => self.roles.get(&(namespace.to_owned(), role.1.clone())),
        };
        found.map_or(&[], Vec::as_slice)
    }

    fn rules_of<'s>(
        &'s self,
        user: &'s User,
        namespace: &'s str,
    ) -> impl Iterator<Item = (&'s Binding, &'s Rule)> {
        self.bindings
            .iter()
            .filter(move |b| {
                b.namespace.is_empty() || (!namespace.is_empty() && b.namespace == namespace)
            })
            .filter(move |b| b.names(user))
            .flat_map(move |b| self.role(&b.role, &b.namespace).iter().map(move |r| (b, r)))
    }

    fn decide(&self, user: &User, a: &Attributes<'_>) -> Decision {
        let found = self.rules_of(user, a.namespace).find(|(_, r)| r.allows(a));
        match found {
            Some((b, _)) => Decision::Allow(b.describe(user)),
            None => Decision::Deny(String::new()),
        }
    }
}

impl Binding {
    fn read(namespace: String, name: String, o: &Value) -> Binding {
        let text = |v: &Value, k: &str| v[k].as_str().unwrap_or_default().to_owned();
        let subject = |s: &Value| (text(s, "kind"), text(s, "namespace"), text(s, "name"));
        Binding {
            namespace,
            name,
            role: (text(&o["roleRef"], "kind"), text(&o["roleRef"], "name")),
            subjects: o["subjects"].as_array().into_iter().flatten().map(subject).collect(),
        }
    }

    fn names(&self, user: &User) -> bool {
        self.subjects.iter().any(|(kind, ns, name)| match kind.as_str() {
            "User" => *name == user.name || name == "*",
            "Group" => user.is_in(name),
            "ServiceAccount" => {
                let ns = if ns.is_empty() { &self.namespace } else { ns };
                user.account() == Some((ns.as_str(), name.as_str()))
            }
            _ => false,
        })
    }

    fn describe(&self, user: &User) -> String {
        let subject = self.subjects.iter().find(|(kind, _, name)| match kind.as_str() {
            "User" => *name == user.name,
            "Group" => user.is_in(name),
            _ => user.name.ends_with(&format!(":{name}")),
        });
        let subject = subject.map_or(String::new(), |(kind, ns, name)| match ns.as_str() {
            "" => format!("{kind} {name:?}"),
            ns => format!("{kind} \"{name}/{ns}\""),
        });
        let (role_kind, role) = &self.role;
        if self.namespace.is_empty() {
            format!(
                "RBAC: allowed by ClusterRoleBinding {:?} of {role_kind} {role:?} to {subject}",
                self.name
            )
        } else {
            format!(
                "RBAC: allowed by RoleBinding \"{}/{}\" of {role_kind} {role:?} to {subject}",
                self.name, self.namespace
            )
        }
    }
}

fn read_rules(v: &Value) -> Vec<Rule> {
    let texts = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rule = |r: &Value| Rule {
        verbs: texts(&r["verbs"]),
        groups: texts(&r["apiGroups"]),
        resources: texts(&r["resources"]),
        names: texts(&r["resourceNames"]),
        urls: texts(&r["nonResourceURLs"]),
    };
    v.as_array().into_iter().flatten().map(rule).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|x| x == "*" || x == text)
}

impl Rule {
    fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.urls.iter().any(|u| covers_path(u, a.path));
        }
        has(&self.groups, a.group)
            && self.covers_resource(a.resource, a.subresource)
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        let combined = if subresource.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}/{subresource}")
        };
        has(&self.resources, &combined)
            || (!subresource.is_empty()
                && self.resources.iter().any(|r| *r == format!("*/{subresource}")))
    }

    /// The rule as rules of one verb, group, resource and name each.
    fn split(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for verb in &self.verbs {
            out.extend(self.urls.iter().map(|u| Rule {
                verbs: vec![verb.clone()],
                urls: vec![u.clone()],
                ..Rule::default()
            }));
            for group in &self.groups {
                for resource in &self.resources {
                    let one = Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        out.push(one);
                    } else {
                        out.extend(
                            self.names
                                .iter()
                                .map(|n| Rule { names: vec![n.clone()], ..one.clone() }),
                        );
                    }
                }
            }
        }
        out
    }

    /// Whether this rule gives all that a rule of one of each gives.
    fn includes(&self, one: &Rule) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|w| has(own, w));
        let urls = one.urls.iter().all(|w| self.urls.iter().any(|u| covers_path(u, w)));
        let resources = one.resources.iter().all(|w| {
            let (r, s) = w.split_once('/').unwrap_or((w, ""));
            self.covers_resource(r, s)
        });
        let names = self.names.is_empty()
            || (!one.names.is_empty() && one.names.iter().all(|n| self.names.contains(n)));
        all(&self.verbs, &one.verbs) && all(&self.groups, &one.groups) && resources && names && urls
    }

    fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                out.insert(key.to_owned(), serde_json::json!(list));
            }
        }
        Value::Object(out)
    }
}

fn covers_path(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(v: Value) -> Rule {
        read_rules(&json!([v])).remove(0)
    }

    #[test]
    fn rules_allow_what_they_name() {
        let r = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log", "*/scale"]}),
        );
        let a = |resource, subresource| Attributes {
            verb: "get",
            resource,
            subresource,
            ..Attributes::default()
        };
        assert!(
            r.allows(&a("pods", "")) && r.allows(&a("pods", "log")) && r.allows(&a("x", "scale"))
        );
        assert!(!r.allows(&a("pods", "exec")));
        let r = rule(json!({"verbs": ["*"], "nonResourceURLs": ["/healthz", "/openapi/*"]}));
        let p = |path| Attributes { verb: "get", path, ..Attributes::default() };
        assert!(
            r.allows(&p("/healthz")) && r.allows(&p("/openapi/v3")) && !r.allows(&p("/metrics"))
        );
    }

    #[test]
    fn a_rule_covers_only_what_it_has() {
        let wide = rule(json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]}));
        let one = rule(
            json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}),
        );
        assert!(wide.includes(&one) && !one.includes(&wide));
        let named = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
        );
        let all = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}));
        assert!(all.includes(&named) && !named.includes(&all));
    }

    #[test]
    fn refusals_are_worded_like_the_reference() {
        let a = Attributes { verb: "list", resource: "pods", ..Attributes::default() };
        assert_eq!(
            a.refusal(&User::anonymous(), "").message,
            "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
        );
    }
}
