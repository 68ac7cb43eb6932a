//! Admission policies: expressions that judge requests, and expressions that change them.

use super::question::{Question, Seen};
use super::{Binding, Policy, list, text};
use crate::api::{fault, meta};
use crate::kinds::Kind;
use crate::stored;
use serde_json::{Value, json};
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::cel::{Scope, Val};
use wharf_kube::resources::GroupVersion;
use wharf_kube::selector::Labels;
use wharf_kube::status::{Cause, Details, Fault};
use wharf_kube::{fields, patch};

/// What a validation that failed leads to.
struct Finding {
    message: String,
    reason: String,
    /// The validation, by its place.
    index: usize,
}

/// Judges a request by every policy that is bound and about it.
pub(super) async fn judge(
    q: &Question<'_>,
    policies: &[Policy],
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Fault> {
    for policy in policies {
        let Some(kind) = policy.rules.matches(q, new, old) else { continue };
        for binding in &policy.bindings {
            if binding.rules.matches(q, new, old).is_none() {
                continue;
            }
            for params in params(q, policy, binding).await? {
                let request = q.request(&kind, new.or(old));
                let seen = Seen { object: new, old, params: params.as_ref(), request: &request };
                let findings = validate(q, policy, &seen);
                enforce(q, policy, binding, &findings, new.or(old))?;
            }
        }
    }
    Ok(())
}

/// Whether the conditions of a policy hold, or what went wrong.
fn concerned(q: &Question<'_>, policy: &Policy, scope: &Scope<'_>) -> Result<bool, String> {
    let mut failed = None;
    for c in list(&policy.object["spec"], "matchConditions") {
        let source = text(c, "expression");
        let Some(program) = policy.programs.get(source) else { continue };
        match q.eval(program, scope) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => return Ok(false),
            Ok(_) => failed = Some(format!("expression '{source}' resulted in no boolean")),
            Err(e) => failed = Some(format!("expression '{source}' resulted in error: {e}")),
        }
    }
    failed.map_or(Ok(true), Err)
}

/// The scope with the policy's variables. One that fails is not there, which who names it learns.
fn with_variables<'v>(q: &'v Question<'_>, policy: &'v Policy, seen: &Seen<'v>) -> Scope<'v> {
    let mut scope = q.scope(seen);
    let mut all: Vec<(Val<'v>, Val<'v>)> = Vec::new();
    for v in list(&policy.object["spec"], "variables") {
        scope.set("variables", Val::Map(Arc::new(all.clone())));
        let Some(program) = policy.programs.get(text(v, "expression")) else { continue };
        if let Ok(value) = q.eval(program, &scope) {
            all.push((Val::text(text(v, "name")), value));
        }
    }
    scope.set("variables", Val::Map(Arc::new(all)));
    scope
}

fn validate(q: &Question<'_>, policy: &Policy, seen: &Seen<'_>) -> Vec<Finding> {
    let scope = with_variables(q, policy, seen);
    let invalid =
        |index: usize, message: String| Finding { message, reason: "Invalid".to_owned(), index };
    match concerned(q, policy, &scope) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(why) if policy.is_strict() => return vec![invalid(0, why)],
        Err(_) => return Vec::new(),
    }
    let mut out = Vec::new();
    if let Some(why) = annotate(q, policy, &scope).filter(|_| policy.is_strict()) {
        out.push(invalid(0, why));
    }
    for (i, v) in list(&policy.object["spec"], "validations").iter().enumerate() {
        let source = text(v, "expression");
        let Some(program) = policy.programs.get(source) else { continue };
        match q.eval(program, &scope) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => {
                let made = policy.programs.get(text(v, "messageExpression")).and_then(|p| {
                    let made = q.eval(p, &scope).ok()?.as_text().ok()?.trim().to_owned();
                    (!made.is_empty()).then_some(made)
                });
                let given = text(v, "message").trim();
                let default = if given.is_empty() {
                    format!("failed expression: {}", source.trim())
                } else {
                    given.to_owned()
                };
                let reason = text(v, "reason");
                let reason = if reason.is_empty() { "Invalid" } else { reason };
                let message = made.unwrap_or(default);
                out.push(Finding { message, reason: reason.to_owned(), index: i });
            }
            Ok(_) if policy.is_strict() => {
                out.push(invalid(i, format!("expression '{source}' resulted in no boolean")))
            }
            Err(e) if policy.is_strict() => {
                out.push(invalid(i, format!("expression '{source}' resulted in error: {e}")))
            }
            _ => {}
        }
    }
    out
}

