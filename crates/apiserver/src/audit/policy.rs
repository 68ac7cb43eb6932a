//! `audit.k8s.io/v1` policies: the first rule that matches a request says how much of it is kept.

use crate::user::User;
use serde_json::Value;

/// How much of a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and how it ended.
    Metadata,
    /// That and what was sent.
    Request,
    /// That and what was answered.
    RequestResponse,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "None" => Level::None,
            "Metadata" => Level::Metadata,
            "Request" => Level::Request,
            "RequestResponse" => Level::RequestResponse,
            _ => return None,
        })
    }

    /// As policies spell it.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is no YAML.
    #[error("the audit policy is no YAML: {0}")]
    Yaml(String),
    /// It is something else.
    #[error("the audit policy is a {0}, and not a Policy of audit.k8s.io/v1")]
    Kind(String),
    /// A rule is wrong.
    #[error("rules[{rule}] of the audit policy: {why}")]
    Rule {
        /// Which.
        rule: usize,
        /// Why.
        why: String,
    },
}

/// Rules in order.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

/// What a request asked for.
pub(super) struct Asked<'a> {
    pub(super) user: &'a User,
    pub(super) verb: &'a str,
    pub(super) path: &'a str,
    pub(super) group: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// What the policy says of it.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) level: Level,
    pub(super) omit_managed_fields: bool,
    omit_stages: Vec<String>,
}

impl Matched {
    pub(super) fn omits(&self, stage: &str) -> bool {
        self.omit_stages.iter().any(|s| s == stage)
    }
}

fn texts(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Policy {
    /// Reads a policy file.
    pub fn parse(text: &[u8]) -> Result<Policy, PolicyError> {
        let v = wharf_kube::yaml::parse(text).map_err(|e| PolicyError::Yaml(e.to_string()))?.value;
        if v["kind"] != "Policy" || v["apiVersion"] != "audit.k8s.io/v1" {
            return Err(PolicyError::Kind(format!("{} {}", v["apiVersion"], v["kind"])));
        }
        let list = v["rules"].as_array().map_or(&[][..], Vec::as_slice);
        let rules = list.iter().enumerate().map(|(i, r)| rule(i, r)).collect::<Result<_, _>>()?;
        let omit_managed_fields = v["omitManagedFields"] == true;
        Ok(Policy { rules, omit_stages: texts(&v["omitStages"]), omit_managed_fields })
    }

    /// The first rule that matches; without any, nothing is kept.
    pub(super) fn judge(&self, asked: &Asked<'_>) -> Matched {
        let Some(rule) = self.rules.iter().find(|r| r.matches(asked)) else {
            return Matched {
                level: Level::None,
                omit_managed_fields: false,
                omit_stages: Vec::new(),
            };
        };
        Matched {
            level: rule.level,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            omit_stages: [&rule.omit_stages[..], &self.omit_stages[..]].concat(),
        }
    }
}

fn rule(i: usize, v: &Value) -> Result<Rule, PolicyError> {
    const FIELDS: &[&str] = &[
        "level",
        "users",
        "userGroups",
        "verbs",
        "resources",
        "namespaces",
        "nonResourceURLs",
        "omitStages",
        "omitManagedFields",
    ];
    let wrong = |why: String| PolicyError::Rule { rule: i, why };
    let unknown = v.as_object().into_iter().flatten().find(|(k, _)| !FIELDS.contains(&k.as_str()));
    if let Some((key, _)) = unknown {
        return Err(wrong(format!("unknown field {key:?}")));
    }
    let level = v["level"].as_str().unwrap_or_default();
    let level = Level::parse(level).ok_or_else(|| wrong(format!("unknown level {level:?}")))?;
    let resources = |r: &Value| Resources {
        group: r["group"].as_str().unwrap_or_default().to_owned(),
        resources: texts(&r["resources"]),
        names: texts(&r["resourceNames"]),
    };
    Ok(Rule {
        level,
        users: texts(&v["users"]),
        groups: texts(&v["userGroups"]),
        verbs: texts(&v["verbs"]),
        resources: v["resources"].as_array().into_iter().flatten().map(resources).collect(),
        namespaces: texts(&v["namespaces"]),
        urls: texts(&v["nonResourceURLs"]),
        omit_stages: texts(&v["omitStages"]),
        omit_managed_fields: v["omitManagedFields"].as_bool(),
    })
}

impl Rule {
    fn matches(&self, a: &Asked<'_>) -> bool {
        let has = |list: &[String], text: &str| list.is_empty() || list.iter().any(|t| t == text);
        let in_group = self.groups.is_empty() || self.groups.iter().any(|g| a.user.is_in(g));
        if !has(&self.users, &a.user.name) || !in_group || !has(&self.verbs, a.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return !a.resource.is_empty()
                && has(&self.namespaces, a.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(a)));
        }
        if !self.urls.is_empty() {
            return a.resource.is_empty() && self.urls.iter().any(|u| covers(u, a.path));
        }
        true
    }
}

fn covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

impl Resources {
    fn matches(&self, a: &Asked<'_>) -> bool {
        if self.group != a.group
            || !(self.names.is_empty() || self.names.iter().any(|n| n == a.name))
        {
            return false;
        }
        let combined = if a.subresource.is_empty() {
            a.resource.to_owned()
        } else {
            format!("{}/{}", a.resource, a.subresource)
        };
        self.resources.is_empty()
            || self.resources.iter().any(|r| {
                *r == "*"
                    || *r == combined
                    || (!a.subresource.is_empty()
                        && (*r == format!("*/{}", a.subresource)
                            || *r == format!("{}/*", a.resource)))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &[u8] = b"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-proxy]
- level: Metadata
  resources:
  - resources: [secrets, pods/*]
- level: None
  nonResourceURLs: [/healthz*]
- level: RequestResponse
  verbs: [create]
  namespaces: [n]
- level: Request
";

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let level = |user: &str, verb: &str, path: &str, resource: &str, subresource: &str| {
            let user = User::new(user, Vec::new());
            let (group, namespace, name) = ("", if resource.is_empty() { "" } else { "n" }, "x");
            policy
                .judge(&Asked {
                    user: &user,
                    verb,
                    path,
                    group,
                    resource,
                    subresource,
                    namespace,
                    name,
                })
                .level
        };
        assert_eq!(level("system:kube-proxy", "get", "", "secrets", ""), Level::None);
        assert_eq!(level("bob", "get", "", "secrets", ""), Level::Metadata);
        assert_eq!(level("bob", "get", "", "pods", "log"), Level::Metadata);
        assert_eq!(level("bob", "create", "", "pods", ""), Level::RequestResponse);
        assert_eq!(level("bob", "get", "", "pods", ""), Level::Request);
        assert_eq!(level("bob", "get", "/healthz/ping", "", ""), Level::None);
    }

    #[test]
    fn a_policy_that_means_nothing_is_refused() {
        for wrong in [
            "kind: Pod\napiVersion: v1",
            "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Loud}]",
            "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, user: [a]}]",
        ] {
            assert!(Policy::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
