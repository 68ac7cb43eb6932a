//! Versions and leases as etcd stores them: revision keys, and protobuf values.

use crate::kv::{Kv, LeaseId, Revision, Stamp};

/// Bytes of a revision key: main, an underscore, sub. A deletion has a `t` behind it.
pub(crate) const REVISION_KEY: usize = 17;

/// Field numbers and wire types of `mvccpb.KeyValue`.
const KEY: u8 = 1 << 3 | 2;
const CREATE: u8 = 2 << 3;
const MODIFIED: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = 5 << 3 | 2;
const LEASE: u8 = 6 << 3;
/// And of `leasepb.Lease`.
const LEASE_ID: u8 = 1 << 3;
const LEASE_TTL: u8 = 2 << 3;

/// A revision as etcd orders its bucket by.
pub(crate) fn revision_key(main: Revision, sub: i64) -> Vec<u8> {
    let mut key = main.0.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend(sub.to_be_bytes());
    key
}

/// The key of a version in etcd's bucket.
pub(crate) fn put_revision_key(kv: &Kv, to: &mut Vec<u8>) {
    to.extend(revision_key(kv.mod_revision(), i64::from(kv.sub())));
    if kv.is_tombstone() {
        to.push(b't');
    }
}

/// Appends a version in protobuf. A deletion is its key alone.
pub(crate) fn encode(kv: &Kv, to: &mut Vec<u8>) {
    put_bytes(to, KEY, kv.key());
    if kv.is_tombstone() {
        return;
    }
    for (tag, n) in numbers(kv) {
        put_number(to, tag, n);
    }
    put_bytes(to, VALUE, kv.value());
    put_number(to, LEASE, LeaseId::to_wire(kv.lease()));
}

/// How many bytes [`encode`] appends.
pub(crate) fn encoded_len(kv: &Kv) -> usize {
    let bytes = |b: &[u8]| if b.is_empty() { 0 } else { 1 + varint_len(b.len() as u64) + b.len() };
    let number = |n: i64| if n == 0 { 0 } else { 1 + varint_len(n.cast_unsigned()) };
    if kv.is_tombstone() {
        return bytes(kv.key());
    }
    let numbers: usize = numbers(kv).map(|(_, n)| number(n)).iter().sum();
    bytes(kv.key()) + numbers + bytes(kv.value()) + number(LeaseId::to_wire(kv.lease()))
}

/// Reads a pair of etcd's bucket `key`.
pub(crate) fn version(key: &[u8], value: &[u8]) -> Option<Kv> {
    let (main, sub) = (key.get(..8)?, key.get(9..REVISION_KEY)?);
    let modified = Revision(i64::from_be_bytes(main.try_into().ok()?));
    let sub = u32::try_from(i64::from_be_bytes(sub.try_into().ok()?)).ok()?;
    let deleted = match &key[REVISION_KEY..] {
        [] => false,
        b"t" => true,
        _ => return None,
    };
    let mut stamp = Stamp { create: Revision(0), modified, sub, version: 0, lease: None };
    let (mut own, mut content): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields(value);
    while !fields.0.is_empty() {
        match fields.next()? {
            (KEY, Field::Bytes(b)) => own = b,
            (VALUE, Field::Bytes(b)) => content = b,
            (CREATE, Field::Number(n)) => stamp.create = Revision(n),
            (VERSION, Field::Number(n)) => stamp.version = n,
            (LEASE, Field::Number(n)) => stamp.lease = LeaseId::from_wire(n),
            _ => (),
        }
    }
    match deleted {
        true => Some(Kv::tombstone(own, modified, sub)),
        false if stamp.version > 0 && !own.is_empty() => Some(Kv::new(own, content, stamp)),
        false => None,
    }
}

/// A lease in protobuf.
pub(crate) fn lease(id: LeaseId, ttl: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_number(&mut bytes, LEASE_ID, id.0.get());
    put_number(&mut bytes, LEASE_TTL, ttl);
    bytes
}

/// The time to live of such a lease.
pub(crate) fn lease_ttl(bytes: &[u8]) -> Option<i64> {
    let mut fields = Fields(bytes);
    let mut ttl = None;
    while !fields.0.is_empty() {
        if let (LEASE_TTL, Field::Number(n)) = fields.next()? {
            ttl = Some(n);
        }
    }
    ttl
}

fn numbers(kv: &Kv) -> [(u8, i64); 3] {
    [(CREATE, kv.create_revision().0), (MODIFIED, kv.mod_revision().0), (VERSION, kv.version())]
}

/// As protobuf 3 has it, zero is left out.
fn put_number(to: &mut Vec<u8>, tag: u8, n: i64) {
    if n != 0 {
        to.push(tag);
        put_varint(to, n.cast_unsigned());
    }
}

fn put_bytes(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        to.push(tag);
        put_varint(to, bytes.len() as u64);
        to.extend_from_slice(bytes);
    }
}

fn put_varint(to: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        to.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    to.push((n & 0x7f) as u8);
}

fn varint_len(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

enum Field<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}

/// The fields of a message, of which only numbers below 16 are used.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<(u8, Field<'a>)> {
        let tag = u8::try_from(self.varint()?).ok()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?.cast_signed()),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kv: &Kv) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        put_revision_key(kv, &mut key);
        encode(kv, &mut value);
        assert_eq!(value.len(), encoded_len(kv));
        let read = version(&key, &value).unwrap();
        assert!(read == *kv, "{read:?} is not {kv:?}");
    }

    #[test]
    fn versions_are_read_as_written() {
        let stamp = Stamp {
            create: Revision(3),
            modified: Revision(i64::MAX),
            sub: 7,
            version: 128,
            lease: LeaseId::from_wire(-5),
        };
        check(&Kv::new(b"key", &[1; 200], stamp));
        check(&Kv::new(&[0xff; 127], b"", Stamp { lease: None, ..stamp }));
        check(&Kv::tombstone(b"gone", Revision(9), 2));
        let id = LeaseId::from_wire(77).unwrap();
        assert_eq!(lease_ttl(&lease(id, 60)), Some(60));
    }

    /// `put foo bar` on a fresh member.
    #[test]
    fn a_version_has_etcds_bytes() {
        let stamp =
            Stamp { create: Revision(2), modified: Revision(2), sub: 0, version: 1, lease: None };
        let mut bytes = Vec::new();
        encode(&Kv::new(b"foo", b"bar", stamp), &mut bytes);
        assert_eq!(bytes, b"\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar");
    }
}
