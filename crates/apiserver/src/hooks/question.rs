//! A request as hooks see it.

use crate::api::{Api, Call, meta};
use crate::authz::{Attributes, Decision, Judge};
use crate::kinds::Kind;
use crate::user::User;
use serde_json::{Value, json};
use wharf_base::sync::Mutex;
use wharf_kube::cel::{
    Authority, Check, EvalError, PER_OBJECT, Program, Scope, Val, json as value,
};
use wharf_kube::resources::GroupVersion;
use wharf_kube::schema::TypeId;
use wharf_kube::shape::Shape;
use wharf_kube::status::Fault;
use wharf_kube::typed::normalize;

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) api: &'a Api,
    pub(super) call: &'a Call<'a>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub(super) operation: &'static str,
    /// The object's namespace.
    pub(super) namespace: Option<std::sync::Arc<Value>>,
    /// Group, version and kind of an object that is none of the call's kind.
    pub(super) other: Option<Value>,
    authority: Judged<'a>,
    /// What all expressions about this request may still cost.
    budget: Mutex<u64>,
}

/// Answers expressions with what the roles say.
struct Judged<'a> {
    /// Nothing where no expression asks.
    judge: Option<Judge>,
    user: &'a User,
}

impl Authority for Judged<'_> {
    fn allows(&self, check: &Check) -> (bool, String) {
        let a = Attributes {
            verb: &check.verb,
            group: &check.group,
            resource: check.resource.as_deref().unwrap_or_default(),
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            path: check.path.as_deref().unwrap_or_default(),
            ..Attributes::default()
        };
        let other = check.account.as_ref().map(|(ns, name)| {
            let groups =
                vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{ns}")];
            User::new(format!("system:serviceaccount:{ns}:{name}"), groups)
        });
        let Some(judge) = &self.judge else { return (false, String::new()) };
        match judge.decide(other.as_ref().unwrap_or(self.user), &a) {
            Decision::Allow(why) => (true, why),
            Decision::Deny(why) => (false, why),
        }
    }
}

/// The times of an object's metadata are times in expressions.
fn times() -> &'static Value {
    static SCHEMA: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    SCHEMA.get_or_init(|| {
        let time = json!({"type": "string", "format": "date-time"});
        json!({"properties": {"metadata": {"properties": {"creationTimestamp": time, "deletionTimestamp": time}}}})
    })
}

/// Values that expressions look at.
pub(super) struct Seen<'v> {
    pub(super) object: Option<&'v Value>,
    pub(super) old: Option<&'v Value>,
    pub(super) params: Option<&'v Value>,
    pub(super) request: &'v Value,
}

