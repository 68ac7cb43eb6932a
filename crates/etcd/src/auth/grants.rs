//! What the roles of a user add up to: ranges of keys, merged where they touch.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::proto::authpb::permission::Type;
use crate::proto::authpb::{Permission, Role, User};
use crate::range::KeyRange;

/// What is done to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Keys that may be read, and keys that may be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants {
    read: Ranges,
    write: Ranges,
}

impl Grants {
    /// What `user` may do; roles that are gone grant nothing.
    pub(super) fn of(user: &User, roles: &BTreeMap<String, Role>) -> Grants {
        let held = user.roles.iter().filter_map(|name| roles.get(name));
        let all: Vec<&Permission> = held.flat_map(|role| &role.key_permission).collect();
        let with = |kind: Type| {
            let fits = |p: &&&Permission| p.perm_type() == kind || p.perm_type() == Type::Readwrite;
            Ranges::merged(all.iter().filter(fits).map(|p| bounds(p)).collect())
        };
        Grants { read: with(Type::Read), write: with(Type::Write) }
    }

    pub(super) fn cover(&self, access: Access, keys: &KeyRange) -> bool {
        match access {
            Access::Read => self.read.cover(keys),
            Access::Write => self.write.cover(keys),
        }
    }
}

/// The first key of a permission, and the first one behind it; `None` is no end.
fn bounds(permission: &Permission) -> (Bytes, Option<Bytes>) {
    let start = permission.key.clone();
    let end = match &permission.range_end[..] {
        // A single key ends at the one that comes next.
        [] => Some([&start[..], &[0]].concat().into()),
        [0] => None,
        _ => Some(permission.range_end.clone()),
    };
    (start, end)
}

/// Ranges in order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(Bytes, Option<Bytes>)>);

impl Ranges {
    fn merged(mut ranges: Vec<(Bytes, Option<Bytes>)>) -> Ranges {
        ranges.sort_unstable();
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::new();
        for (start, end) in ranges {
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last))) if start <= *last => match end {
                    Some(end) if end <= *last => (),
                    end => merged.last_mut().map_or((), |range| range.1 = end),
                },
                _ => merged.push((start, end)),
            }
        }
        Ranges(merged)
    }

    fn cover(&self, keys: &KeyRange) -> bool {
        // No key is empty, so what begins with the empty one begins with the least.
        let first = if keys.start().is_empty() { &[0] } else { keys.start() };
        let begun = self.0.partition_point(|(start, _)| &start[..] <= first);
        let Some((_, end)) = begun.checked_sub(1).and_then(|n| self.0.get(n)) else { return false };
        match (end, keys) {
            (None, _) => true,
            (Some(end), KeyRange::Key(key)) => key < end,
            (Some(end), KeyRange::Span { end: last, .. }) => last <= end,
            (Some(_), KeyRange::From(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Permissions as `kind key end`; then what may be done as `r key end` or `w key end`. An end of `-` is none, one of
    /// `*` is the end of all keys.
    #[track_caller]
    fn check(permissions: &[&str], may: &[&str], may_not: &[&str]) {
        let words = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let end = match &words[2][..] {
                "-" => Bytes::new(),
                "*" => Bytes::from_static(&[0]),
                end => Bytes::from(end.to_owned()),
            };
            (words[0].clone(), Bytes::from(words[1].clone()), end)
        };
        let permission = |line: &&str| {
            let (kind, key, range_end) = words(line);
            let kind = match &kind[..] {
                "r" => Type::Read,
                "w" => Type::Write,
                _ => Type::Readwrite,
            };
            Permission { perm_type: kind.into(), key, range_end }
        };
        let key_permission = permissions.iter().map(permission).collect();
        let roles =
            BTreeMap::from([("role".to_owned(), Role { name: Bytes::new(), key_permission })]);
        let user = User { roles: vec!["role".to_owned(), "gone".to_owned()], ..User::default() };
        let grants = Grants::of(&user, &roles);
        for (lines, expected) in [(may, true), (may_not, false)] {
            for line in lines {
                let (kind, key, end) = words(line);
                let access = if kind == "r" { Access::Read } else { Access::Write };
                let keys = KeyRange::from_wire(key, end);
                assert_eq!(grants.cover(access, &keys), expected, "{line}");
            }
        }
    }

    #[test]
    fn a_range_may_be_covered_by_several_permissions() {
        check(
            &["r a c", "rw c e", "w d -"],
            &["r a e", "r b d", "w c e", "w d -", "r a -"],
            &["r a f", "w a e", "w b -", "r e -", "r a *", "r 0 b"],
        );
    }

    #[test]
    fn an_end_of_zero_is_no_end() {
        check(&["rw k *"], &["r k *", "w z zz", "r k -"], &["r a *", "w j k"]);
        check(&["r \0 *"], &["r \0 *"], &["w \0 *"]);
    }

    #[test]
    fn a_key_is_no_prefix() {
        check(&["rw k -"], &["r k -", "w k -"], &["r k l", "r ka -", "r k *"]);
    }
}
