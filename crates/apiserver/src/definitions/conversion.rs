//! How an object of a custom resource gets from one version to another.

use super::Custom;
use crate::api::{Api, meta};
use serde_json::{Value, json};
use std::time::Duration;
use wharf_kube::status::Fault;

/// What a definition says about conversion.
#[derive(Debug)]
pub enum Conversion {
    /// Versions differ in their name only.
    None,
    /// Somebody else converts.
    Webhook {
        /// How they are reached.
        config: Value,
        /// The version of reviews that they read: the first that this server knows.
        review: String,
    },
}

/// How long a conversion may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Conversion {
    /// Reads `spec.conversion`.
    pub fn of(v: &Value) -> Conversion {
        match v["strategy"].as_str() {
            Some("Webhook") => {
                let webhook = &v["webhook"];
                let reads = webhook["conversionReviewVersions"].as_array();
                let mut reads = reads.into_iter().flatten().filter_map(Value::as_str);
                let review = reads.find(|v| matches!(*v, "v1" | "v1beta1")).unwrap_or("v1");
                let config = webhook["clientConfig"].clone();
                Conversion::Webhook { config, review: format!("apiextensions.k8s.io/{review}") }
            }
            _ => Conversion::None,
        }
    }
}

fn version(v: &Value) -> &str {
    v.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

impl Api {
    /// Objects in another version. Dropping the future asks nobody any more.
    pub(crate) async fn converted(
        &self,
        custom: &Custom,
        to: &str,
        mut all: Vec<Value>,
    ) -> Result<Vec<Value>, Fault> {
        match &custom.conversion {
            Conversion::None => {
                for v in all.iter_mut().filter(|v| version(v) != to) {
                    v["apiVersion"] = json!(to);
                }
                Ok(all)
            }
            Conversion::Webhook { config, review } => {
                let places: Vec<usize> =
                    (0..all.len()).filter(|i| version(&all[*i]) != to).collect();
                if places.is_empty() {
                    return Ok(all);
                }
                let old: Vec<Value> = places.iter().map(|i| all[*i].clone()).collect();
                let new = self.ask(custom, (config, review), to, &old).await?;
                for (i, v) in places.into_iter().zip(new) {
                    all[i] = v;
                }
                Ok(all)
            }
        }
    }

    async fn ask(
        &self,
        custom: &Custom,
        (config, review): (&Value, &str),
        to: &str,
        old: &[Value],
    ) -> Result<Vec<Value>, Fault> {
        let first = old.first().map(version).unwrap_or_default();
        let failed = |why: String| {
            Fault::internal(format!(
                "conversion webhook for {first}, Kind={} failed: {why}",
                old.first().and_then(|v| v["kind"].as_str()).unwrap_or_default()
            ))
        };
        let uid = crate::random::uid();
        let review = json!({"kind": "ConversionReview", "apiVersion": review,
            "request": {"uid": uid, "desiredAPIVersion": to, "objects": old}});
        let answer = crate::webhook::call(self, config, &review, PATIENCE)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let response = &answer["response"];
        if response["uid"] != json!(uid) {
            return Err(failed(format!("expected response.uid={uid:?}, got {}", response["uid"])));
        }
        if response["result"]["status"] != "Success" {
            let why = response["result"]["message"].as_str().unwrap_or("no reason was given");
            return Err(failed(why.to_owned()));
        }
        let new = response["convertedObjects"].as_array().cloned().unwrap_or_default();
        if new.len() != old.len() {
            return Err(failed(format!(
                "webhook returned {} objects, expected {}",
                new.len(),
                old.len()
            )));
        }
        old.iter()
            .zip(new)
            .map(|(old, new)| checked(custom, to, old, new).map_err(&failed))
            .collect()
    }
}

/// A conversion may change labels and annotations, and of the rest of the metadata nothing.
fn checked(_custom: &Custom, to: &str, old: &Value, mut new: Value) -> Result<Value, String> {
    if version(&new) != to {
        return Err(format!(
            "webhook returned object with wrong apiVersion, expected {to}, got {}",
            version(&new)
        ));
    }
    if new["kind"] != old["kind"] {
        return Err(format!(
            "webhook returned object with kind {}, expected {}",
            new["kind"], old["kind"]
        ));
    }
    for field in ["name", "namespace", "uid"] {
        if meta(&new, field) != meta(old, field) {
            return Err(format!(
                "must have the same {field}: {} != {}",
                meta(&new, field),
                meta(old, field)
            ));
        }
    }
    let mut metadata = old["metadata"].clone();
    for field in ["labels", "annotations"] {
        match new["metadata"].get(field).filter(|v| !v.is_null()) {
            Some(v) => metadata[field] = v.clone(),
            None => {
                if let Some(m) = metadata.as_object_mut() {
                    m.shift_remove(field);
                }
            }
        }
    }
    new["metadata"] = metadata;
    Ok(new)
}
