//! What users put into the path of writes: admission policies and webhooks, in the order of the reference server.

mod matching;
mod policies;
mod question;
mod webhooks;

use crate::api::{Api, Call, fault, meta};
use crate::kinds::Kind;
use crate::stored;
use matching::Rules;
use question::Question;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use wharf_etcd::{KeyRange, Range};
use wharf_kube::cel::Program;
use wharf_kube::status::Fault;

const PREFIX: &str = "/registry/admissionregistration.k8s.io/";

/// Policies and webhooks as of a moment, read and compiled.
#[derive(Debug, Default)]
pub struct Hooks {
    mutating: Vec<Hook>,
    validating: Vec<Hook>,
    mutations: Vec<Policy>,
    validations: Vec<Policy>,
    /// Whether any expression asks the authorizer: only then are the roles read for it.
    asks: bool,
}

/// A webhook.
#[derive(Debug)]
struct Hook {
    config: Value,
    rules: Rules,
    programs: HashMap<String, Program>,
}

/// A policy with its bindings.
#[derive(Debug)]
struct Policy {
    object: Value,
    rules: Rules,
    bindings: Vec<Binding>,
    programs: HashMap<String, Program>,
}

#[derive(Debug)]
struct Binding {
    object: Value,
    rules: Rules,
}

/// The kinds that no hook may get in the way of: a broken one could not be repaired.
fn is_beyond(call: &Call<'_>) -> bool {
    is_hook(call.kind)
}

/// Lets policies and webhooks change what is about to be written, in the version of the request.
pub async fn mutate(
    api: &Api,
    call: &Call<'_>,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Fault> {
    if call.inner || is_beyond(call) {
        return Ok(());
    }
    let hooks = current(api).await?;
    if hooks.mutating.is_empty() && hooks.mutations.is_empty() {
        return Ok(());
    }
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    let question = Question::new(api, call, operation, hooks.asks).await?;
    policies::mutate(&question, &hooks.mutations, object, old).await?;
    webhooks::mutate(&question, &hooks.mutating, object, old).await
}

/// Lets policies and webhooks judge a creation (`old` is none), an update, or a deletion (`new` is none).
/// Both are in the version of the request.
pub async fn validate(
    api: &Api,
    call: &Call<'_>,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Fault> {
    if call.inner || is_beyond(call) {
        return Ok(());
    }
    let hooks = current(api).await?;
    let deletes = new.is_none() && !hooks.mutating.is_empty();
    if hooks.validating.is_empty() && hooks.validations.is_empty() && !deletes {
        return Ok(());
    }
    let operation = match (new, old) {
        (Some(_), None) => "CREATE",
        (Some(_), Some(_)) => "UPDATE",
        _ => "DELETE",
    };
    let question = Question::new(api, call, operation, hooks.asks).await?;
    if deletes {
        // They may refuse; there is nothing to change.
        webhooks::judge(&question, &hooks.mutating, None, old).await?;
    }
    policies::judge(&question, &hooks.validations, new, old).await?;
    webhooks::judge(&question, &hooks.validating, new, old).await
}

/// Lets policies and webhooks change and judge what is no object of the call's own kind: what is posted below an
/// object, and the options of a stream (`CONNECT`). It says its kind itself.
pub async fn below(
    api: &Api,
    call: &Call<'_>,
    operation: &'static str,
    object: &mut Value,
) -> Result<(), Fault> {
    let hooks = current(api).await?;
    let changes = !hooks.mutating.is_empty() || !hooks.mutations.is_empty();
    if !changes && hooks.validating.is_empty() && hooks.validations.is_empty() {
        return Ok(());
    }
    let question = Question::new(api, call, operation, hooks.asks).await?.about(object);
    policies::mutate(&question, &hooks.mutations, object, None).await?;
    webhooks::mutate(&question, &hooks.mutating, object, None).await?;
    policies::judge(&question, &hooks.validations, Some(object), None).await?;
    webhooks::judge(&question, &hooks.validating, Some(object), None).await
}

