//! Users, roles and what they may do: etcd's rules, decided without disk, clock or waiting.

mod change;
mod grants;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::proto::authpb::{Role, User};
use crate::range::KeyRange;
use grants::Grants;

pub(crate) use change::Change;
pub(crate) use grants::Access;

/// The user that must be there before users are asked for, and the role that may do everything.
const ROOT: &str = "root";

/// Why a request is refused that names a user, or names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Users cannot be asked for before there is the user root.
    #[error("root user does not exist")]
    NoRootUser,
    /// Nor before it has the role root.
    #[error("root user does not have root role")]
    NoRootRole,
    /// The user exists already.
    #[error("user name already exists")]
    UserExists,
    /// A user must have a name, and a request must have a user.
    #[error("user name is empty")]
    UserEmpty,
    /// There is no such user.
    #[error("user name not found")]
    UserNotFound,
    /// The role exists already.
    #[error("role name already exists")]
    RoleExists,
    /// There is no such role.
    #[error("role name not found")]
    RoleNotFound,
    /// A role must have a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// The name or the password is wrong.
    #[error("authentication failed, invalid user ID or password")]
    Failed,
    /// The user signs in with a certificate only.
    #[error("authentication failed, password was given for no password user")]
    NoPassword,
    /// To grant a permission is to name one.
    #[error("permission not given")]
    PermissionNotGiven,
    /// The user may not do this.
    #[error("permission denied")]
    Denied,
    /// The user does not have the role.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Users are not asked for.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// The token is unknown or too old.
    #[error("invalid auth token")]
    InvalidToken,
    /// While users are asked for, root and its role stay as they are; and a range must not end before it begins.
    #[error("invalid auth management")]
    InvalidManagement,
    /// Users or roles changed since the user was recognized.
    #[error("revision of auth store is old")]
    OldRevision,
}

/// On whose behalf a request is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The process that the store is in: it may do everything.
    Owner,
    /// The request does not tell.
    Nobody,
    /// A user, recognized when users and roles were at this revision.
    User { name: Arc<str>, revision: u64 },
}

/// Every user and role.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Auth {
    enabled: bool,
    /// Counts the changes.
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// What each user may do by all its roles; follows from the above.
    grants: HashMap<String, Grants>,
}

impl Default for Auth {
    fn default() -> Auth {
        let (users, roles, grants) = Default::default();
        // Where etcd's begins.
        Auth { enabled: false, revision: 1, users, roles, grants }
    }
}

/// A part of the state as it is to be from now on: what the log and checkpoints hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    State { enabled: bool, revision: u64 },
    User { name: String, is: Option<User> },
    Role { name: String, is: Option<Role> },
}

impl Auth {
    /// Whether users are asked for.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn user(&self, name: &str) -> Result<&User, AuthError> {
        self.users.get(name).ok_or(AuthError::UserNotFound)
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = (&String, &User)> {
        self.users.iter()
    }

    pub(crate) fn role(&self, name: &str) -> Result<&Role, AuthError> {
        self.roles.get(name).ok_or(AuthError::RoleNotFound)
    }

    pub(crate) fn roles(&self) -> impl Iterator<Item = (&String, &Role)> {
        self.roles.iter()
    }

    /// Takes over a part of the state.
    pub(crate) fn apply(&mut self, row: Row) {
        match row {
            Row::State { enabled, revision } => {
                (self.enabled, self.revision) = (enabled, revision);
            }
            Row::User { name, is: None } => {
                self.users.remove(&name);
                self.grants.remove(&name);
            }
            Row::User { name, is: Some(user) } => {
                self.grants.insert(name.clone(), Grants::of(&user, &self.roles));
                self.users.insert(name, user);
            }
            Row::Role { name, is } => {
                match is {
                    Some(role) => drop(self.roles.insert(name.clone(), role)),
                    None => drop(self.roles.remove(&name)),
                }
                for (who, user) in self.users.iter().filter(|(_, u)| u.roles.contains(&name)) {
                    self.grants.insert(who.clone(), Grants::of(user, &self.roles));
                }
            }
        }
    }

    /// Whether the caller may do what only root may.
    pub(crate) fn admin(&self, caller: &Caller) -> Result<(), AuthError> {
        let name = match caller {
            Caller::Owner => return Ok(()),
            _ if !self.enabled => return Ok(()),
            Caller::Nobody => return Err(AuthError::UserEmpty),
            Caller::User { name, .. } if name.is_empty() => return Err(AuthError::UserEmpty),
            Caller::User { name, .. } => name,
        };
        if is_root(self.user(name)?) { Ok(()) } else { Err(AuthError::Denied) }
    }

    /// Whether the caller has said who it is, if that is asked.
    pub(crate) fn known(&self, caller: &Caller) -> Result<(), AuthError> {
        match caller {
            Caller::Nobody if self.enabled => Err(AuthError::UserEmpty),
            _ => Ok(()),
        }
    }

    /// Whether the caller may read or write all of `keys`.
    pub(crate) fn may(
        &self,
        caller: &Caller,
        access: Access,
        keys: &KeyRange,
    ) -> Result<(), AuthError> {
        let (name, revision) = match caller {
            Caller::Owner => return Ok(()),
            _ if !self.enabled => return Ok(()),
            Caller::Nobody => return Err(AuthError::UserEmpty),
            Caller::User { name, revision } => (name, *revision),
        };
        if revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let user = self.users.get(&**name).ok_or(AuthError::Denied)?;
        let granted = self.grants.get(&**name).is_some_and(|g| g.cover(access, keys));
        if granted || is_root(user) { Ok(()) } else { Err(AuthError::Denied) }
    }
}

fn is_root(user: &User) -> bool {
    user.roles.iter().any(|role| role == ROOT)
}
