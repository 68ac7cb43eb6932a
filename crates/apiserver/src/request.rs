//! What a request asks for: its path and query taken apart, before anything is looked up.

use std::borrow::Cow;
use wharf_kube::resources::GroupVersion;
use wharf_kube::status::{Fault, Problem};

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz` and what is below them.
    Health,
    /// `/api` and `/apis`: which groups there are.
    Groups {
        /// Whether it is `/api`.
        core: bool,
    },
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Resources(GroupVersion),
    /// `/openapi/v3`, `/openapi/v3/…`.
    OpenApi(String),
    /// Objects.
    Objects(Target),
    /// A path without objects: `/metrics`, `/`, or nothing known.
    Other,
}

/// The objects that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Group and version.
    pub gv: GroupVersion,
    /// The plural name.
    pub resource: String,
    /// The namespace; nothing for all namespaces and for cluster-wide kinds.
    pub namespace: Option<String>,
    /// The object; nothing for the collection.
    pub name: Option<String>,
    /// What is below the object.
    pub subresource: Option<String>,
    /// What is below that, for proxies.
    pub rest: String,
    /// The old `/watch/` prefix.
    pub watch: bool,
}

/// Takes a path apart.
pub fn route(path: &str) -> Route {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["api"] => Route::Groups { core: true },
        ["apis"] => Route::Groups { core: false },
        ["apis", group] => Route::Group((*group).to_owned()),
        ["api", version] => Route::Resources(GroupVersion::parse(version)),
        ["apis", group, version] => Route::Resources(gv(group, version)),
        ["openapi", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["api", version, rest @ ..] => objects(gv("", version), rest),
        ["apis", group, version, rest @ ..] => objects(gv(group, version), rest),
        _ => Route::Other,
    }
}

fn gv(group: &str, version: &str) -> GroupVersion {
    GroupVersion { group: group.to_owned(), version: version.to_owned() }
}

fn objects(gv: GroupVersion, rest: &[&str]) -> Route {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let decode = |s: &str| percent_decode(s).into_owned();
    let mut t = Target {
        gv,
        resource: String::new(),
        namespace: None,
        name: None,
        subresource: None,
        rest: String::new(),
        watch,
    };
    let below = match rest {
        // A namespace is itself an object, and has subresources of its own.
        ["namespaces", name, sub @ ("status" | "finalize")] if t.gv.group.is_empty() => {
            t.resource = "namespaces".to_owned();
            t.name = Some(decode(name));
            t.namespace = t.name.clone();
            t.subresource = Some((*sub).to_owned());
            return Route::Objects(t);
        }
        ["namespaces", name] if t.gv.group.is_empty() => {
            t.resource = "namespaces".to_owned();
            t.name = Some(decode(name));
            t.namespace = t.name.clone();
            return Route::Objects(t);
        }
        ["namespaces", ns, below @ ..] if !below.is_empty() => {
            t.namespace = Some(decode(ns));
            below
        }
        below => below,
    };
    match below {
        [] => return Route::Other,
        [resource, more @ ..] => {
            t.resource = decode(resource);
            t.name = more.first().map(|n| decode(n));
            t.subresource = more.get(1).map(|s| decode(s));
            t.rest = more.get(2..).unwrap_or_default().join("/");
        }
    }
    Route::Objects(t)
}

/// Undoes `%XX`; bytes that are no UTF-8 become replacement characters.
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// How unknown and duplicate fields are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped with a `Warning` header.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// What is to become of the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner.
    Orphan,
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// The query, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Indented JSON, where the client says so.
    pub pretty: Option<bool>,
    /// Do everything but store.
    pub dry_run: bool,
    /// Who the fields belong to.
    pub field_manager: String,
    /// What to do about unknown fields.
    pub field_validation: FieldValidation,
    /// Take fields over.
    pub force: bool,
    /// Label selector.
    pub label_selector: String,
    /// Field selector.
    pub field_selector: String,
    /// Page size; 0 is no limit.
    pub limit: usize,
    /// Where the last page ended.
    pub continue_token: String,
    /// The revision asked for.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub resource_version_match: String,
    /// Stream changes.
    pub watch: bool,
    /// Say now and then how far the stream is.
    pub bookmarks: bool,
    /// Begin with what is there.
    pub initial_events: Option<bool>,
    /// Seconds until the stream ends.
    pub timeout: Option<u64>,
    /// What a table's rows carry.
    pub include_object: String,
    /// Of a deletion.
    pub grace_period: Option<i64>,
    /// Of a deletion.
    pub propagation: Option<Propagation>,
}

/// Splits a query into decoded pairs.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |s: &str| percent_decode(&s.replace('+', " ")).into_owned();
    let pair = |p: &str| {
        let (k, v) = p.split_once('=').unwrap_or((p, ""));
        (decode(k), decode(v))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

impl Query {
    /// Reads a query. What the API does not know is ignored, as the reference server does.
    pub fn parse(query: &str) -> Result<Query, Fault> {
        let mut q = Query::default();
        for (k, v) in pairs(query) {
            match k.as_str() {
                "pretty" => q.pretty = Some(!matches!(v.as_str(), "0" | "false")),
                "dryRun" => q.dry_run = dry_run(&v)?,
                "fieldManager" => q.field_manager = manager(v)?,
                "fieldValidation" => q.field_validation = validation(&v)?,
                "force" => q.force = flag(&v),
                "labelSelector" => q.label_selector = v,
                "fieldSelector" => q.field_selector = v,
                "limit" => q.limit = number(&k, &v)?.max(0).try_into().unwrap_or(usize::MAX),
                "continue" => q.continue_token = v,
                "resourceVersion" => q.resource_version = v,
                "resourceVersionMatch" => q.resource_version_match = v,
                "watch" => q.watch = flag(&v),
                "allowWatchBookmarks" => q.bookmarks = flag(&v),
                "sendInitialEvents" => q.initial_events = Some(flag(&v)),
                "timeout" => patience(&v)?,
                "timeoutSeconds" => q.timeout = u64::try_from(number(&k, &v)?).ok(),
                "includeObject" => q.include_object = v,
                "gracePeriodSeconds" => q.grace_period = Some(number(&k, &v)?),
                "propagationPolicy" => q.propagation = Some(propagation(&v)?),
                "orphanDependents" => {
                    let orphan = flag(&v);
                    q.propagation =
                        Some(if orphan { Propagation::Orphan } else { Propagation::Background });
                }
                _ => {}
            }
        }
        Ok(q)
    }
}

/// How long a client lets its request take. Requests that are not watches are answered long before anything that
/// makes sense here; what makes none is refused.
fn patience(v: &str) -> Result<(), Fault> {
    match wharf_kube::time::parse_duration(v) {
        Some(_) => Ok(()),
        None => Err(Fault::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {v:?}"
        ))),
    }
}

fn flag(v: &str) -> bool {
    !matches!(v.to_ascii_lowercase().as_str(), "0" | "false")
}

fn number(key: &str, v: &str) -> Result<i64, Fault> {
    v.parse().map_err(|_| {
        Fault::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax ({key})"))
    })
}

fn dry_run(v: &str) -> Result<bool, Fault> {
    match v {
        "All" => Ok(true),
        "" => Ok(false),
        other => {
            let value = serde_json::json!(other);
            let p = Problem::unsupported("dryRun", &value, &["All"]);
            Err(Fault::invalid("meta.k8s.io", "CreateOptions", "", &[p]))
        }
    }
}

fn manager(v: String) -> Result<String, Fault> {
    if v.chars().count() > 128 || v.chars().any(char::is_control) {
        let value = serde_json::json!(v);
        let p = Problem::invalid(
            "fieldManager",
            &value,
            "must be no more than 128 printable characters",
        );
        return Err(Fault::invalid("meta.k8s.io", "CreateOptions", "", &[p]));
    }
    Ok(v)
}

fn validation(v: &str) -> Result<FieldValidation, Fault> {
    match v {
        "Ignore" => Ok(FieldValidation::Ignore),
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Strict" => Ok(FieldValidation::Strict),
        other => {
            let value = serde_json::json!(other);
            let allowed = ["", "Ignore", "Warn", "Strict"];
            let p = Problem::unsupported("fieldValidation", &value, &allowed);
            Err(Fault::invalid("meta.k8s.io", "CreateOptions", "", &[p]))
        }
    }
}

/// Reads a propagation policy.
pub fn propagation(v: &str) -> Result<Propagation, Fault> {
    match v {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => {
            let value = serde_json::json!(other);
            let allowed = ["Foreground", "Background", "Orphan", "nil"];
            let p = Problem::unsupported("propagationPolicy", &value, &allowed);
            Err(Fault::invalid("meta.k8s.io", "DeleteOptions", "", &[p]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        match route(path) {
            Route::Objects(t) => t,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_of_objects_are_taken_apart() {
        let t = target("/apis/apps/v1/namespaces/default/deployments/web/scale");
        assert_eq!(t.gv.to_string(), "apps/v1");
        assert_eq!((t.namespace.as_deref(), t.name.as_deref()), (Some("default"), Some("web")));
        assert_eq!((t.resource.as_str(), t.subresource.as_deref()), ("deployments", Some("scale")));
        let t = target("/api/v1/pods");
        assert_eq!((t.namespace, t.name), (None, None));
        let t = target("/api/v1/namespaces/x/finalize");
        assert_eq!((t.resource.as_str(), t.name.as_deref()), ("namespaces", Some("x")));
        let t = target("/api/v1/namespaces/x");
        assert_eq!((t.resource.as_str(), t.namespace.as_deref()), ("namespaces", Some("x")));
        let t = target("/api/v1/watch/namespaces/x/pods");
        assert!(t.watch && t.resource == "pods");
        let t = target("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(t.name.as_deref(), Some("system:node"));
        let t = target("/api/v1/nodes/n/proxy/a/b");
        assert_eq!((t.subresource.as_deref(), t.rest.as_str()), (Some("proxy"), "a/b"));
    }

    #[test]
    fn other_paths_lead_to_their_places() {
        assert_eq!(route("/api"), Route::Groups { core: true });
        assert_eq!(route("/apis/apps"), Route::Group("apps".into()));
        assert_eq!(route("/apis/apps/v1"), Route::Resources(GroupVersion::parse("apps/v1")));
        assert_eq!(route("/openapi/v3/apis/apps/v1"), Route::OpenApi("v3/apis/apps/v1".into()));
        assert_eq!(route("/nothing"), Route::Other);
        assert_eq!(route("/readyz/ping"), Route::Health);
    }

    #[test]
    fn queries_are_read_and_judged() {
        let q = Query::parse("limit=2&labelSelector=a%3Db&watch=1&dryRun=All").unwrap();
        assert_eq!(
            (q.limit, q.label_selector.as_str(), q.watch, q.dry_run),
            (2, "a=b", true, true)
        );
        assert_eq!(Query::parse("dryRun=Some").unwrap_err().code, 422);
        assert_eq!(Query::parse("limit=x").unwrap_err().code, 400);
        assert!(Query::parse("timeout=1m0s&timeout=0s").is_ok());
        assert_eq!(Query::parse("timeout=soon").unwrap_err().code, 400);
        assert_eq!(Query::parse("fieldValidation=Loud").unwrap_err().code, 422);
    }
}
