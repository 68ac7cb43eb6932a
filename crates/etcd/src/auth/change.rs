//! Changes of users and roles: which are allowed, and what they come to.

use bytes::Bytes;

use super::{Auth, AuthError, ROOT, Row};
use crate::proto::authpb::{Permission, Role, User, UserAddOptions};

/// What an administrator asks for. Passwords are hashes already.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Enable,
    Disable,
    AddUser { name: String, password: Bytes, no_password: bool },
    DeleteUser { name: String },
    Password { name: String, password: Bytes },
    GrantRole { user: String, role: String },
    RevokeRole { user: String, role: String },
    AddRole { name: String },
    DeleteRole { name: String },
    Grant { role: String, permission: Option<Permission> },
    Revoke { role: String, key: Bytes, end: Bytes },
}

impl Auth {
    /// What a change comes to; nothing, if everything is so already.
    pub(crate) fn decide(&self, change: Change) -> Result<Vec<Row>, AuthError> {
        let enable = |enabled, revision| Ok(vec![Row::State { enabled, revision }]);
        let mut rows = match change {
            Change::Enable if self.enabled => return Ok(Vec::new()),
            Change::Enable => {
                let root = self.user(ROOT).map_err(|_| AuthError::NoRootUser)?;
                return match super::is_root(root) {
                    // It is no change of users, and so has no revision of its own.
                    true => enable(true, self.revision),
                    false => Err(AuthError::NoRootRole),
                };
            }
            Change::Disable if !self.enabled => return Ok(Vec::new()),
            Change::Disable => return enable(false, self.revision + 1),
            Change::AddUser { name, password, no_password } => {
                self.add_user(name, password, no_password)?
            }
            Change::DeleteUser { name } => self.delete_user(name)?,
            Change::Password { name, password } => {
                let user = self.user(&name)?;
                let none = user.options.is_some_and(|o| o.no_password);
                let password = if none { Bytes::new() } else { password };
                vec![Row::User { is: Some(User { password, ..user.clone() }), name }]
            }
            Change::GrantRole { user, role } => self.grant_role(user, role)?,
            Change::RevokeRole { user, role } => self.revoke_role(user, &role)?,
            Change::AddRole { name } => self.add_role(name)?,
            Change::DeleteRole { name } => self.delete_role(name)?,
            Change::Grant { role, permission } => self.grant(role, permission)?,
            Change::Revoke { role, key, end } => self.revoke(role, &key, &end)?,
        };
        if !rows.is_empty() {
            rows.push(Row::State { enabled: self.enabled, revision: self.revision + 1 });
        }
        Ok(rows)
    }

    fn add_user(
        &self,
        name: String,
        password: Bytes,
        no_password: bool,
    ) -> Result<Vec<Row>, AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(&name) {
            return Err(AuthError::UserExists);
        }
        let options = Some(UserAddOptions { no_password });
        let user = User { name: Bytes::from(name.clone()), password, roles: Vec::new(), options };
        Ok(vec![Row::User { name, is: Some(user) }])
    }

    fn delete_user(&self, name: String) -> Result<Vec<Row>, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.user(&name)?;
        Ok(vec![Row::User { name, is: None }])
    }

    fn grant_role(&self, user: String, role: String) -> Result<Vec<Row>, AuthError> {
        let mut is = self.user(&user)?.clone();
        // The role root need not have been made.
        if role != ROOT {
            self.role(&role)?;
        }
        match is.roles.binary_search(&role) {
            Ok(_) => return Ok(Vec::new()),
            Err(at) => is.roles.insert(at, role),
        }
        Ok(vec![Row::User { name: user, is: Some(is) }])
    }

    fn revoke_role(&self, user: String, role: &str) -> Result<Vec<Row>, AuthError> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let is = without(self.user(&user)?, role).ok_or(AuthError::RoleNotGranted)?;
        Ok(vec![Row::User { name: user, is: Some(is) }])
    }

    fn add_role(&self, name: String) -> Result<Vec<Row>, AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(&name) {
            return Err(AuthError::RoleExists);
        }
        let is = Role { name: Bytes::from(name.clone()), key_permission: Vec::new() };
        Ok(vec![Row::Role { name, is: Some(is) }])
    }

    fn delete_role(&self, name: String) -> Result<Vec<Row>, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.role(&name)?;
        let left = self.users.iter().filter_map(|(who, user)| {
            let is = without(user, &name)?;
            Some(Row::User { name: who.clone(), is: Some(is) })
        });
        let mut rows: Vec<_> = left.collect();
        rows.push(Row::Role { name, is: None });
        Ok(rows)
    }

    fn grant(&self, role: String, permission: Option<Permission>) -> Result<Vec<Row>, AuthError> {
        let new = permission.ok_or(AuthError::PermissionNotGiven)?;
        let (key, end) = (&new.key[..], &new.range_end[..]);
        let forward = end.is_empty() || end == [0] || key < end;
        if key.is_empty() || !forward {
            return Err(AuthError::InvalidManagement);
        }
        let mut is = self.role(&role)?.clone();
        let same = |p: &&mut Permission| p.key == new.key && p.range_end == new.range_end;
        match is.key_permission.iter_mut().find(same) {
            Some(held) => held.perm_type = new.perm_type,
            None => {
                let at = is.key_permission.partition_point(|p| p.key <= new.key);
                is.key_permission.insert(at, new);
            }
        }
        Ok(vec![Row::Role { name: role, is: Some(is) }])
    }

    fn revoke(&self, role: String, key: &[u8], end: &[u8]) -> Result<Vec<Row>, AuthError> {
        let mut is = self.role(&role)?.clone();
        let before = is.key_permission.len();
        is.key_permission.retain(|p| p.key != key || p.range_end != end);
        if is.key_permission.len() == before {
            return Err(AuthError::PermissionNotGranted);
        }
        Ok(vec![Row::Role { name: role, is: Some(is) }])
    }
}

