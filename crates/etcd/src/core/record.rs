//! What the log holds: the outcome of requests, not the requests.
//!
//! Outcomes, because keys that are kept in memory only are left out, and compares against them would
//! come out differently when read again.

use prost::Message;

use crate::auth::Row;
use crate::kv::{LeaseId, Revision};

/// Changes of one transaction, or a change of the store itself.
#[derive(Debug, PartialEq)]
pub(crate) enum Record<'a> {
    Changes {
        revision: Revision,
        changes: Vec<Change<'a>>,
    },
    Grant {
        id: LeaseId,
        ttl: i64,
    },
    /// The lease is gone; its keys went in a `Changes` before.
    Revoke {
        id: LeaseId,
    },
    Compact {
        revision: Revision,
    },
    /// No revision up to this one is to be given out again.
    Reserve {
        revision: Revision,
    },
    /// The space alarm is on or off.
    Alarm {
        on: bool,
    },
    /// A part of users and roles.
    Auth(Row),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Put { key: &'a [u8], value: &'a [u8], lease: Option<LeaseId>, sub: u32 },
    Delete { key: &'a [u8], sub: u32 },
}

/// A record is not one that this version writes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("record at byte {at} is not one that this wharf can read")]
pub(crate) struct Unreadable {
    pub(crate) at: usize,
}

const CHANGES: u8 = 1;
const GRANT: u8 = 2;
const REVOKE: u8 = 3;
const COMPACT: u8 = 4;
const RESERVE: u8 = 5;
const ALARM: u8 = 6;
const AUTH: u8 = 7;
const USER: u8 = 8;
const ROLE: u8 = 9;
const PUT: u8 = 1;
const DELETE: u8 = 2;

impl Record<'_> {
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        match self {
            Record::Changes { revision, changes } => {
                start(to, CHANGES, revision.0);
                number(to, changes.len() as u64);
                changes.iter().for_each(|c| c.write(to));
            }
            Record::Grant { id, ttl } => {
                start(to, GRANT, id.0.get());
                number(to, ttl.cast_unsigned());
            }
            Record::Revoke { id } => start(to, REVOKE, id.0.get()),
            Record::Compact { revision } => start(to, COMPACT, revision.0),
            Record::Reserve { revision } => start(to, RESERVE, revision.0),
            Record::Alarm { on } => start(to, ALARM, i64::from(*on)),
            Record::Auth(Row::State { enabled, revision }) => {
                start(to, AUTH, i64::from(*enabled));
                number(to, *revision);
            }
            Record::Auth(Row::User { name, is }) => named(to, USER, name, is.as_ref()),
            Record::Auth(Row::Role { name, is }) => named(to, ROLE, name, is.as_ref()),
        }
    }
}

impl Change<'_> {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Change::Put { key, value, lease, sub } => {
                to.push(PUT);
                number(to, u64::from(*sub));
                slice(to, key);
                slice(to, value);
                number(to, LeaseId::to_wire(*lease).cast_unsigned());
            }
            Change::Delete { key, sub } => {
                to.push(DELETE);
                number(to, u64::from(*sub));
                slice(to, key);
            }
        }
    }
}

/// Reads the records of one batch.
pub(crate) fn read(batch: &[u8]) -> Result<Vec<Record<'_>>, Unreadable> {
    let mut from = Reader { bytes: batch, at: 0 };
    let mut records = Vec::new();
    while from.at < batch.len() {
        let at = from.at;
        records.push(from.record().ok_or(Unreadable { at })?);
    }
    Ok(records)
}

fn start(to: &mut Vec<u8>, tag: u8, first: i64) {
    to.push(tag);
    number(to, first.cast_unsigned());
}

/// What is under a name from now on, as etcd stores it.
fn named(to: &mut Vec<u8>, tag: u8, name: &str, is: Option<&impl Message>) {
    start(to, tag, i64::from(is.is_some()));
    slice(to, name.as_bytes());
    if let Some(is) = is {
        slice(to, &is.encode_to_vec());
    }
}

/// Seven bits a byte, low ones first, as protobuf does.
fn number(to: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        to.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    to.push((n & 0x7f) as u8);
}