impl<'a> Question<'a> {
    pub(super) async fn new(
        api: &'a Api,
        call: &'a Call<'a>,
        operation: &'static str,
        asks: bool,
    ) -> Result<Question<'a>, Fault> {
        let namespace = match (call.namespace, api.kinds.core("namespaces")) {
            (Some(ns), Some(kind)) => api.object(&kind, None, ns).await?,
            _ => None,
        };
        let judge = if asks { Some(api.roles.judge(api).await?) } else { None };
        let authority = Judged { judge, user: call.user };
        let (other, budget) = (None, Mutex::new(PER_OBJECT));
        Ok(Question { api, call, operation, namespace, other, authority, budget })
    }

    /// The same about an object that says itself of which kind it is.
    pub(super) fn about(self, object: &Value) -> Question<'a> {
        let gv = GroupVersion::parse(object["apiVersion"].as_str().unwrap_or_default());
        let kind = json!({"group": gv.group, "version": gv.version, "kind": object["kind"]});
        Question { other: Some(kind), ..self }
    }

    /// The type of the object, where it is one that clients can send: the options of a stream are not.
    pub(super) fn shape(&self) -> Result<Shape<'_>, String> {
        match &self.other {
            None => Ok(self.call.kind.shape()),
            Some(_) if self.operation != "CONNECT" => self.body_type().map(Shape::Type),
            Some(other) => Err(format!(
                "failed to convert original object to typed object: no corresponding type for /{}, Kind={}",
                other["version"].as_str().unwrap_or_default(),
                other["kind"].as_str().unwrap_or_default()
            )),
        }
    }

    fn body_type(&self) -> Result<TypeId, String> {
        let sub = self.call.subresource.and_then(|s| self.call.kind.subresource(s));
        sub.map(|s| s.ty).ok_or_else(|| "the object is of no known type".to_owned())
    }

    /// Brings a changed object into its normal form; names the fields that it cannot have.
    pub(super) fn normalized(&self, v: Value, unknown: &mut Vec<String>) -> Result<Value, String> {
        match &self.other {
            None => self.call.kind.normalize(v, unknown).map_err(|e| e.to_string()),
            Some(_) if self.operation != "CONNECT" => {
                normalize(self.body_type()?, v, unknown).map_err(|e| e.to_string())
            }
            Some(_) => Ok(v),
        }
    }

    /// The object's name: of the path, or else its own.
    pub(super) fn name<'v>(&'v self, object: Option<&'v Value>) -> &'v str {
        self.call.name.or_else(|| object.map(|o| meta(o, "name"))).unwrap_or_default()
    }

    /// The request of a review, without its objects; `kind` is what the hook matched it as.
    pub(super) fn request(&self, kind: &Kind, object: Option<&Value>) -> Value {
        let call = self.call;
        let gvk = |k: &Kind| json!({"group": k.group(), "version": k.resource.gv.version, "kind": k.name()});
        let gvr = |k: &Kind| json!({"group": k.group(), "version": k.resource.gv.version, "resource": k.resource.plural});
        let mut r = json!({"uid": crate::random::uid(), "kind": gvk(kind), "resource": gvr(kind),
            "requestKind": gvk(call.kind), "requestResource": gvr(call.kind)});
        if let Some(other) = &self.other {
            r["kind"] = other.clone();
            r["requestKind"] = other.clone();
        }
        if let Some(sub) = call.subresource {
            r["subResource"] = json!(sub);
            r["requestSubResource"] = json!(sub);
        }
        let name = self.name(object);
        if !name.is_empty() {
            r["name"] = json!(name);
        }
        if let Some(ns) = call.namespace {
            r["namespace"] = json!(ns);
        } else if kind.resource.plural == "namespaces" && kind.group().is_empty() {
            r["namespace"] = json!(name);
        }
        r["operation"] = json!(self.operation);
        let u = call.user;
        r["userInfo"] = json!({"username": u.name, "groups": u.groups});
        if !u.uid.is_empty() {
            r["userInfo"]["uid"] = json!(u.uid);
        }
        if !u.extra.is_empty() {
            r["userInfo"]["extra"] = json!(u.extra);
        }
        r["dryRun"] = json!(call.query.dry_run);
        r["options"] = self.options();
        r
    }

    fn options(&self) -> Value {
        let kind = match self.operation {
            "CONNECT" => return Value::Null,
            "CREATE" => "CreateOptions",
            "DELETE" => "DeleteOptions",
            _ => "UpdateOptions",
        };
        let mut o = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.operation != "DELETE" && !self.call.query.field_manager.is_empty() {
            o["fieldManager"] = json!(self.call.query.field_manager);
        }
        if self.call.query.dry_run {
            o["dryRun"] = json!(["All"]);
        }
        o
    }

    /// What expressions may name.
    pub(super) fn scope<'v>(&'v self, seen: &Seen<'v>) -> Scope<'v> {
        let mut scope = Scope::default();
        let or_null = |v: Option<&'v Value>| v.map_or(Val::Null, |v| value(v, Some(times())));
        scope.set("object", or_null(seen.object));
        scope.set("oldObject", or_null(seen.old));
        scope.set("request", value(seen.request, None));
        scope.set("params", or_null(seen.params));
        scope.set("namespaceObject", or_null(self.namespace.as_deref()));
        scope.ask(&self.authority);
        let resource = Check {
            group: self.call.kind.group().to_owned(),
            resource: Some(self.call.kind.resource.plural.to_owned()),
            subresource: self.call.subresource.unwrap_or_default().to_owned(),
            namespace: self.call.namespace.unwrap_or_default().to_owned(),
            name: self.call.name.unwrap_or_default().to_owned(),
            ..Check::default()
        };
        scope.set("authorizer.requestResource", Val::Check(std::sync::Arc::new(resource)));
        scope
    }

    /// Evaluates an expression at this request's cost.
    pub(super) fn eval<'v>(
        &self,
        program: &'v Program,
        scope: &Scope<'v>,
    ) -> Result<Val<'v>, EvalError> {
        let mut budget = self.budget.lock();
        program.eval(scope, &mut budget)
    }
}
