//! Running programs: say what runs, stop at the first failure, show why.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A command without a terminal to read from.
pub(crate) fn cmd(program: impl AsRef<OsStr>) -> Command {
    let mut c = Command::new(program);
    c.stdin(Stdio::null());
    c
}

/// Runs `c` with its output on ours; an exit status other than 0 is an error.
pub(crate) fn run(c: &mut Command) -> Result<()> {
    let status = c.status().with_context(|| format!("start {}", show(c)))?;
    if !status.success() {
        bail!("{}: {status}", show(c));
    }
    Ok(())
}

/// Runs `c` and returns what it wrote; on failure the error carries the end of its stderr.
pub(crate) fn read(c: &mut Command) -> Result<String> {
    let out = c.output().with_context(|| format!("start {}", show(c)))?;
    if !out.status.success() {
        let err = String::from_utf8_lossy(&out.stderr);
        let tail: Vec<&str> = err.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{}: {}\n{}", show(c), out.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The first of `dirs` on PATH (and the administrator's directories) that holds `program`.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// The cargo that runs us, or the one on PATH.
pub(crate) fn cargo() -> Command {
    let mut c = cmd(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    c.current_dir(root());
    // What the outer cargo says of this program. Build scripts that ask to be run again when it changes (ring's
    // does) would be, and all of wharf with them: once from here, and once more from a shell.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            c.env_remove(name);
        }
    }
    c
}

/// `12.3 s`.
pub(crate) fn seconds(d: Duration) -> String {
    format!("{:.1} s", d.as_secs_f64())
}

fn show(c: &Command) -> String {
    let words = std::iter::once(c.get_program()).chain(c.get_args());
    let line: Vec<_> = words.map(|w| w.to_string_lossy().into_owned()).collect();
    let line = line.join(" ");
    if line.len() > 300 { format!("{}…", &line[..300]) } else { line }
}