/// Notes what a policy wants noted of a request; gives what went wrong.
fn annotate(q: &Question<'_>, policy: &Policy, scope: &Scope<'_>) -> Option<String> {
    let mut failed = None;
    for a in list(&policy.object["spec"], "auditAnnotations") {
        let source = text(a, "valueExpression");
        let Some(program) = policy.programs.get(source) else { continue };
        match q.eval(program, scope) {
            Ok(Val::Null) => {}
            Ok(v) => match v.as_text() {
                Ok("") => {}
                Ok(v) => {
                    crate::audit::note(&format!("{}/{}", policy.name(), text(a, "key")), v.trim())
                }
                Err(_) => {
                    failed = Some(format!("valueExpression '{source}' resulted in no string"))
                }
            },
            Err(e) => failed = Some(format!("valueExpression '{source}' resulted in error: {e}")),
        }
    }
    failed
}

/// Refuses, warns or notes, as the binding says.
fn enforce(
    q: &Question<'_>,
    policy: &Policy,
    binding: &Binding,
    findings: &[Finding],
    object: Option<&Value>,
) -> Result<(), Fault> {
    let (name, bound) = (policy.name(), meta(&binding.object, "name"));
    let actions = list(&binding.object["spec"], "validationActions");
    let does = |what: &str| actions.iter().any(|a| a == what);
    for f in findings {
        if does("Warn") {
            q.call.warn(format!("Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {}", f.message));
        }
        if does("Audit") {
            crate::audit::list(
                "validation.policy.admission.k8s.io/validation_failure",
                json!({"message": f.message, "policy": name, "binding": bound,
                    "expressionIndex": f.index, "validationActions": actions}),
            );
        }
    }
    let Some(f) = findings.first().filter(|_| does("Deny")) else { return Ok(()) };
    let why = format!(
        "ValidatingAdmissionPolicy '{name}' with binding '{bound}' denied request: {}",
        f.message
    );
    let mut fault = Fault::forbidden(q.call.about(), q.name(object), &why);
    (fault.code, fault.reason) = match f.reason.as_str() {
        "Unauthorized" => (401, "Unauthorized"),
        "Forbidden" => (403, "Forbidden"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    let cause = Cause { message: why, ..Cause::default() };
    fault.details = Some(Details { causes: vec![cause], ..fault.details.unwrap_or_default() });
    Err(fault)
}

/// The parameters that a binding gives its policy: one round for each, or one without.
async fn params(
    q: &Question<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Option<Value>>, Fault> {
    let wanted = &policy.object["spec"]["paramKind"];
    let reference = &binding.object["spec"]["paramRef"];
    if !wanted.is_object() || !reference.is_object() {
        return Ok(vec![None]);
    }
    let missing = |what: String| {
        if text(reference, "parameterNotFoundAction") == "Deny" && policy.is_strict() {
            let why = format!(
                "policy '{}' with binding '{}' denied request: {what}",
                policy.name(),
                meta(&binding.object, "name")
            );
            return Err(Fault::forbidden(q.call.about(), q.name(None), &why));
        }
        Ok(Vec::new())
    };
    let Some(kind) = kind_of(q, wanted) else {
        return missing(format!(
            "failed to find resource referenced by paramKind: '{}, Kind={}'",
            text(wanted, "apiVersion"),
            text(wanted, "kind")
        ));
    };
    let ns = match text(reference, "namespace") {
        "" => q.call.namespace.unwrap_or_default(),
        ns => ns,
    };
    let scope =
        if kind.resource.namespaced { format!("{}{ns}/", kind.prefix()) } else { kind.prefix() };
    let name = text(reference, "name");
    let keys = if name.is_empty() {
        KeyRange::prefix(scope)
    } else {
        KeyRange::key(format!("{scope}{name}").into_bytes())
    };
    let reply = q.api.store.range(Range::new(keys)).await.map_err(|e| fault(&e))?;
    let selector = Labels::from_object(&reference["selector"]).filter(|_| name.is_empty());
    let found: Vec<Value> = reply
        .kvs
        .iter()
        .map(stored::decode)
        .filter(|o| {
            selector
                .as_ref()
                .is_none_or(|s| s.matches(o.pointer("/metadata/labels").and_then(Value::as_object)))
        })
        .collect();
    if found.is_empty() {
        return missing(
            "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned(),
        );
    }
    Ok(q.api.read_all_stored(&kind, found).await?.into_iter().map(Some).collect())
}

fn kind_of(q: &Question<'_>, wanted: &Value) -> Option<Arc<Kind>> {
    let gv = GroupVersion::parse(text(wanted, "apiVersion"));
    let all = q.api.kinds.all();
    all.iter().find(|k| k.resource.gv == gv && k.name() == text(wanted, "kind")).cloned()
}

/// Changes an object by every mutating policy that is bound and about the request.
pub(super) async fn mutate(
    q: &Question<'_>,
    policies: &[Policy],
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Fault> {
    let mut again = Vec::new();
    for (i, policy) in policies.iter().enumerate() {
        if change(q, policy, object, old).await?
            && policy.object["spec"]["reinvocationPolicy"] == "IfNeeded"
        {
            again.push((i, object.clone()));
        }
    }
    for (i, seen) in again {
        if seen != *object {
            change(q, &policies[i], object, old).await?;
        }
    }
    Ok(())
}

async fn change(
    q: &Question<'_>,
    policy: &Policy,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<bool, Fault> {
    let Some(kind) = policy.rules.matches(q, Some(object), old) else { return Ok(false) };
    let mut done = false;
    for binding in &policy.bindings {
        if binding.rules.matches(q, Some(object), old).is_none() {
            continue;
        }
        for params in params(q, policy, binding).await? {
            for mutation in list(&policy.object["spec"], "mutations") {
                let request = q.request(&kind, Some(object));
                let outcome = {
                    let seen = Seen {
                        object: Some(object),
                        old,
                        params: params.as_ref(),
                        request: &request,
                    };
                    let scope = with_variables(q, policy, &seen);
                    match concerned(q, policy, &scope) {
                        Ok(true) => mutated(q, policy, mutation, &scope, object),
                        Ok(false) => continue,
                        Err(why) => Err(why),
                    }
                };
                match outcome {
                    Ok(next) => {
                        *object = if q.other.is_none() { q.call.kind.ordered(next) } else { next };
                        done = true;
                    }
                    Err(why) if policy.is_strict() => {
                        let why = format!(
                            "policy '{}' with binding '{}' denied request: {why}",
                            policy.name(),
                            meta(&binding.object, "name")
                        );
                        return Err(Fault::forbidden(q.call.about(), q.name(Some(object)), &why));
                    }
                    Err(_) => {}
                }
            }
        }
    }
    Ok(done)
}

/// What one mutation makes of an object.
fn mutated(
    q: &Question<'_>,
    policy: &Policy,
    mutation: &Value,
    scope: &Scope<'_>,
    object: &Value,
) -> Result<Value, String> {
    let applies = text(mutation, "patchType") == "ApplyConfiguration";
    let source =
        text(&mutation[if applies { "applyConfiguration" } else { "jsonPatch" }], "expression");
    let Some(program) = policy.programs.get(source) else { return Ok(object.clone()) };
    let made = q
        .eval(program, scope)
        .map_err(|e| format!("expression '{source}' resulted in error: {e}"))?;
    let made = made
        .to_json()
        .ok_or_else(|| format!("expression '{source}' resulted in something that is no JSON"))?;
    let next = if applies {
        for path in
            ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata/uid"]
        {
            if made.pointer(path).is_some_and(|v| Some(v) != object.pointer(path)) {
                return Err(format!(
                    "invalid ApplyConfiguration: may not change {}",
                    path.trim_start_matches('/').replace('/', ".")
                ));
            }
        }
        fields::merge(object, &made, q.shape()?)
    } else {
        patch::json(object, &made).map_err(|e| format!("JSON Patch: {e}"))?
    };
    let mut unknown = Vec::new();
    let next = q.normalized(next, &mut unknown)?;
    match unknown.first() {
        Some(path) => Err(format!("invalid mutation: unknown field {path:?}")),
        None => Ok(next),
    }
}
