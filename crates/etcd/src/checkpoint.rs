//! A whole state in one file: the start of the log's replay, and etcd's snapshot.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::auth::{Auth, Row};
use crate::bolt::{self, Bolt, BoltError, Bucket, Rows};
use crate::core::{Core, Outline};
use crate::disk::{Disk, DiskFile};
use crate::kv::{Kv, LeaseId, Revision};
use crate::log::{LogError, io_error};
use crate::pair;
use crate::proto::authpb;

/// Bytes of the checksum behind the database.
pub(crate) const TRAILER: usize = 32;

/// What is written or read at once.
const CHUNK: usize = 1 << 20;

/// Etcd's buckets that this store has no use for; etcd expects them to exist.
const EMPTY: [&str; 4] = ["alarm", "cluster", "members", "members_removed"];

/// Etcd's keys of whether users are asked for, and of how often they changed.
const AUTH_ENABLED: &[u8] = b"authEnabled";
const AUTH_REVISION: &[u8] = b"authRevision";

/// What etcd does not know.
const OWN: &str = "wharf";

/// The name of the checkpoint that comes before segment `number`.
pub(crate) fn name(number: u64) -> String {
    format!("checkpoint-{number:016x}")
}

/// The number of a checkpoint of that name.
pub(crate) fn number(file: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_prefix("checkpoint-")?, 16).ok().filter(|n| name(*n) == file)
}

/// Writes a state: `versions` are all of them, in the order of time. A checksum follows.
pub(crate) fn write(outline: &Outline, versions: &[Kv], to: &mut dyn Write) -> io::Result<()> {
    let mut to = Summed { to, sum: Sha256::new() };
    let compacted = pair::revision_key(outline.compacted, 0);
    let meta = Pairs(vec![
        (b"consistent_index".to_vec(), 1u64.to_be_bytes().to_vec()),
        (b"finishedCompactRev".to_vec(), compacted.clone()),
        (b"scheduledCompactRev".to_vec(), compacted),
        (b"term".to_vec(), 1u64.to_be_bytes().to_vec()),
    ]);
    let lease =
        |(id, ttl): &(LeaseId, i64)| (id.0.get().to_be_bytes().to_vec(), pair::lease(*id, *ttl));
    let mut leases: Vec<_> = outline.leases.iter().map(lease).collect();
    leases.sort_unstable();
    let own = Pairs(vec![
        (b"alarm".to_vec(), vec![u8::from(outline.alarm)]),
        (b"head".to_vec(), outline.head.0.to_be_bytes().to_vec()),
    ]);
    let [auth, roles, users] = auth_rows(&outline.auth);
    let (keys, leases, none) = (Versions(versions), Pairs(leases), Pairs(Vec::new()));
    let mut buckets: Vec<_> = EMPTY.iter().map(|name| Bucket { name, rows: &none }).collect();
    buckets.push(Bucket { name: "auth", rows: &auth });
    buckets.push(Bucket { name: "authRoles", rows: &roles });
    buckets.push(Bucket { name: "authUsers", rows: &users });
    buckets.push(Bucket { name: "key", rows: &keys });
    buckets.push(Bucket { name: "lease", rows: &leases });
    buckets.push(Bucket { name: "meta", rows: &meta });
    buckets.push(Bucket { name: OWN, rows: &own });
    buckets.sort_unstable_by_key(|b| b.name);
    bolt::write(&buckets, &mut to)?;
    let sum = to.sum.finalize();
    to.to.write_all(&sum)
}

/// Users and roles as etcd's buckets have them.
fn auth_rows(auth: &Auth) -> [Pairs; 3] {
    let state = vec![
        (AUTH_ENABLED.to_vec(), vec![u8::from(auth.is_enabled())]),
        (AUTH_REVISION.to_vec(), auth.revision().to_be_bytes().to_vec()),
    ];
    let roles = auth.roles().map(|(name, is)| (name.clone().into_bytes(), is.encode_to_vec()));
    let users = auth.users().map(|(name, is)| (name.clone().into_bytes(), is.encode_to_vec()));
    [Pairs(state), Pairs(roles.collect()), Pairs(users.collect())]
}

/// Writes the checkpoint before segment `number`; it is durable when this returns.
pub(crate) fn save(
    disk: &dyn Disk,
    number: u64,
    outline: &Outline,
    versions: &[Kv],
) -> Result<(), LogError> {
    let name = name(number);
    let temporary = format!("{name}.new");
    let failed = |action| io_error(action, &temporary);
    match disk.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(e)),
        _ => (),
    }
    let file = disk.create(&temporary).map_err(failed("create"))?;
    let mut to = Chunks { file, at: 0, bytes: Vec::with_capacity(CHUNK) };
    write(outline, versions, &mut to).and_then(|()| to.flush()).map_err(failed("write"))?;
    to.file.sync().map_err(failed("sync"))?;
    disk.rename(&temporary, &name).map_err(failed("rename"))?;
    disk.sync().map_err(failed("sync the directory of"))
}

/// Whether a file has a checksum behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// It has, and it must be right.
    Checksum,
    /// It has none, as a copy of etcd's database.
    Blind,
}

