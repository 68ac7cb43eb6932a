//! What is said about an image beside it: a manifest of documents in the same index, there only to be sent.

use std::sync::Arc;

use bytes::Bytes;
use wharf_spec::digest::Digest;
use wharf_spec::image::Descriptor;

use crate::lease::Lease;
use crate::push::PushError;
use crate::registry::{Begun, Blob, Remote};
use crate::{ImageStore, StoreError};

/// A manifest and its documents.
#[derive(Debug, Clone)]
pub struct Attached {
    /// As the index lists it.
    pub manifest: Descriptor,
    kept: Arc<Kept>,
}

/// Blobs that go when this is dropped, unless somebody else needs them.
struct Kept {
    store: ImageStore,
    digests: Vec<Digest>,
    /// Until they go.
    lease: Option<Lease>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kept").field(&self.digests).finish()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.lease = None;
        let mut index = self.store.0.index.lock();
        if let Err(error) = self.store.0.collect(&mut index, self.digests.drain(..)) {
            let error = wharf_base::error::chain(&error).to_string();
            tracing::debug!(error, "documents that were sent stay");
        }
    }
}

impl ImageStore {
    /// Keeps a manifest, which `listed` describes, and the documents that it names for as long as it takes to send
    /// them. Blocks.
    pub fn attach(
        &self,
        listed: Descriptor,
        manifest: &[u8],
        documents: &[Vec<u8>],
    ) -> Result<Attached, StoreError> {
        let all: Vec<&[u8]> = documents.iter().map(Vec::as_slice).chain([manifest]).collect();
        let digests: Vec<Digest> = all.iter().map(|bytes| Digest::sha256(bytes)).collect();
        let lease = Some(self.0.leases.take(digests.clone()));
        let kept = Kept { store: self.clone(), digests, lease };
        for bytes in all {
            self.0.blobs.put(bytes)?;
        }
        Ok(Attached { manifest: listed, kept: Arc::new(kept) })
    }
}

impl Attached {
    /// Its blobs, the manifest last.
    pub fn blobs(&self) -> &[Digest] {
        &self.kept.digests
    }

    /// Sends it; the registry knows it by its digest.
    pub(crate) async fn push(&self, remote: &Remote<'_>) -> Result<(), PushError> {
        let store = &self.kept.store;
        let (manifest, documents) = match self.blobs() {
            [documents @ .., manifest] => (manifest, documents),
            [] => return Ok(()),
        };
        for digest in documents {
            if remote.has_blob(digest).await? {
                continue;
            }
            let file = Arc::new(store.0.blobs.file(digest)?);
            let size = store.0.blobs.size(digest).unwrap_or(0);
            if let Begun::Session(session) = remote.begin(digest, None, "").await? {
                let blob = Blob { digest, size, file, tell: &|_| () };
                remote.send_blob(session, &blob).await?;
            }
        }
        let bytes = Bytes::from(store.0.blobs.read(manifest)?);
        remote.put_manifest(&manifest.to_string(), &self.manifest.media_type, bytes).await?;
        Ok(())
    }
}
