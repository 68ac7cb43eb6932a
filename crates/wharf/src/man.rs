//! `wharf man DIR`: one manual page for every verb, written from the tables that parse them.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{daemon, etcd};

const USAGE: &str = "Usage:  wharf man DIR\n\nWrite the manual pages into DIR, which is made when it is missing.\nRead one with: man -l DIR/wharf-run.1";

/// Runs with the arguments after `man`.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let dir = match args {
        [help] if help == "--help" || help == "-h" => {
            wharf_cli::app::say_line(USAGE).ok();
            return ExitCode::SUCCESS;
        }
        [dir] if !dir.to_string_lossy().starts_with('-') => Path::new(dir),
        _ => {
            wharf_cli::app::warn(format!("wharf: 'wharf man' requires 1 argument\n\n{USAGE}"));
            return ExitCode::FAILURE;
        }
    };
    match write(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            wharf_cli::app::warn(format!("wharf: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    clap_mangen::generate_to(command(), dir)
        .with_context(|| format!("write pages into {}", dir.display()))?;
    if !dir.join("wharf.1").exists() {
        bail!("no page was written into {}", dir.display());
    }
    Ok(())
}

/// Everything that the binary can be.
fn command() -> clap::Command {
    let oci = clap::Command::new("oci")
        .about("Run one container without an engine, with runc's command line")
        .disable_help_flag(true)
        .arg(clap::Arg::new("args").num_args(0..).trailing_var_arg(true));
    let man = clap::Command::new("man")
        .about("Write the manual pages")
        .disable_help_flag(true)
        .arg(clap::Arg::new("dir").value_name("DIR").required(true));
    wharf_cli::command()
        .subcommand(daemon::command())
        .subcommand(etcd::command())
        .subcommand(oci)
        .subcommand(man)
        .subcommand(crate::registry::command())
        .subcommand(crate::ship::command())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        super::write(dir.path()).unwrap();
        for page in [
            "wharf",
            "wharf-daemon",
            "wharf-oci",
            "wharf-man",
            "wharf-registry-serve",
            "wharf-manifest-push",
            "wharf-run",
        ] {
            assert!(dir.path().join(format!("{page}.1")).exists(), "{page}");
        }
        let run = std::fs::read_to_string(dir.path().join("wharf-container-run.1")).unwrap();
        assert!(run.contains("publish"));
    }
}