/// The hooks as they were when one of them changed last.
async fn current(api: &Api) -> Result<Arc<Hooks>, Fault> {
    if let Some(kept) = api.kinds.hooks() {
        return Ok(kept);
    }
    let range = Range::new(KeyRange::prefix(PREFIX));
    let reply = api.store.range(range).await.map_err(|e| fault(&e))?;
    let hooks = Arc::new(Hooks::read(&reply.kvs.iter().map(stored::decode).collect::<Vec<_>>()));
    api.kinds.set_hooks(Some(Arc::clone(&hooks)));
    Ok(hooks)
}

/// Whether a kind is one of hooks, so that a write of it is to be followed by [`forget`].
pub fn is_hook(kind: &Kind) -> bool {
    kind.group() == "admissionregistration.k8s.io"
}

/// Lets the hooks be read again: one of them was written.
pub fn forget(api: &Api) {
    api.kinds.set_hooks(None);
}

/// Notices hooks that others write, until the process ends.
pub async fn run(api: Api) {
    let mut wake = crate::loops::bell(&api, vec![PREFIX.to_owned()]);
    while wake.changed().await.is_ok() {
        forget(&api);
    }
}

impl Hooks {
    fn read(objects: &[Value]) -> Hooks {
        let of = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).collect::<Vec<_>>();
        let webhooks = |kind: &str| -> Vec<Hook> {
            let all = of(kind).into_iter().filter_map(|o| o["webhooks"].as_array()).flatten();
            all.map(Hook::read).collect()
        };
        let policies = |kind: &str| -> Vec<Policy> {
            let bindings = of(&format!("{kind}Binding"));
            of(kind).into_iter().map(|p| Policy::read(p, &bindings)).collect()
        };
        let mut hooks = Hooks {
            mutating: webhooks("MutatingWebhookConfiguration"),
            validating: webhooks("ValidatingWebhookConfiguration"),
            mutations: policies("MutatingAdmissionPolicy"),
            validations: policies("ValidatingAdmissionPolicy"),
            asks: false,
        };
        let webhooks = hooks.mutating.iter().chain(&hooks.validating).map(|h| &h.programs);
        let policies = hooks.mutations.iter().chain(&hooks.validations).map(|p| &p.programs);
        let mut programs = webhooks.chain(policies).flat_map(|p| p.values());
        hooks.asks = programs.any(|p| p.names("authorizer"));
        hooks
    }
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Compiles every expression below a value, by its text. What does not compile was refused when it was written.
fn compile(v: &Value, out: &mut HashMap<String, Program>) {
    match v {
        Value::Object(m) => {
            for (key, v) in m {
                match v {
                    Value::String(source) if key.to_lowercase().ends_with("expression") => {
                        let declared = wharf_kube::validate::policy_names();
                        if let Ok((program, _)) = Program::compile(source, &declared) {
                            out.insert(source.clone(), program);
                        }
                    }
                    v => compile(v, out),
                }
            }
        }
        Value::Array(a) => a.iter().for_each(|v| compile(v, out)),
        _ => {}
    }
}

impl Hook {
    fn read(config: &Value) -> Hook {
        let mut programs = HashMap::new();
        compile(&config["matchConditions"], &mut programs);
        Hook { rules: Rules::of_webhook(config), config: config.clone(), programs }
    }

    fn name(&self) -> &str {
        text(&self.config, "name")
    }

    /// Whether a failure of its own refuses the request.
    fn is_strict(&self) -> bool {
        text(&self.config, "failurePolicy") != "Ignore"
    }
}

impl Policy {
    fn read(object: &Value, bindings: &[&Value]) -> Policy {
        let mut programs = HashMap::new();
        compile(&object["spec"], &mut programs);
        let name = meta(object, "name");
        let own = bindings.iter().filter(|b| b["spec"]["policyName"] == name);
        Policy {
            rules: Rules::of_policy(&object["spec"]["matchConstraints"]),
            bindings: own
                .map(|b| Binding {
                    object: (*b).clone(),
                    rules: Rules::of_policy(&b["spec"]["matchResources"]),
                })
                .collect(),
            object: object.clone(),
            programs,
        }
    }

    fn name(&self) -> &str {
        meta(&self.object, "name")
    }

    fn is_strict(&self) -> bool {
        text(&self.object["spec"], "failurePolicy") != "Ignore"
    }
}
