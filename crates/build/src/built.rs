//! The result of a build, before anything is made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_image::{ByteStream, Image, ImageStore, Layer, Lease, Parts, Passing};
use wharf_spec::image::ImageConfig;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;
use wharf_sys::root::Root;

use crate::error::BuildError;

/// What a build gave. Its layers stay until it is dropped.
pub struct Built {
    pub(crate) store: ImageStore,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Layer>,
    pub(crate) leases: Vec<Arc<Lease>>,
}

impl Built {
    /// The image config, complete: with history and diff ids.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its layers, base first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What it runs on.
    pub fn platform(&self) -> Platform {
        self.config.platform()
    }

    /// Makes it an image of the store, with these names; without names it is dangling. Blocks.
    pub fn store(&self, names: &[Reference]) -> Result<Image, BuildError> {
        self.annotated(names, BTreeMap::new())
    }

    /// The same with annotations of its manifest. Blocks.
    pub fn annotated(
        &self,
        names: &[Reference],
        annotations: BTreeMap<String, String>,
    ) -> Result<Image, BuildError> {
        Ok(self.store.assemble_with(self.parts(names, annotations))?)
    }

    /// Makes it an image without a name for as long as it takes to send it. Blocks.
    pub fn pass(&self, annotations: BTreeMap<String, String>) -> Result<Passing, BuildError> {
        Ok(self.store.assemble_passing(self.parts(&[], annotations))?)
    }

    fn parts(&self, names: &[Reference], annotations: BTreeMap<String, String>) -> Parts {
        let (config, layers) = (self.config.clone(), self.layers.clone());
        Parts { config, layers, names: names.to_vec(), annotations }
    }

    /// Its files, read-only, as one tree that no mount table shows and that vanishes when it is dropped.
    pub fn tree(&self) -> Result<Root, BuildError> {
        crate::layers::merged(&self.store, &self.layers)
    }

    /// Its files as a tar (`--output type=tar`).
    pub fn tar(&self) -> Result<ByteStream, BuildError> {
        Ok(wharf_image::root_tar(self.tree()?))
    }
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}