/// Reads a state into `core`, which is fresh.
pub(crate) fn load_into(
    file: &dyn DiskFile,
    name: &str,
    trust: Trust,
    core: &mut Core,
    now: Instant,
) -> Result<(), LogError> {
    if trust == Trust::Checksum {
        verify(file, name)?;
    }
    let failed = |e| match e {
        BoltError::Io { source, .. } => io_error("read", name)(source),
        BoltError::Damaged { page, what } => {
            LogError::Damaged { file: name.to_owned(), at: page * 4096, what }
        }
    };
    let bolt = Bolt::open(file).map_err(failed)?;
    let mut outline = outline(&bolt).map_err(failed)?;
    let damaged = |what| LogError::Damaged { file: name.to_owned(), at: 0, what };
    let auth = auth_of(&bolt).map_err(failed)?;
    outline.auth = Arc::new(auth.ok_or(damaged("a user or a role cannot be read"))?);
    core.restore(&outline, now);
    let mut unreadable = false;
    let found = bolt.each("key", &mut |key, value| match pair::version(key, value) {
        Some(kv) => core.adopt(kv),
        None => unreadable = true,
    });
    let what = match (found.map_err(failed)?, unreadable) {
        (true, false) => return Ok(()),
        (true, true) => "a version of a key cannot be read",
        (false, _) => "there is no bucket of keys",
    };
    Err(damaged(what))
}

/// Users and roles; nothing if one cannot be read.
fn auth_of(bolt: &Bolt<'_>) -> Result<Option<Auth>, BoltError> {
    let mut auth = Auth::default();
    let mut readable = true;
    let mut take = |row: Option<Row>| match row {
        Some(row) => auth.apply(row),
        None => readable = false,
    };
    let name = |key: &[u8]| String::from_utf8(key.to_vec()).ok();
    bolt.each("authRoles", &mut |key, value| {
        let role = name(key).zip(authpb::Role::decode(value).ok());
        take(role.map(|(name, is)| Row::Role { name, is: Some(is) }));
    })?;
    bolt.each("authUsers", &mut |key, value| {
        let user = name(key).zip(authpb::User::decode(value).ok());
        take(user.map(|(name, is)| Row::User { name, is: Some(is) }));
    })?;
    // Etcd counts from 1; what has no count has no users.
    let (mut enabled, mut revision) = (false, 1);
    bolt.each("auth", &mut |key, value| match key {
        AUTH_ENABLED => enabled = value == [1],
        AUTH_REVISION => revision = number_of(value).map_or(1, i64::cast_unsigned).max(1),
        _ => (),
    })?;
    take(Some(Row::State { enabled, revision }));
    Ok(readable.then_some(auth))
}

fn outline(bolt: &Bolt<'_>) -> Result<Outline, BoltError> {
    let mut found = Outline::default();
    bolt.each("lease", &mut |key, value| {
        if let (Some(id), Some(ttl)) = (number_of(key), pair::lease_ttl(value))
            && let Some(id) = LeaseId::from_wire(id)
        {
            found.leases.push((id, ttl));
        }
    })?;
    bolt.each("meta", &mut |key, value| {
        if key == b"finishedCompactRev" || key == b"scheduledCompactRev" {
            let revision = value.get(..8).and_then(number_of).unwrap_or(0);
            found.compacted = found.compacted.max(Revision(revision));
        }
    })?;
    bolt.each(OWN, &mut |key, value| match key {
        b"head" => found.head = Revision(number_of(value).unwrap_or(0)),
        b"alarm" => found.alarm = value == [1],
        _ => (),
    })?;
    Ok(found)
}

/// Compares the file with the checksum at its end.
fn verify(file: &dyn DiskFile, name: &str) -> Result<(), LogError> {
    let failed = io_error("read", name);
    let len = file.len().map_err(&failed)?;
    let damaged = |what| LogError::Damaged { file: name.to_owned(), at: len, what };
    let end = len.checked_sub(TRAILER as u64).ok_or(damaged("it is too short"))?;
    let mut sum = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < end {
        let part = usize::try_from((end - at).min(CHUNK as u64)).unwrap_or(CHUNK);
        file.read_at(&mut chunk[..part], at).map_err(&failed)?;
        sum.update(&chunk[..part]);
        at += part as u64;
    }
    let mut expected = [0; TRAILER];
    file.read_at(&mut expected, end).map_err(&failed)?;
    match sum.finalize()[..] == expected {
        true => Ok(()),
        false => Err(damaged("the checksum does not match")),
    }
}

fn number_of(bytes: &[u8]) -> Option<i64> {
    bytes.try_into().ok().map(i64::from_be_bytes)
}

/// Versions as etcd's bucket `key` has them.
struct Versions<'a>(&'a [Kv]);

impl Rows for Versions<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn size(&self, n: usize) -> (usize, usize) {
        let kv = &self.0[n];
        (pair::REVISION_KEY + usize::from(kv.is_tombstone()), pair::encoded_len(kv))
    }

    fn key(&self, n: usize, to: &mut Vec<u8>) {
        pair::put_revision_key(&self.0[n], to);
    }

    fn value(&self, n: usize, to: &mut Vec<u8>) {
        pair::encode(&self.0[n], to);
    }
}

/// A few pairs.
struct Pairs(Vec<(Vec<u8>, Vec<u8>)>);

impl Rows for Pairs {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn size(&self, n: usize) -> (usize, usize) {
        (self.0[n].0.len(), self.0[n].1.len())
    }

    fn key(&self, n: usize, to: &mut Vec<u8>) {
        to.extend(&self.0[n].0);
    }

    fn value(&self, n: usize, to: &mut Vec<u8>) {
        to.extend(&self.0[n].1);
    }
}

struct Summed<'a> {
    to: &'a mut dyn Write,
    sum: Sha256,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sum.update(bytes);
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Collects small writes.
struct Chunks {
    file: Box<dyn DiskFile>,
    at: u64,
    bytes: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.bytes, self.at)?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}
