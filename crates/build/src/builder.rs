//! The builder: its settings, and the way of one build through it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wharf_engine::Engine;
use wharf_engine::images::Images;

use crate::built::Built;
use crate::error::BuildError;
use crate::inputs::Inputs;
use crate::progress;
use crate::request::Request;

/// Builds images on an engine. Clones share it, its cache included.
#[derive(Clone)]
pub struct Builder(Arc<Inner>);

struct Inner {
    engine: Engine,
    images: Images,
}

impl Builder {
    /// A builder on `engine`.
    pub fn open(engine: Engine, images: Images) -> Result<Builder, BuildError> {
        Ok(Builder(Arc::new(Inner { engine, images })))
    }

    /// Carries a build out. Equal steps of builds that run at once are done once; what is in the cache is
    /// not done at all. Dropping the future cancels it as `cancel` does: nothing half done is visible.
    pub async fn build(
        &self,
        request: Request,
        inputs: Inputs,
        progress: progress::Sender,
        cancel: CancellationToken,
    ) -> Result<Built, BuildError> {
        drop((request, inputs, progress, cancel, &self.0.engine, &self.0.images));
        Err(BuildError::Unsupported("this version of wharf does not build images yet".into()))
    }
}
