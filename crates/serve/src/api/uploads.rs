//! Contexts that come by a request of their own, beside the request that builds them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use wharf_base::sync::Mutex;
use wharf_engine::options::ByteStream;

use crate::fault::Fault;

/// How long one of the two requests waits for the other. dockerd's value.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pairs of requests that look for each other, by the build's id.
#[derive(Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Pair>>);

struct Pair {
    give: Option<oneshot::Sender<Lent>>,
    take: Option<oneshot::Receiver<Lent>>,
}

/// A body that belongs to another request, which waits for the end of reading.
pub(super) struct Lent {
    pub(super) body: ByteStream,
    /// Kept until the body is read.
    pub(super) done: oneshot::Sender<()>,
}

impl Uploads {
    /// Lends `body` to the build `id` and waits until that has read it.
    pub(super) async fn give(&self, id: &str, body: ByteStream) -> Result<(), Fault> {
        let twice = || Fault::invalid(format!("the context of build {id} was sent before"));
        let give = self.half(id, |pair| pair.give.take()).ok_or_else(twice)?;
        let (done, mut read) = oneshot::channel();
        let gone = || Fault::invalid(format!("no build {id} asks for this context"));
        give.send(Lent { body, done }).map_err(|_| gone())?;
        if timeout(PATIENCE, &mut read).await.is_ok() {
            return Ok(());
        }
        if self.half(id, |pair| pair.take.take()).is_some() {
            self.0.lock().remove(id);
            return Err(gone());
        }
        // The end of reading, however it ends.
        drop(read.await);
        Ok(())
    }

    /// The context that another request brings for the build `id`.
    pub(super) async fn take(&self, id: &str) -> Result<Lent, Fault> {
        let take = self.half(id, |pair| pair.take.take());
        let lent = match take {
            Some(take) => timeout(PATIENCE, take).await.ok().and_then(Result::ok),
            None => None,
        };
        self.0.lock().remove(id);
        lent.ok_or_else(|| {
            Fault::invalid(format!(
                "no context came for build {id}: send it to /build?version=2&buildid=upload-request:{id}"
            ))
        })
    }

    /// One half of a pair, which whoever comes first makes.
    fn half<T>(&self, id: &str, which: impl FnOnce(&mut Pair) -> Option<T>) -> Option<T> {
        let fresh = || {
            let (give, take) = oneshot::channel();
            Pair { give: Some(give), take: Some(take) }
        };
        which(self.0.lock().entry(id.to_owned()).or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt as _;

    use super::*;

    fn body() -> ByteStream {
        Box::pin(futures_util::stream::once(async { Ok(Bytes::from_static(b"tar")) }))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_first_waits() {
        let uploads = Uploads::default();
        for builder_first in [true, false] {
            let give = uploads.give("b", body());
            let take = async {
                let mut lent = uploads.take("b").await?;
                Ok::<_, Fault>(lent.body.next().await.unwrap().unwrap())
            };
            let (given, taken) = match builder_first {
                true => {
                    let (taken, given) = tokio::join!(take, give);
                    (given, taken)
                }
                false => tokio::join!(give, take),
            };
            given.unwrap();
            assert_eq!(taken.unwrap(), "tar");
            assert!(uploads.0.lock().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let uploads = Uploads::default();
        assert!(uploads.take("b").await.err().unwrap().message().contains("upload-request:b"));
        let error = uploads.give("b", body()).await.unwrap_err();
        assert_eq!(error.message(), "no build b asks for this context");
        assert!(uploads.0.lock().is_empty());
    }
}