/// The user without a role, if it has it.
fn without(user: &User, role: &str) -> Option<User> {
    let mut left = user.clone();
    left.roles.retain(|r| r != role);
    (left.roles.len() < user.roles.len()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Access, Caller};
    use crate::range::KeyRange;

    fn user(name: &str) -> Change {
        Change::AddUser { name: name.to_owned(), password: Bytes::new(), no_password: false }
    }

    fn give(user: &str, role: &str) -> Change {
        Change::GrantRole { user: user.to_owned(), role: role.to_owned() }
    }

    fn grant(role: &str, key: &'static str, end: &'static str) -> Change {
        let permission = Permission { perm_type: 2, key: key.into(), range_end: end.into() };
        Change::Grant { role: role.to_owned(), permission: Some(permission) }
    }

    fn role(name: &str) -> Change {
        Change::AddRole { name: name.to_owned() }
    }

    #[track_caller]
    fn did(auth: &mut Auth, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            auth.decide(change).unwrap().into_iter().for_each(|row| auth.apply(row));
        }
    }

    fn caller(auth: &Auth, name: &str) -> Caller {
        Caller::User { name: name.into(), revision: auth.revision() }
    }

    #[test]
    fn users_are_asked_for_only_with_a_root() {
        let mut auth = Auth::default();
        assert_eq!(auth.decide(Change::Enable), Err(AuthError::NoRootUser));
        did(&mut auth, [user("root")]);
        assert_eq!(auth.decide(Change::Enable), Err(AuthError::NoRootRole));
        did(&mut auth, [give("root", "root")]);
        let before = auth.revision();
        did(&mut auth, [Change::Enable, Change::Enable]);
        assert_eq!((auth.is_enabled(), auth.revision()), (true, before));
        for last in [
            Change::DeleteUser { name: "root".to_owned() },
            Change::RevokeRole { user: "root".to_owned(), role: "root".to_owned() },
            Change::DeleteRole { name: "root".to_owned() },
        ] {
            assert_eq!(auth.decide(last), Err(AuthError::InvalidManagement));
        }
        did(&mut auth, [Change::Disable]);
        assert_eq!((auth.is_enabled(), auth.revision()), (false, before + 1));
    }

    #[test]
    fn a_role_that_goes_takes_its_permissions_along() {
        let mut auth = Auth::default();
        did(&mut auth, [user("root"), give("root", "root"), user("u"), role("r"), give("u", "r")]);
        did(&mut auth, [Change::Enable, grant("r", "k", "")]);
        let key = KeyRange::key("k");
        let old = caller(&auth, "u");
        assert_eq!(auth.may(&old, Access::Write, &key), Ok(()));
        assert_eq!(auth.admin(&old), Err(AuthError::Denied));
        did(&mut auth, [Change::DeleteRole { name: "r".to_owned() }]);
        assert_eq!(auth.may(&old, Access::Write, &key), Err(AuthError::OldRevision));
        let now = caller(&auth, "u");
        assert_eq!(auth.may(&now, Access::Write, &key), Err(AuthError::Denied));
        assert_eq!(auth.may(&Caller::Nobody, Access::Read, &key), Err(AuthError::UserEmpty));
        assert_eq!(auth.may(&caller(&auth, "root"), Access::Write, &KeyRange::all()), Ok(()));
        did(&mut auth, [role("r")]);
        assert_eq!(auth.user("u").unwrap().roles, Vec::<String>::new());
    }

    #[test]
    fn permissions_are_kept_in_order_and_once() {
        let mut auth = Auth::default();
        did(&mut auth, [role("r"), grant("r", "b", ""), grant("r", "a", "c"), grant("r", "b", "")]);
        let keys: Vec<_> = auth.role("r").unwrap().key_permission.iter().map(|p| &p.key).collect();
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(auth.decide(grant("r", "c", "b")), Err(AuthError::InvalidManagement));
        assert_eq!(auth.decide(grant("none", "b", "")), Err(AuthError::RoleNotFound));
        let gone = Change::Revoke { role: "r".to_owned(), key: "a".into(), end: "b".into() };
        assert_eq!(auth.decide(gone), Err(AuthError::PermissionNotGranted));
        let before = auth.revision();
        did(&mut auth, [user("u"), give("u", "root"), give("u", "root")]);
        assert_eq!(auth.revision(), before + 2, "what is so already is no change");
    }
}
