//! The binary: decides from its name and its first argument which part of wharf to be.
#![forbid(unsafe_code)]

mod daemon;
mod etcd;
mod kube;
mod man;
mod registry;
mod ship;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    match part(args.first(), args.get(1), args.get(2)) {
        // Before anything makes a thread or grows the heap: keepers are forks of this process.
        Part::Launcher => wharf_keeper::launcher::main(),
        Part::Daemon { from } => daemon::main(args.into_iter().skip(from)),
        Part::Etcd => etcd::main(args.into_iter().skip(1)),
        Part::Oci { from } => wharf_runtime::oci::main(args.split_off(from)),
        Part::Kube => kube::main(args.into_iter().skip(1)),
        Part::Man => man::main(&args[2..]),
        Part::Registry => registry::main(args.into_iter().skip(1)),
        Part::Ship { from } => ship::main(args.into_iter().skip(from)),
        Part::CommandLine => {
            // The programs of the builtin images, which run as pid 1 of a container.
            let builtin = args.get(1).and_then(|verb| wharf_image::builtin::main(verb.to_str()?));
            builtin.unwrap_or_else(|| wharf_cli::main(args))
        }
    }
}

/// What one file can be. `from` is where the part's own arguments begin.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Launcher,
    /// Its arguments begin with a name, which clap skips.
    Daemon {
        from: usize,
    },
    Oci {
        from: usize,
    },
    Etcd,
    /// The cluster's parts.
    Kube,
    Man,
    Registry,
    /// Its arguments begin with a verb.
    Ship {
        from: usize,
    },
    CommandLine,
}

/// A link's name decides before the verb does, so that other engines and scripts can be given one.
fn part(program: Option<&OsString>, verb: Option<&OsString>, next: Option<&OsString>) -> Part {
    let name = program.and_then(|p| Path::new(p).file_name()).and_then(OsStr::to_str);
    let word = |w: Option<&OsString>| w.and_then(|w| w.to_str()).unwrap_or_default().to_owned();
    match (name.unwrap_or_default(), word(verb).as_str()) {
        (_, "manifest") => Part::Ship { from: 2 },
        (_, "image") if word(next) == "copy" => Part::Ship { from: 2 },
        ("docker", _) => Part::CommandLine,
        ("dockerd", _) => Part::Daemon { from: 0 },
        ("wharf-oci" | "runc" | "crun", _) => Part::Oci { from: 1 },
        (_, "launcher") => Part::Launcher,
        (_, "daemon") => Part::Daemon { from: 1 },
        (_, "oci") => Part::Oci { from: 2 },
        (_, "etcd") => Part::Etcd,
        (_, "kube") => Part::Kube,
        (_, "man") => Part::Man,
        (_, "registry") => Part::Registry,
        _ => Part::CommandLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(program: &str, verb: &str, expected: Part) {
        assert_eq!(
            part(Some(&program.into()), Some(&verb.into()), None),
            expected,
            "{program} {verb}"
        );
    }

    #[test]
    fn verbs_choose_the_part() {
        check("wharf", "daemon", Part::Daemon { from: 1 });
        check("/proc/self/exe", "launcher", Part::Launcher);
        check("wharf", "oci", Part::Oci { from: 2 });
        check("wharf", "etcd", Part::Etcd);
        check("wharf", "kube", Part::Kube);
        check("wharf", "man", Part::Man);
        check("wharf", "registry", Part::Registry);
        check("wharf", "pause", Part::CommandLine);
        check("wharf", "--version", Part::CommandLine);
        assert_eq!(part(None, None, None), Part::CommandLine);
        check("wharf", "manifest", Part::Ship { from: 2 });
        check("wharf", "image", Part::CommandLine);
        let words = ["wharf", "image", "copy"].map(OsString::from);
        let [program, verb, next] = &words;
        assert_eq!(part(Some(program), Some(verb), Some(next)), Part::Ship { from: 2 });
    }

    #[test]
    fn a_links_name_goes_before_the_verb() {
        check("/usr/bin/docker", "daemon", Part::CommandLine);
        check("/usr/sbin/dockerd", "--validate", Part::Daemon { from: 0 });
        check("/usr/sbin/runc", "daemon", Part::Oci { from: 1 });
        check("crun", "create", Part::Oci { from: 1 });
        check("/usr/libexec/wharf-oci", "", Part::Oci { from: 1 });
    }
}
