//! The threads of a store: the one that commits, and the one that copies.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::copy::Copy;
use super::{SLICE, Shared, closed};
use crate::checkpoint;
use crate::core::{Batch, Outline};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::log::{Append, Log, LogError, io_error};
use crate::recover;

/// A log shorter than this is not worth a checkpoint; it is read back in less than a second.
const LOG_MIN: u64 = 64 << 20;

/// How long the disk is left alone after it refused a write.
const RETRY: Duration = Duration::from_secs(1);

impl Shared {
    /// The thread: commits batches, ends leases, drops compacted versions; sleeps when there is nothing.
    pub(super) fn work(self: &Arc<Shared>, mut vault: Option<Vault>) {
        loop {
            let mut state = self.state.write();
            let due = state.core.tick(self.clock.instant());
            let Some(batch) = state.core.take_batch() else {
                let idle = self.copying.load(Ordering::Acquire) == 0;
                if idle && state.core.prune(SLICE) {
                    continue;
                }
                // Nothing is staged, so the outline is that of what is durable.
                let outline = state.core.outline();
                drop(state);
                if self.closing.load(Ordering::Acquire) {
                    break;
                }
                if idle {
                    self.grant_wishes(vault.as_mut(), outline);
                }
                self.bell.wait(due.map(|d| d.saturating_duration_since(self.clock.instant())));
                continue;
            };
            // Now, because it must tell of this batch and of nothing behind it.
            let outline =
                vault.as_ref().is_some_and(|v| v.is_full(self)).then(|| state.core.outline());
            drop(state);
            if let Some(vault) = &mut vault
                && !self.commit(vault, &batch)
            {
                break;
            }
            self.settle(self.state.write(), &batch);
            if let (Some(vault), Some(outline)) = (&mut vault, outline) {
                vault.begin_checkpoint(self, outline, Vec::new());
            }
        }
        self.hub.lock().close();
        self.answer(u64::MAX, &Err(closed()));
        drop(vault);
    }

    /// Does what was asked for besides writes. No copy is being made and nothing is left to drop.
    fn grant_wishes(self: &Arc<Shared>, vault: Option<&mut Vault>, outline: Outline) {
        let wishes = std::mem::take(&mut *self.wishes.lock());
        // Callers that have gone away do not want to know.
        wishes.pruned.into_iter().for_each(|waiter| waiter.send(()).unwrap_or_default());
        if wishes.copied.is_empty() {
            return;
        }
        match vault {
            Some(vault) => vault.begin_checkpoint(self, outline, wishes.copied),
            // Without a disk there is nothing to rewrite.
            None => tell(wishes.copied, &Ok(())),
        }
    }

    /// Writes a batch, again and again while the disk refuses; `false` if the store is to end first.
    fn commit(&self, vault: &mut Vault, batch: &Batch) -> bool {
        if batch.bytes.is_empty() {
            return true;
        }
        loop {
            let (why, final_) = match vault.log.append(&batch.bytes) {
                Ok(()) => break,
                Err(Append::Refused(why)) => (why, false),
                Err(Append::Unknown(why)) => (why, true),
            };
            self.stall(&why.to_string());
            // After a failed sync the kernel may have dropped the pages, and a second sync would say that all
            // is well: nothing is written any more until the store has been opened again.
            let patience = if final_ { None } else { Some(RETRY) };
            loop {
                self.bell.wait(patience);
                if self.closing.load(Ordering::Acquire) {
                    return false;
                }
                if !final_ {
                    break;
                }
            }
        }
        true
    }

    /// Turns writers away, those who wait included.
    fn stall(&self, why: &str) {
        let mut state = self.state.write();
        if state.stalled.is_none() {
            tracing::error!(why, "the store's disk does not take writes");
        }
        state.stalled = Some(why.to_owned());
        self.answer(u64::MAX, &Err(StoreError::Disk { reason: why.to_owned() }));
    }
}

/// The files of a store, in the hands of the thread that commits.
pub(super) struct Vault {
    disk: Arc<dyn Disk>,
    log: Log,
    checkpoint_size: u64,
    copier: Option<JoinHandle<()>>,
    log_min: u64,
}

impl Vault {
    pub(super) fn new(disk: Arc<dyn Disk>, log: Log) -> Vault {
        Vault { disk, log, checkpoint_size: 0, copier: None, log_min: LOG_MIN }
    }

    /// Whether the log has outgrown the state that it leads to, and nobody copies that already.
    fn is_full(&self, shared: &Shared) -> bool {
        let limit = self.log_min.max(self.checkpoint_size);
        self.log.len() > limit && shared.copying.load(Ordering::Acquire) == 0
    }

    /// Goes on in a new segment, and has everything before it copied to a checkpoint.
    ///
    /// A failure is reported and otherwise harmless: the log stays as long as it is needed.
    fn begin_checkpoint(&mut self, shared: &Arc<Shared>, outline: Outline, waiters: Waiters) {
        let number = self.log.number() + 1;
        let begun = Log::create(&*self.disk, number).and_then(|log| {
            self.log = log;
            let disk = Arc::clone(&self.disk);
            let (until, weight) = {
                let state = shared.state.read();
                (state.core.visible(), state.core.weight())
            };
            self.checkpoint_size = weight;
            let copy = Copy::begin(shared);
            std::thread::Builder::new()
                .name("etcd-copy".to_owned())
                .spawn(move || {
                    let versions = copy.versions(until);
                    let saved = checkpoint::save(&*disk, number, &outline, &versions)
                        .and_then(|()| recover::forget(&*disk, number));
                    report(&saved, "no checkpoint was written");
                    tell(waiters, &outcome(&saved));
                })
                .map_err(io_error("start", "a thread"))
        });
        report(&begun, "no checkpoint was begun");
        self.copier = begun.ok();
    }
}

type Waiters = Vec<oneshot::Sender<Result<(), StoreError>>>;

fn tell(waiters: Waiters, outcome: &Result<(), StoreError>) {
    for waiter in waiters {
        // A caller that has gone away does not want to know.
        drop(waiter.send(outcome.clone()));
    }
}

fn outcome(result: &Result<(), LogError>) -> Result<(), StoreError> {
    let reason = |e| wharf_base::error::chain(e).to_string();
    result.as_ref().copied().map_err(|e| StoreError::Disk { reason: reason(e) })
}

fn report<T>(result: &Result<T, LogError>, what: &'static str) {
    if let Err(e) = result {
        let error = wharf_base::error::chain(e);
        tracing::error!(%error, "{what}");
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if let Some(copier) = self.copier.take()
            && copier.join().is_err()
        {
            tracing::error!("the thread that copies the store has panicked");
        }
    }
}
