//! `--user` and `--group-add` resolved against the image's own passwd and group files.
//!
//! The files come from an untrusted image: every loop over them is bounded, and a numeric name is a
//! number and never looked up as a name (CVE-2026-46680, CVE-2026-47262).

use crate::error::{EngineError, Result};

/// Bytes of passwd or group that are looked at.
pub(crate) const MAX_FILE: u64 = 4 << 20;
/// Supplementary groups that one user may have; the kernel's own limit.
const MAX_GROUPS: usize = 65_536;
const MAX_ID: i64 = i32::MAX as i64;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups for `setgroups`, the primary one first.
    pub groups: Vec<u32>,
    /// For `HOME`.
    pub home: String,
}

/// The two files of a rootfs; missing ones are empty.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl Accounts {
    /// Resolves `user[:group]` and the names of `--group-add`.
    pub fn resolve(&self, spec: &str, add: &[String]) -> Result<ResolvedUser> {
        let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
        let mut found = self.user(user)?;
        if group.is_empty() {
            if let Some(name) = found.name.take() {
                found.groups = self.groups_of(&name)?;
            }
        } else {
            found.gid = self.group(group)?;
        }
        let mut groups = vec![found.gid];
        groups.append(&mut found.groups);
        for name in add {
            groups.push(self.group(name)?);
        }
        let mut seen = std::collections::HashSet::new();
        groups.retain(|g| seen.insert(*g));
        Ok(ResolvedUser { uid: found.uid, gid: found.gid, groups, home: found.home })
    }

    fn user(&self, wanted: &str) -> Result<Found> {
        let number = number(wanted)?;
        let uid = if wanted.is_empty() { Some(0) } else { number };
        let mut entries = self.passwd.lines().filter_map(Entry::passwd);
        let hit = entries.find(|e| match uid {
            Some(uid) => e.id == uid,
            None => e.name == wanted,
        });
        match (hit, uid) {
            (Some(e), _) => Ok(Found {
                uid: e.id,
                gid: e.gid,
                home: if e.home.is_empty() { "/".into() } else { e.home.into() },
                name: Some(e.name.into()),
                groups: Vec::new(),
            }),
            (None, Some(uid)) => {
                Ok(Found { uid, gid: 0, home: "/".into(), name: None, groups: Vec::new() })
            }
            (None, None) => Err(EngineError::invalid(format!(
                "unable to find user {wanted}: no matching entries in passwd file"
            ))),
        }
    }

    fn group(&self, wanted: &str) -> Result<u32> {
        if let Some(gid) = number(wanted)? {
            return Ok(gid);
        }
        let mut groups = self.group.lines().filter_map(group_entry);
        groups.find(|g| g.name == wanted).map(|g| g.gid).ok_or_else(|| {
            EngineError::invalid(format!(
                "unable to find group {wanted}: no matching entries in group file"
            ))
        })
    }

    fn groups_of(&self, user: &str) -> Result<Vec<u32>> {
        let member = |g: &Group<'_>| g.members.split(',').any(|m| m == user);
        let gids: Vec<u32> =
            self.group.lines().filter_map(group_entry).filter(member).map(|g| g.gid).collect();
        if gids.len() > MAX_GROUPS {
            return Err(EngineError::invalid(format!(
                "user {user} is in {} groups, more than the kernel's {MAX_GROUPS}",
                gids.len()
            )));
        }
        Ok(gids)
    }
}

struct Found {
    uid: u32,
    gid: u32,
    home: String,
    name: Option<String>,
    groups: Vec<u32>,
}

struct Entry<'a> {
    name: &'a str,
    id: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn passwd(line: &'a str) -> Option<Entry<'a>> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (id, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_gecos, home) = (fields.next(), fields.next().unwrap_or_default());
        (!name.is_empty()).then_some(Entry { name, id, gid, home })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entry(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let gid = fields.next()?.parse().ok()?;
    Some(Group { name, gid, members: fields.next().unwrap_or_default() })
}

/// `Some` for a decimal number in range, an error for one out of range, `None` for a name.
fn number(text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let value = text.parse::<i64>().unwrap_or(i64::MAX);
    if !(0..=MAX_ID).contains(&value) {
        return Err(EngineError::invalid(format!(
            "uids and gids must be in range 0-{MAX_ID}, not {text}"
        )));
    }
    Ok(u32::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n\
                     1000:x:0:0:trap:/root:/bin/sh\nbad line\nhalf:x:7\n"
                .into(),
            group: "root:x:0:root\nwheel:x:10:root,web\nwww:x:34:\n2000:x:0:\n".into(),
        }
    }

    #[track_caller]
    fn check(spec: &str, add: &[&str], expected: Result<(u32, u32, &[u32], &str), &str>) {
        let add: Vec<String> = add.iter().map(|s| (*s).to_owned()).collect();
        let got = accounts().resolve(spec, &add);
        match (got, expected) {
            (Ok(u), Ok((uid, gid, groups, home))) => {
                assert_eq!((u.uid, u.gid, &u.groups[..], &u.home[..]), (uid, gid, groups, home));
            }
            (Err(e), Err(text)) => assert!(e.message().contains(text), "{e}"),
            (got, expected) => panic!("{spec}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn users_and_groups() {
        check("", &[], Ok((0, 0, &[0, 10], "/root")));
        check("web", &[], Ok((33, 34, &[34, 10], "/var/www")));
        check("33", &[], Ok((33, 34, &[34, 10], "/var/www")));
        check("web:wheel", &[], Ok((33, 10, &[10], "/var/www")));
        check("web:5", &["wheel", "7"], Ok((33, 5, &[5, 10, 7], "/var/www")));
        check("1:2", &[], Ok((1, 2, &[2], "/")));
        check(":10", &[], Ok((0, 10, &[10], "/root")));
    }

    #[test]
    fn numbers_are_never_names() {
        check("1000", &[], Ok((1000, 0, &[0], "/")));
        check("1:2000", &[], Ok((1, 2000, &[2000], "/")));
        check("+1", &[], Err("unable to find user +1"));
        check("-1", &[], Err("must be in range"));
        check("4294967296", &[], Err("must be in range"));
        check("99999999999999999999", &[], Err("must be in range"));
    }

    #[test]
    fn unknown_names_are_refused() {
        check("nobody", &[], Err("unable to find user nobody: no matching entries in passwd file"));
        check("web:none", &[], Err("unable to find group none"));
        check("web", &["none"], Err("unable to find group none"));
    }
}
