//! Passwords: an htpasswd file with bcrypt hashes, read again when it changes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ring::hmac;
use wharf_base::sync::Mutex;

use crate::fault::Fault;

/// Passwords that were right, remembered because bcrypt is slow on purpose. More than these begin anew.
const REMEMBERED: usize = 1024;
/// A hash of nothing that anybody knows: what an unknown user's password is compared with, so that the time of the
/// answer does not tell who exists.
const NOBODY: &str = "$2y$10$abcdefghijklmnopqrstuuZ1dV8bJvJYxXjnvT2mWf0B3sGk1vBfW";

/// A file of `user:hash` lines.
#[derive(Debug)]
pub struct Htpasswd {
    path: PathBuf,
    read: Mutex<Read>,
    /// Keys of [`Htpasswd::right`] are worthless elsewhere.
    salt: hmac::Key,
    right: Mutex<HashMap<[u8; 32], ()>>,
}

#[derive(Debug)]
struct Read {
    changed: Option<(SystemTime, u64)>,
    users: Arc<HashMap<String, String>>,
}

/// Why a file holds no passwords.
#[derive(Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// It cannot be read.
    #[error("read passwords from {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not `user:$2y$…`.
    #[error("line {line} of {path} is not a user with a bcrypt hash (htpasswd -B makes them)")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
    },
}

impl Htpasswd {
    pub(super) fn open(path: &Path) -> Result<Self, HtpasswdError> {
        let read = read(path)?;
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|e| HtpasswdError::Io {
            path: path.to_owned(),
            source: io::Error::other(e.to_string()),
        })?;
        Ok(Self {
            path: path.to_owned(),
            read: Mutex::new(read),
            salt: hmac::Key::new(hmac::HMAC_SHA256, &salt),
            right: Mutex::default(),
        })
    }

    /// Whether that is the password of that user.
    pub(crate) async fn check(&self, user: &str, password: &str) -> Result<bool, Fault> {
        let hash = self.users().get(user).cloned();
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        // The hash is part of the key: a changed password is forgotten with it.
        let tag = hmac::sign(&self.salt, format!("{user}\0{hash}\0{password}").as_bytes());
        let tag: [u8; 32] = tag.as_ref().try_into().unwrap_or_default();
        if known && self.right.lock().contains_key(&tag) {
            return Ok(true);
        }
        let password = password.to_owned();
        let work = move || bcrypt::verify(password, &hash).unwrap_or(false);
        let right = tokio::task::spawn_blocking(work).await? && known;
        if right {
            let mut remembered = self.right.lock();
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(tag, ());
        }
        Ok(right)
    }

    /// A secret for a purpose, known to this run of the registry alone.
    pub(super) fn derive(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&self.salt, purpose.as_bytes()).as_ref())
    }

    /// Something that changes with the user's password; `None` if there is no such user.
    pub(crate) fn mark(&self, user: &str) -> Option<String> {
        let hash = self.users().get(user)?.clone();
        Some(hex::encode(hmac::sign(&self.salt, hash.as_bytes()).as_ref()))
    }

    /// A file that went bad keeps its last good content, and is complained of once per change.
    fn users(&self) -> Arc<HashMap<String, String>> {
        let mut last = self.read.lock();
        let now = changed(&self.path);
        if now != last.changed {
            match read(&self.path) {
                Ok(new) => *last = new,
                Err(error) => {
                    let error = wharf_base::error::chain(&error).to_string();
                    tracing::error!(error, "passwords are not read again");
                    last.changed = now;
                }
            }
        }
        last.users.clone()
    }
}

/// A line for the file.
pub fn htpasswd_line(user: &str, password: &str) -> Result<String, bcrypt::BcryptError> {
    Ok(format!("{user}:{}", bcrypt::hash(password, bcrypt::DEFAULT_COST)?))
}

fn changed(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn read(path: &Path) -> Result<Read, HtpasswdError> {
    let changed = changed(path);
    let text = fs::read_to_string(path)
        .map_err(|source| HtpasswdError::Io { path: path.to_owned(), source })?;
    let mut users = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.split_once(':').filter(|(user, hash)| !user.is_empty() && is_bcrypt(hash));
        let (user, hash) =
            pair.ok_or_else(|| HtpasswdError::Line { path: path.to_owned(), line: i + 1 })?;
        users.insert(user.to_owned(), hash.to_owned());
    }
    Ok(Read { changed, users: Arc::new(users) })
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2y$", "$2a$", "$2b$", "$2x$"].iter().any(|start| hash.starts_with(start)) && hash.len() == 60
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests")]
mod tests {
    use super::*;

    fn line(user: &str, password: &str) -> String {
        format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    #[tokio::test]
    async fn passwords_are_checked_and_changes_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        fs::write(&path, format!("# users\n\n{}", line("ann", "one"))).unwrap();
        let passwords = Htpasswd::open(&path).unwrap();
        for _ in 0..2 {
            assert!(passwords.check("ann", "one").await.unwrap());
        }
        assert!(!passwords.check("ann", "two").await.unwrap());
        assert!(!passwords.check("bob", "one").await.unwrap());
        let mark = passwords.mark("ann");
        fs::write(&path, format!("{}{}", line("ann", "two"), line("bob", "one"))).unwrap();
        assert!(!passwords.check("ann", "one").await.unwrap());
        assert!(passwords.check("bob", "one").await.unwrap());
        assert_ne!(passwords.mark("ann"), mark);
        fs::write(&path, "nonsense").unwrap();
        assert!(passwords.check("bob", "one").await.unwrap(), "the last good content counts");
    }

    #[test]
    fn other_hashes_are_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        fs::write(&path, format!("{}bob:$apr1$x$y\n", line("ann", "one"))).unwrap();
        assert!(matches!(Htpasswd::open(&path), Err(HtpasswdError::Line { line: 2, .. })));
        assert!(matches!(Htpasswd::open(&dir.path().join("none")), Err(HtpasswdError::Io { .. })));
    }

    #[test]
    fn nobody_costs_as_much_as_somebody() {
        assert!(is_bcrypt(NOBODY));
        assert!(matches!(bcrypt::verify("x", NOBODY), Ok(false)));
    }
}
