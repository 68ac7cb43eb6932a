//! The user's configuration: `config.json` in docker's format and place.

pub mod auth;
pub mod context;

use std::path::PathBuf;

use serde_json::Value;

use crate::failure::Failure;

/// `config.json`, kept as it is written so that saving it loses nothing.
pub struct Config {
    /// The directory it is in.
    pub dir: PathBuf,
    /// Its content.
    pub json: Value,
}

impl Config {
    /// Reads the configuration; without a file it is empty.
    pub fn load(dir: Option<&str>) -> Self {
        let dir = match dir {
            Some(dir) => PathBuf::from(dir),
            None => default_dir(),
        };
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap_or_default();
        let json = match serde_json::from_str(&text) {
            Ok(json @ Value::Object(_)) => json,
            Ok(_) | Err(_) if text.trim().is_empty() => Value::Object(Default::default()),
            _ => {
                crate::app::warn(format!(
                    "WARNING: Error loading config file: {}/config.json is not a JSON object",
                    dir.display()
                ));
                Value::Object(Default::default())
            }
        };
        Self { dir, json }
    }

    /// A string of the configuration, or empty.
    pub fn text(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// A change on top of what the file holds, written durably.
    pub fn save(
        &self,
        change: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Result<(), Failure> {
        let mut json = self.json.clone();
        if let Value::Object(map) = &mut json {
            change(map);
        }
        std::fs::create_dir_all(&self.dir)?;
        let text = crate::out::indent(&json, "\t");
        let path = self.dir.join("config.json");
        wharf_base::fs::write_atomic(
            &path,
            text.as_bytes(),
            0o600,
            wharf_base::fs::Durability::Power,
        )
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))
    }
}

/// `DOCKER_CONFIG`, else `~/.docker`.
pub fn default_dir() -> PathBuf {
    match std::env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty()) {
        Some(dir) => dir.into(),
        None => home().join(".docker"),
    }
}

/// The user's home directory.
pub fn home() -> PathBuf {
    std::env::var_os("HOME").filter(|h| !h.is_empty()).map_or_else(|| "/".into(), PathBuf::from)
}
