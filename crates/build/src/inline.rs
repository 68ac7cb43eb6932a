//! Cache that travels inside an image: `--cache-to type=inline`, `--cache-from IMAGE`.
//!
//! The image's config lists the keys of the steps that made it, each with the number of layers that were there after
//! it. What an image claims counts for the build that named it, and is never remembered for others: an image could
//! claim anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_image::{Layer, Lease};
use wharf_spec::image::ImageConfig;

use crate::listed::There;
use crate::state::State;

/// The field of the config.
const FIELD: &str = "wharf.build.cache";

/// One step that an image remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    key: String,
    /// How many of the image's layers there were after it.
    layers: usize,
    /// Whether the last of those is its own.
    made: bool,
    created: i64,
}

/// What images bring.
#[derive(Default)]
pub(crate) struct Imported(BTreeMap<String, (Remembered, Arc<There>)>);

/// What a key gives.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) layer: Option<Layer>,
    pub(crate) created: i64,
    pub(crate) leases: Vec<Arc<Lease>>,
}

impl Remembered {
    /// A step that has just been carried out, or found.
    pub(crate) fn new(key: &str, state: &State, made: bool, created: i64) -> Remembered {
        Remembered { key: key.to_owned(), layers: state.layers.len(), made, created }
    }
}

/// The steps that a config remembers.
pub(crate) fn steps(config: &ImageConfig) -> Option<Vec<Remembered>> {
    serde_json::from_value(config.other.get(FIELD)?.clone()).ok()
}

/// Puts the steps into the config.
pub(crate) fn embed(config: &mut ImageConfig, steps: &[Remembered]) {
    if let Ok(value) = serde_json::to_value(steps) {
        config.other.insert(FIELD.into(), value);
    }
}

impl Imported {
    /// Adds what an image remembers that is here; false if it remembers nothing.
    pub(crate) fn add(&mut self, image: &Arc<State>) -> bool {
        let Some(steps) = steps(&image.config) else { return false };
        self.add_line(steps, &There::here(image.clone()));
        true
    }

    /// Adds the steps of an image that may be elsewhere.
    pub(crate) fn add_line(&mut self, steps: Vec<Remembered>, image: &Arc<There>) {
        for step in steps {
            self.0.entry(step.key.clone()).or_insert_with(|| (step, image.clone()));
        }
    }

    /// Every image that has a step, perhaps several times.
    pub(crate) fn images(&self) -> Vec<Arc<There>> {
        self.0.values().map(|(_, image)| image.clone()).collect()
    }

    /// The step `key`, and the image that has its layer.
    pub(crate) fn get(&self, key: &str) -> Option<(Remembered, Arc<There>)> {
        self.0.get(key).cloned()
    }
}

impl Remembered {
    /// What it gave, by the image that remembers it; `None` if that has not the layer which it claims.
    pub(crate) fn found(&self, image: &State) -> Option<Found> {
        let layer = match self.made {
            false => None,
            true => Some(image.layers.get(self.layers.checked_sub(1)?)?.clone()),
        };
        Some(Found { layer, created: self.created, leases: image.leases.clone() })
    }

    /// What it gave, if that needs no layer.
    pub(crate) fn empty(&self) -> Option<Found> {
        let found = Found { layer: None, created: self.created, leases: Vec::new() };
        (!self.made).then_some(found)
    }
}

/// The image that a `--cache-from` names; an error for what is no image.
pub(crate) fn source(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let field = |key: &str| {
        text.split(',').filter_map(|f| f.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
    };
    match (field("type"), field("ref")) {
        (Some("registry"), Some(image)) => Ok(image.to_owned()),
        (kind, _) => Err(format!(
            "cache-from {text}: the engine reads caches of type registry with ref=IMAGE, not of type {}: give a directory to wharf build or docker buildx build",
            kind.unwrap_or("?")
        )),
    }
}

#[cfg(test)]
mod tests {
    use wharf_spec::digest::Digest;
    use wharf_spec::platform::Platform;

    use super::*;

    #[test]
    fn sources_are_images() {
        assert_eq!(source("user/app:cache").unwrap(), "user/app:cache");
        assert_eq!(source("type=registry,ref=r/x").unwrap(), "r/x");
        assert!(source("type=local,src=x").unwrap_err().contains("local"));
    }

    #[test]
    fn what_an_image_remembers_comes_back_and_lies_are_left_out() {
        let digest = Digest::sha256(b"x");
        let layer = Layer {
            diff_id: digest.clone(),
            chain_id: digest.clone(),
            blob: digest,
            blob_size: 1,
            media_type: String::new(),
            size: 1,
        };
        let mut image = State::scratch(&Platform::host());
        let none = Remembered::new("none", &image, false, 1);
        image.layers.push(layer.clone());
        let one = Remembered::new("one", &image, true, 2);
        let lie = Remembered { layers: 9, ..one.clone() };
        let lie = Remembered { key: "lie".into(), ..lie };
        embed(&mut image.config, &[none, one, lie]);
        let mut imported = Imported::default();
        assert!(imported.add(&Arc::new(image.clone())));
        let found = |key: &str| imported.get(key).and_then(|(step, _)| step.found(&image));
        assert_eq!(found("one").unwrap().layer, Some(layer));
        assert!(found("none").unwrap().layer.is_none());
        assert!(found("lie").is_none() && found("other").is_none());
    }
}
