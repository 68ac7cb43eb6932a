//! Tokens in Secrets: those of type `kubernetes.io/service-account-token`, which somebody asked for by hand.

use crate::object::{is_deleting, meta};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{SECRETS, SERVICE_ACCOUNTS};
use wharf_client::{At, Change, Deletion, Write};
use wharf_kube::status::Fault;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The loop; its keys are Secrets.
pub struct AccountTokens {
    root: String,
}

impl AccountTokens {
    /// Puts `root`, in PEM, beside each token.
    pub fn new(root: &str) -> AccountTokens {
        AccountTokens { root: STANDARD.encode(root) }
    }
}

fn is_token(secret: &Value) -> bool {
    secret["type"] == TYPE
}

fn account(secret: &Value) -> &str {
    secret["metadata"]["annotations"][NAME].as_str().unwrap_or_default()
}

impl Loop for AccountTokens {
    fn name(&self) -> &'static str {
        "tokens-controller"
    }

    fn user(&self) -> String {
        // As the reference server has it: no role of its own lets anybody write tokens.
        "system:kube-controller-manager".to_owned()
    }

    fn wake(&self, world: &World, change: &Change, _: &Before) -> Vec<Key> {
        let o = &change.object;
        match &*change.resource {
            r if *r == SECRETS && !change.gone && is_token(o) => vec![Key::of(o)],
            r if *r == SERVICE_ACCOUNTS => {
                let own = |s: &&wharf_client::Object| is_token(s) && account(s) == meta(o, "name");
                let all = world.inside(&SECRETS, meta(o, "namespace"));
                all.iter().filter(own).map(|s| Key::of(s)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let secret = cx.world.get(&SECRETS, key).filter(|s| is_token(s) && !is_deleting(s));
            let Some(secret) = secret else { return Ok(Next::Change) };
            let at = At { resource: &SECRETS, namespace: &key.namespace, name: &key.name };
            let owner =
                cx.world.get(&SERVICE_ACCOUNTS, &Key::new(&*key.namespace, account(&secret)));
            let wanted = secret["metadata"]["annotations"][UID].as_str();
            let owner = owner.filter(|o| wanted.is_none_or(|uid| uid == meta(o, "uid")));
            let Some(owner) = owner else {
                // A token of nobody is worth nothing.
                let uid = Some(meta(&secret, "uid").to_owned());
                cx.delete(at, Deletion { uid, ..Deletion::default() }).await?;
                return Ok(Next::Change);
            };
            if let Some(next) = self.filled(cx, &secret, &owner) {
                cx.write(at, None, Write::Replace(next)).await?;
            }
            Ok(Next::Change)
        })
    }
}

impl AccountTokens {
    /// The Secret with what it lacks; nothing where it lacks nothing.
    fn filled(&self, cx: &Context, secret: &Value, owner: &Value) -> Option<Value> {
        let (ns, name) = (meta(owner, "namespace"), meta(owner, "name"));
        let mut next = secret.clone();
        next["metadata"]["annotations"][UID] = json!(meta(owner, "uid"));
        if next["data"].get("ca.crt").is_none_or(|c| *c != self.root) {
            next["data"]["ca.crt"] = json!(self.root);
        }
        if next["data"].get("namespace").is_none() {
            next["data"]["namespace"] = json!(STANDARD.encode(ns));
        }
        if next["data"].get("token").is_none() {
            let claims = json!({"sub": format!("system:serviceaccount:{ns}:{name}"),
                "kubernetes.io/serviceaccount/namespace": ns,
                "kubernetes.io/serviceaccount/secret.name": meta(secret, "name"),
                "kubernetes.io/serviceaccount/service-account.name": name,
                "kubernetes.io/serviceaccount/service-account.uid": meta(owner, "uid")});
            next["data"]["token"] = json!(STANDARD.encode(cx.account_token(&claims)?));
        }
        (next != *secret).then_some(next)
    }
}
