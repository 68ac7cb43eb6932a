//! The result of a build, before anything is made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use wharf_image::{ByteStream, Image, ImageStore, Layer, Lease, Parts, Passing, Repack};
use wharf_spec::image::ImageConfig;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;
use wharf_sys::root::Root;

use crate::cache::Cache;
use crate::context::{Context, ContextError, Tree, Want};
use crate::copy::blocking;
use crate::error::BuildError;
use crate::export::Line;
use crate::files::{self, Attributes, Select, Target};
use crate::material::Material;
use crate::mounts::Wanted;
use crate::scratch::Scratch;

/// What a build gave. Its layers stay until it is dropped.
pub struct Built {
    pub(crate) store: ImageStore,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Layer>,
    pub(crate) leases: Vec<Arc<Lease>>,
    /// What can be exported as cache: the result's own line first.
    pub(crate) lines: Vec<Line>,
    /// The cache mounts that it used.
    pub(crate) mounts: Vec<Wanted>,
    pub(crate) materials: Vec<Material>,
    pub(crate) cache: Arc<Cache>,
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

    /// What it was made of that came from elsewhere.
    pub fn materials(&self) -> &[Material] {
        &self.materials
    }

    /// What it runs on.
    pub fn platform(&self) -> Platform {
        self.config.platform()
    }

    /// Makes it an image of the store, with these names; without names it is dangling. Blocks.
    pub fn store(&self, names: &[Reference]) -> Result<Image, BuildError> {
        self.annotated(names, BTreeMap::new(), None)
    }

    /// The same with annotations of its manifest, and with layers packed anew. Blocks.
    pub fn annotated(
        &self,
        names: &[Reference],
        annotations: BTreeMap<String, String>,
        repack: Option<Repack>,
    ) -> Result<Image, BuildError> {
        let (parts, _leases) = self.parts(names, annotations, repack)?;
        Ok(self.store.assemble_with(parts)?)
    }

    /// Makes it an image without a name for as long as it takes to send it. Blocks.
    pub fn pass(
        &self,
        annotations: BTreeMap<String, String>,
        repack: Option<Repack>,
    ) -> Result<Passing, BuildError> {
        let (parts, _leases) = self.parts(&[], annotations, repack)?;
        Ok(self.store.assemble_passing(parts)?)
    }

    fn parts(
        &self,
        names: &[Reference],
        annotations: BTreeMap<String, String>,
        repack: Option<Repack>,
    ) -> Result<(Parts, Vec<Lease>), BuildError> {
        let (layers, leases) = repacked(&self.store, &self.layers, repack)?;
        let (config, names) = (self.config.clone(), names.to_vec());
        Ok((Parts { config, layers, names, annotations }, leases))
    }

    /// Its files, read-only, as one tree that no mount table shows and that vanishes when it is dropped.
    pub fn tree(&self) -> Result<Root, BuildError> {
        crate::layers::merged(&self.store, &self.layers)
    }

    /// Its files as the context of another build: a linked target of bake that is the main context.
    pub fn context(self: &Arc<Self>) -> Arc<dyn Context> {
        Arc::new(Whole { built: self.clone(), tree: OnceCell::new() })
    }

    /// Its files in one directory of this host: those of its only layer, or a copy of all. Blocks.
    fn directory(self: &Arc<Self>) -> Result<Tree, BuildError> {
        let failed = || BuildError::io("open the files of another build");
        if let [_] = &self.layers[..]
            && let [dir] = &self.store.layer_dirs(&self.layers)[..]
        {
            return Tree::new(dir.clone(), self.clone()).map_err(failed());
        }
        let scratch = Scratch::new(&self.store)?;
        if !self.layers.is_empty() {
            let (from, root) = (self.tree()?, Root::open(scratch.upper()).map_err(failed())?);
            let target = Target { root: &root, dest: "/".into(), is_dir: true };
            for selection in files::select(&from, ".", &Select::default())? {
                files::copy(&from, &selection, &target, &Attributes::default())?;
            }
        }
        Tree::new(scratch.upper().to_owned(), scratch).map_err(failed())
    }

    /// Its files as a tar (`--output type=tar`).
    pub fn tar(&self) -> Result<ByteStream, BuildError> {
        Ok(wharf_image::root_tar(self.tree()?))
    }
}

/// Layers packed as wanted, and what keeps those that are new. Blocks.
pub(crate) fn repacked(
    store: &ImageStore,
    layers: &[Layer],
    how: Option<Repack>,
) -> Result<(Vec<Layer>, Vec<Lease>), BuildError> {
    let Some(how) = how else { return Ok((layers.to_vec(), Vec::new())) };
    let (mut out, mut leases) = (Vec::new(), Vec::new());
    for layer in layers {
        let (packed, lease) = store.repack(layer, how)?;
        out.push(packed);
        leases.push(lease);
    }
    Ok((out, leases))
}

/// All files of a build's result, put into one directory when they are first wanted.
struct Whole {
    built: Arc<Built>,
    tree: OnceCell<Tree>,
}

impl Context for Whole {
    fn fetch<'a>(&'a self, _want: &'a Want) -> BoxFuture<'a, Result<Tree, ContextError>> {
        Box::pin(async move {
            let made = self.tree.get_or_try_init(|| {
                let built = self.built.clone();
                blocking(move || built.directory())
            });
            let said = |e| ContextError::Source(wharf_base::error::chain(&e).to_string());
            made.await.cloned().map_err(said)
        })
    }
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}
