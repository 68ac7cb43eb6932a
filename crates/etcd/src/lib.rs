//! The cluster's store: one revision over all keys, transactions, leases and watches.
//!
//! [`Store`] is what the API server stands on. [`Embedded`] keeps it in this process and on this machine's
//! disk; [`Remote`] in an etcd cluster. [`Door`] serves an embedded store to etcd's clients.
//!
//! ```text
//! Embedded   waits, wakes, owns the threads
//!    │ requests           ▲ replies, events
//! Core ── decides: revisions, compares, leases, compaction; no disk, no clock, no waiting
//!    │ batches            ▲ what is durable
//! Log ── frames, checksums, recovery ── Disk ── files, or a simulation that crashes
//! ```
#![forbid(unsafe_code)]

mod auth;
mod autocompact;
mod bolt;
mod checkpoint;
mod core;
mod disk;
mod door;
mod embedded;
mod error;
mod hub;
mod kv;
mod log;
mod mirror;
mod pair;
mod proto;
mod range;
mod recover;
mod remote;
mod restore;
#[cfg(test)]
mod sim;
mod store;
#[cfg(test)]
mod trials;
mod watch;
mod wire;

pub use auth::AuthError;
pub use autocompact::{Retention, run as compact_by_itself};
pub use door::{Door, Member, ServeError, Tls, Users, VERSION};
pub use embedded::{Embedded, Hash, Settings, Status};
pub use error::StoreError;
pub use kv::{Kv, LeaseId, Revision};
pub use log::LogError;
pub use mirror::Mirror;
pub use range::KeyRange;
pub use remote::{Cluster, Remote};
pub use restore::{inspect, restore};
pub use store::{
    Compare, Delete, Deleted, Lease, LeaseRequest, Op, OpReply, Put, Range, RangeReply, Relation,
    Store, Target, Txn, TxnReply, WatchRequest,
};
pub use watch::{Event, EventKind, Watch, WatchItem, WatchSource};
