//! One version of one key, shared by everybody who looks at it.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroI64;
use std::sync::Arc;

/// A point in the store's history. Every transaction that changes something takes the next one.
///
/// A fresh store is at revision 1; nothing has revision 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a lease; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub NonZeroI64);

impl LeaseId {
    /// The lease of a wire value, in which 0 means none.
    pub fn from_wire(id: i64) -> Option<LeaseId> {
        NonZeroI64::new(id).map(LeaseId)
    }

    /// The wire value of `lease`, in which 0 means none.
    pub fn to_wire(lease: Option<LeaseId>) -> i64 {
        lease.map_or(0, |l| l.0.get())
    }
}

impl fmt::Display for LeaseId {
    /// Sixteen hexadecimal digits, as etcdctl prints leases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.get())
    }
}

/// One version of a key. Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq)]
pub struct Kv(Arc<Item>);

/// Key and value share one allocation: at a million keys each saved header is 16 MB.
#[derive(PartialEq, Eq)]
struct Item {
    create: i64,
    modified: i64,
    /// 0 marks a deletion.
    version: i64,
    lease: i64,
    /// Position among the changes of the same revision.
    sub: u32,
    /// Where the value begins in `bytes`.
    split: u32,
    bytes: Box<[u8]>,
}

/// The numbers that come with a version of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) create: Revision,
    pub(crate) modified: Revision,
    pub(crate) sub: u32,
    pub(crate) version: i64,
    pub(crate) lease: Option<LeaseId>,
}

impl Kv {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.0.bytes[..self.split()]
    }

    /// The value; empty where only keys were asked for.
    pub fn value(&self) -> &[u8] {
        &self.0.bytes[self.split()..]
    }

    /// The revision that created the key.
    pub fn create_revision(&self) -> Revision {
        Revision(self.0.create)
    }

    /// The revision of this version.
    pub fn mod_revision(&self) -> Revision {
        Revision(self.0.modified)
    }

    /// How many times the key was written since its creation; 1 for the first version.
    pub fn version(&self) -> i64 {
        self.0.version
    }

    /// The lease that this version is attached to.
    pub fn lease(&self) -> Option<LeaseId> {
        LeaseId::from_wire(self.0.lease)
    }

    /// A version of `key` with its numbers.
    ///
    /// Keys longer than 4 GiB cannot exist: requests are bounded far below that.
    pub(crate) fn new(key: &[u8], value: &[u8], stamp: Stamp) -> Kv {
        let mut bytes = Vec::with_capacity(key.len() + value.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        Kv(Arc::new(Item {
            create: stamp.create.0,
            modified: stamp.modified.0,
            version: stamp.version,
            lease: LeaseId::to_wire(stamp.lease),
            sub: stamp.sub,
            split: u32::try_from(key.len()).unwrap_or(u32::MAX),
            bytes: bytes.into_boxed_slice(),
        }))
    }

    /// The mark that `key` was deleted at `modified`.
    pub(crate) fn tombstone(key: &[u8], modified: Revision, sub: u32) -> Kv {
        Kv::new(key, &[], Stamp { create: Revision(0), modified, sub, version: 0, lease: None })
    }

    /// The same version without its value.
    pub(crate) fn without_value(&self) -> Kv {
        Kv::new(self.key(), &[], self.stamp())
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            create: self.create_revision(),
            modified: self.mod_revision(),
            sub: self.0.sub,
            version: self.0.version,
            lease: self.lease(),
        }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.0.version == 0
    }

    /// Position among the changes of its revision.
    pub(crate) fn sub(&self) -> u32 {
        self.0.sub
    }

    /// Orders versions by the time they were written.
    pub(crate) fn by_time(&self, other: &Kv) -> Ordering {
        (self.0.modified, self.0.sub).cmp(&(other.0.modified, other.0.sub))
    }

    /// What this version costs in memory.
    pub(crate) fn weight(&self) -> u64 {
        (self.0.bytes.len() + size_of::<Item>() + 2 * size_of::<usize>()) as u64
    }

    fn split(&self) -> usize {
        self.0.split as usize
    }
}

impl fmt::Debug for Kv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, modified) = (self.key().escape_ascii(), self.0.modified);
        match self.is_tombstone() {
            true => write!(f, "{key}@{modified} deleted"),
            false => write!(f, "{key}@{modified} v{} {}B", self.0.version, self.value().len()),
        }
    }
}
