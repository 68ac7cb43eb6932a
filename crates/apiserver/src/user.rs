//! Who makes a request.

use std::collections::BTreeMap;

/// An identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The uid, where there is one.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Those who may do everything.
pub const MASTERS: &str = "system:masters";

impl User {
    /// A user who proved it.
    pub fn new(name: impl Into<String>, groups: Vec<String>) -> User {
        let mut user = User { name: name.into(), groups, ..User::default() };
        user.add_group(AUTHENTICATED);
        user
    }

    /// Nobody in particular.
    pub fn anonymous() -> User {
        User {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..User::default()
        }
    }

    /// The server's own parts, which pass every check.
    pub fn server() -> User {
        User::new("system:apiserver", vec![MASTERS.to_owned()])
    }

    /// Adds a group once.
    pub fn add_group(&mut self, group: &str) {
        if !self.is_in(group) {
            self.groups.push(group.to_owned());
        }
    }

    /// The namespace and name of the service account that the user is, if it is one.
    pub fn account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// Whether the user belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
