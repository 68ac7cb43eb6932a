//! Where the engine under test and its clients are.

use std::path::{Path, PathBuf};

/// `target/tools`, filled by `cargo xtask tools`.
pub fn dir() -> PathBuf {
    workspace().join("target/tools")
}

/// One of the tools; says how to get it when it is missing.
pub fn path(name: &str) -> PathBuf {
    let path = dir().join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask tools`", path.display());
    path
}

/// A tool that a machine may lack.
pub fn optional(name: &str) -> Option<PathBuf> {
    Some(dir().join(name)).filter(|p| p.exists())
}

/// The wharf binary under test: `WHARF_BIN`, or the release build.
pub fn wharf() -> PathBuf {
    let built = || workspace().join("target").join(triple()).join("release/wharf");
    let path = std::env::var_os("WHARF_BIN").map_or_else(built, PathBuf::from);
    assert!(path.exists(), "{} is missing: build it or set WHARF_BIN", path.display());
    path
}

/// The root of the repository.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The target that `.cargo/config.toml` names, as a folder under `target`.
pub fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
