//! A directory as a list: what wharf's own command line says of a build context before it sends any of it.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

/// One file, directory or link. In JSON with names of one letter: there may be very many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Where it is, relative, of plain names.
    #[serde(rename = "p")]
    pub path: String,
    /// Permission bits with set-id and sticky bits.
    #[serde(rename = "m")]
    pub mode: u32,
    /// Last change of the content, in nanoseconds since 1970.
    #[serde(rename = "t")]
    pub mtime: i64,
    /// Bytes, if it is a file.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What it points to, if it is a symbolic link. Without size and target it is a directory.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Listed {
    /// Whether it can be what it says: a path that stays below its directory, written as it would be printed, and one kind.
    pub fn is_sound(&self) -> bool {
        let path = Path::new(&self.path);
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let canonical = path.components().collect::<std::path::PathBuf>();
        let named = !self.path.is_empty() && !self.path.contains('\0');
        let one = self.size.is_none() || self.target.is_none();
        named && plain && canonical.as_os_str() == path.as_os_str() && one && self.mode <= 0o7777
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.size.is_none() && self.target.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_below_is_sound() {
        let at = |path: &str| Listed { path: path.into(), ..Listed::default() };
        for path in ["a", "a/b", "..a/b..", "a b"] {
            assert!(at(path).is_sound(), "{path}");
        }
        for path in ["", "/", "/a", "..", "a/..", "./a", "a/./b", "a//b", "a/", "a\0b"] {
            assert!(!at(path).is_sound(), "{path:?}");
        }
        assert!(!Listed { size: Some(1), target: Some("x".into()), ..at("a") }.is_sound());
    }

    #[test]
    fn what_is_not_there_is_not_written() {
        let file = Listed { path: "a".into(), mode: 0o644, mtime: -1, size: Some(3), target: None };
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(text, r#"{"p":"a","m":420,"t":-1,"s":3}"#);
        assert_eq!(serde_json::from_str::<Listed>(&text).unwrap(), file);
    }
}
