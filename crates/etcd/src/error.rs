//! Why a store refuses a request.

use crate::auth::AuthError;
use crate::kv::Revision;

/// What can be wrong with a request, or with the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The revision is older than what compaction has left.
    #[error("required revision has been compacted; the oldest is {oldest}")]
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The revision lies in the future.
    #[error("required revision is a future revision; the store is at {current}")]
    FutureRevision {
        /// Where the store is.
        current: Revision,
    },
    /// A key must not be empty.
    #[error("key is not provided")]
    EmptyKey,
    /// A put that keeps the value or the lease found nothing to keep.
    #[error("key not found")]
    KeyNotFound,
    /// One transaction changes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A put gives a value and asks to keep the old one.
    #[error("value is provided")]
    ValueProvided,
    /// A put gives a lease and asks to keep the old one.
    #[error("lease is provided")]
    LeaseProvided,
    /// There is no such lease, or it has expired.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease exists already.
    #[error("lease already exists")]
    LeaseExists,
    /// Longer than any lease may be.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// The request is larger than the store takes.
    #[error("request is too large")]
    TooLarge,
    /// A transaction has more operations than the store takes.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// More writes wait for the disk than the store queues.
    #[error("too many requests")]
    Busy,
    /// The store has reached its size limit; delete, compact and disarm the alarm.
    #[error("database space exceeded")]
    NoSpace,
    /// The user may not do this, or nobody knows who asks.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The disk refused a write. Whether this request happened shows when it takes writes again.
    #[error("the store's disk does not take writes: {reason}")]
    Disk {
        /// What the disk said.
        reason: String,
    },
    /// The store, or the connection to it, is gone; the request may or may not have happened.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A remote store says no in words that this wharf does not know.
    #[error("the store refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
}

impl StoreError {
    /// Whether a write that failed so may have happened all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, StoreError::Disk { .. } | StoreError::Unavailable { .. })
    }
}