fn slice(to: &mut Vec<u8>, bytes: &[u8]) {
    number(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn record(&mut self) -> Option<Record<'a>> {
        let tag = self.byte()?;
        let first = self.number()?.cast_signed();
        Some(match tag {
            CHANGES => {
                let n = self.number()?;
                // Each change takes two bytes at least, so a wrong count cannot reserve much.
                let room = (self.bytes.len() - self.at) / 2;
                let mut changes = Vec::with_capacity(usize::try_from(n).ok()?.min(room));
                for _ in 0..n {
                    changes.push(self.change()?);
                }
                Record::Changes { revision: Revision(first), changes }
            }
            GRANT => {
                let id = LeaseId::from_wire(first)?;
                Record::Grant { id, ttl: self.number()?.cast_signed() }
            }
            REVOKE => Record::Revoke { id: LeaseId::from_wire(first)? },
            COMPACT => Record::Compact { revision: Revision(first) },
            RESERVE => Record::Reserve { revision: Revision(first) },
            ALARM if first <= 1 => Record::Alarm { on: first == 1 },
            AUTH if first <= 1 => {
                Record::Auth(Row::State { enabled: first == 1, revision: self.number()? })
            }
            USER if first <= 1 => {
                let (name, is) = self.named(first == 1)?;
                Record::Auth(Row::User { name, is })
            }
            ROLE if first <= 1 => {
                let (name, is) = self.named(first == 1)?;
                Record::Auth(Row::Role { name, is })
            }
            _ => return None,
        })
    }

    fn named<M: Message + Default>(&mut self, is: bool) -> Option<(String, Option<M>)> {
        let name = String::from_utf8(self.slice()?.to_vec()).ok()?;
        let is = if is { Some(M::decode(self.slice()?).ok()?) } else { None };
        Some((name, is))
    }

    fn change(&mut self) -> Option<Change<'a>> {
        let tag = self.byte()?;
        let sub = u32::try_from(self.number()?).ok()?;
        let key = self.slice()?;
        match tag {
            PUT => {
                let value = self.slice()?;
                let lease = LeaseId::from_wire(self.number()?.cast_signed());
                Some(Change::Put { key, value, lease, sub })
            }
            DELETE => Some(Change::Delete { key, sub }),
            _ => None,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    fn slice(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let bytes = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::authpb::{Permission, Role, User};

    #[test]
    fn records_are_read_as_written() {
        let lease = LeaseId::from_wire(i64::MIN + 3);
        let user = User { name: "u".into(), roles: vec!["r".to_owned()], ..User::default() };
        let role = Role { name: "r".into(), key_permission: vec![Permission::default()] };
        let records = [
            Record::Changes {
                revision: Revision(i64::MAX),
                changes: vec![
                    Change::Put { key: b"k", value: &[7; 300], lease, sub: 0 },
                    Change::Put { key: b"l", value: b"", lease: None, sub: 1 },
                    Change::Delete { key: &[0xff; 200], sub: 2 },
                ],
            },
            Record::Grant { id: lease.unwrap(), ttl: 60 },
            Record::Revoke { id: lease.unwrap() },
            Record::Compact { revision: Revision(77) },
            Record::Reserve { revision: Revision(78) },
            Record::Alarm { on: true },
            Record::Auth(Row::State { enabled: true, revision: u64::MAX }),
            Record::Auth(Row::User { name: "u".to_owned(), is: Some(user) }),
            Record::Auth(Row::User { name: "u".to_owned(), is: None }),
            Record::Auth(Row::Role { name: "r".to_owned(), is: Some(role) }),
            Record::Auth(Row::Role { name: "r".to_owned(), is: None }),
        ];
        let mut bytes = Vec::new();
        records.iter().for_each(|r| r.write(&mut bytes));
        assert_eq!(read(&bytes).unwrap(), records);
        for cut in 1..bytes.len() {
            // A cut between records reads as fewer of them; any other is noticed.
            if let Ok(some) = read(&bytes[..cut]) {
                assert_eq!(some, records[..some.len()]);
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&[9, 1][..], &[1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f], &[2, 0, 1], &[6, 2]] {
            read(bytes).unwrap_err();
        }
    }
}
