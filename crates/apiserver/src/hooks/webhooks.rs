//! Admission webhooks: which are asked, what they are told, and what becomes of their answers.

use super::question::{Question, Seen};
use super::{Hook, list, text};
use crate::kinds::Kind;
use crate::webhook;
use base64::Engine as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use wharf_kube::status::{Details, Fault};
use wharf_kube::{cel::Val, patch};

/// Asks the webhooks that may change the object, some of them again when others changed it after them.
pub(super) async fn mutate(
    q: &Question<'_>,
    hooks: &[Hook],
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Fault> {
    // What the object was after a webhook that wants to know of later changes.
    let mut after: Vec<(&Hook, Value)> = Vec::new();
    for hook in hooks {
        if change(q, hook, object, old).await?
            && text(&hook.config, "reinvocationPolicy") == "IfNeeded"
        {
            after.push((hook, object.clone()));
        }
    }
    for (hook, seen) in after {
        if seen != *object {
            change(q, hook, object, old).await?;
        }
    }
    Ok(())
}

/// Asks one webhook. Says whether it was.
async fn change(
    q: &Question<'_>,
    hook: &Hook,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<bool, Fault> {
    let Some(kind) = concerned(q, hook, Some(object), old)? else { return Ok(false) };
    let Some(response) = ask(q, hook, &kind, Some(object), old).await? else { return Ok(true) };
    let Some(encoded) = response["patch"].as_str().filter(|p| !p.is_empty()) else {
        return Ok(true);
    };
    let bad = |why: String| {
        Fault::internal(format!(
            "admission webhook {:?} returned a patch that cannot be applied: {why}",
            hook.name()
        ))
    };
    if text(&response, "patchType") != "JSONPatch" {
        return Err(Fault::internal(format!(
            "webhook returned response.patch but not response.patchType of admission webhook {:?}",
            hook.name()
        )));
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|e| bad(e.to_string()))?;
    let operations: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let mut seen = as_kind(q, &kind, object).await?;
    seen = patch::json(&seen, &operations).map_err(|e| bad(e.to_string()))?;
    if q.other.is_none() {
        seen = kind.normalize(seen, &mut Vec::new()).map_err(|e| bad(e.to_string()))?;
    }
    *object = as_kind(q, q.call.kind, &seen).await?;
    Ok(true)
}

/// Asks the webhooks that judge, all at once.
pub(super) async fn judge(
    q: &Question<'_>,
    hooks: &[Hook],
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Fault> {
    let mut asked = Vec::new();
    for hook in hooks {
        if let Some(kind) = concerned(q, hook, new, old)? {
            asked.push(async move { ask(q, hook, &kind, new, old).await });
        }
    }
    let answers = futures_util::future::join_all(asked).await;
    answers.into_iter().try_for_each(|a| a.map(drop))
}

/// The kind as which a webhook is asked about the request; nothing where it is not.
fn concerned(
    q: &Question<'_>,
    hook: &Hook,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<Arc<Kind>>, Fault> {
    let Some(kind) = hook.rules.matches(q, new, old) else { return Ok(None) };
    let conditions = list(&hook.config, "matchConditions");
    if conditions.is_empty() {
        return Ok(Some(kind));
    }
    let request = q.request(&kind, new.or(old));
    let scope = q.scope(&Seen { object: new, old, params: None, request: &request });
    let mut failed = None;
    for c in conditions {
        let Some(program) = hook.programs.get(text(c, "expression")) else { continue };
        match q.eval(program, &scope) {
            Ok(Val::Bool(true)) => {}
            // One that says no decides, whatever becomes of the others.
            Ok(Val::Bool(false)) => return Ok(None),
            Ok(_) => failed = Some("the condition is no boolean".to_owned()),
            Err(e) => {
                failed = Some(format!("expression '{}' resulted in error: {e}", program.source()))
            }
        }
    }
    match failed {
        None => Ok(Some(kind)),
        Some(why) if hook.is_strict() => Err(Fault::forbidden(
            q.call.about(),
            q.name(new.or(old)),
            &format!("match conditions of admission webhook {:?}: {why}", hook.name()),
        )),
        Some(_) => Ok(None),
    }
}

/// An object in another version of its kind.
async fn as_kind(q: &Question<'_>, kind: &Kind, object: &Value) -> Result<Value, Fault> {
    if q.other.is_some() || object["apiVersion"] == json!(kind.api_version) {
        return Ok(object.clone());
    }
    let stored = q.api.to_stored(q.call.kind, object.clone()).await?;
    q.api.read_stored(kind, stored).await
}

/// Asks, and returns the response of a webhook that allows; nothing where it failed and that is no matter.
async fn ask(
    q: &Question<'_>,
    hook: &Hook,
    kind: &Kind,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<Value>, Fault> {
    let name = hook.name();
    if q.call.query.dry_run && !matches!(text(&hook.config, "sideEffects"), "None" | "NoneOnDryRun")
    {
        return Err(Fault::bad_request(format!(
            "admission webhook {name:?} does not support dry run"
        )));
    }
    let mut request = q.request(kind, new.or(old));
    for (key, v) in [("object", new), ("oldObject", old)] {
        request[key] = match v {
            Some(v) => as_kind(q, kind, v).await?,
            None => Value::Null,
        };
    }
    let uid = request["uid"].clone();
    let review =
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request});
    let seconds = hook.config["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let patience = Duration::from_secs(seconds);
    let answer = webhook::call(q.api, &hook.config["clientConfig"], &review, patience).await;
    let response = answer.map_err(|e| e.to_string()).and_then(|mut a| {
        let response = a["response"].take();
        if !response.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        if response["uid"] != uid {
            return Err(format!("expected response.uid={uid}, got {}", response["uid"]));
        }
        Ok(response)
    });
    let response = match response {
        Ok(response) => response,
        Err(why) if hook.is_strict() => {
            return Err(Fault::internal(format!("failed calling webhook {name:?}: {why}")));
        }
        Err(why) => {
            tracing::debug!(webhook = name, error = why, "a webhook failed and is passed over");
            return Ok(None);
        }
    };
    for w in list(&response, "warnings").iter().filter_map(Value::as_str) {
        q.call.warn(w);
    }
    if response["allowed"] == json!(true) {
        Ok(Some(response))
    } else {
        Err(denied(name, &response["status"]))
    }
}

/// Reasons that a webhook may give for its refusal.
const REASONS: [&str; 12] = [
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "InternalError",
];

fn denied(name: &str, status: &Value) -> Fault {
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (text(status, "message"), text(status, "reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status["code"]
        .as_u64()
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| (400..600).contains(c));
    let reason =
        REASONS.iter().find(|r| **r == text(status, "reason")).copied().unwrap_or_default();
    Fault {
        code: code.unwrap_or(400),
        reason,
        message,
        details: Some(Details::default()),
        next: None,
    }
}
