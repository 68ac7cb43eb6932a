//! The authority's certificate, by which pods trust the API server, in every namespace.

use crate::accounts::tolerate;
use crate::object::{is_deleting, meta};
use crate::run::{Context, Loop, Next};
use crate::world::{Before, Key, World};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::resources::{CONFIGMAPS, NAMESPACES};
use wharf_client::{At, Change, Write};
use wharf_kube::status::Fault;

/// The name of the ConfigMap.
pub const NAME: &str = "kube-root-ca.crt";

const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The loop; its keys are namespaces.
pub struct Roots {
    data: Value,
}

impl Roots {
    /// Hands out `root`, in PEM.
    pub fn new(root: String) -> Roots {
        Roots { data: json!({"ca.crt": root}) }
    }
}

impl Loop for Roots {
    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn wake(&self, _: &World, change: &Change, _: &Before) -> Vec<Key> {
        match &*change.resource {
            r if *r == NAMESPACES && !change.gone => vec![Key::of(&change.object)],
            r if *r == CONFIGMAPS && meta(&change.object, "name") == NAME => {
                vec![Key::new("", meta(&change.object, "namespace"))]
            }
            _ => Vec::new(),
        }
    }

    fn step<'a>(&'a self, cx: &'a Context, key: &'a Key) -> BoxFuture<'a, Result<Next, Fault>> {
        Box::pin(async move {
            let ns = key.name.as_str();
            if cx.world.get(&NAMESPACES, key).is_none_or(|n| is_deleting(&n)) {
                return Ok(Next::Change);
            }
            match cx.world.get(&CONFIGMAPS, &Key::new(ns, NAME)) {
                None => {
                    let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": {"name": NAME, "namespace": ns,
                            "annotations": {"kubernetes.io/description": DESCRIPTION}},
                        "data": self.data});
                    tolerate(cx.create(&CONFIGMAPS, ns, config).await.map(drop))?;
                }
                // Whoever changed the certificate gets it back as it is.
                Some(c) if c["data"] != self.data && !is_deleting(&c) => {
                    let mut config = (*c).clone();
                    config["data"] = self.data.clone();
                    let at = At { resource: &CONFIGMAPS, namespace: ns, name: NAME };
                    tolerate(cx.write(at, None, Write::Replace(config)).await.map(drop))?;
                }
                Some(_) => {}
            }
            Ok(Next::Change)
        })
    }
}
