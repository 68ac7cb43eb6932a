//! Times what the kernel alone takes for a container of a bundle's root, whoever asks it:
//! `floor ROOTFS [ROUNDS]`. Namespaces, v1 cgroups, pivot_root, exec of `/bin/true`, exit.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a tool for measuring: it prints, and what is unexpected ends it"
)]

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use wharf_sys::mount::{self, Attr, propagation};
use wharf_sys::process::{self, Fork};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rootfs = Path::new(&args[1]);
    let rounds: usize = args.get(2).map_or(200, |n| n.parse().unwrap());
    let groups = groups();
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begin = Instant::now();
        once(rootfs, &groups);
        times.push(begin.elapsed());
    }
    times.sort();
    println!("floor   median {:?} least {:?}", times[rounds / 2], times[0]);
}

/// A directory to be made in every v1 tree but those that no resource is limited in.
fn groups() -> Vec<PathBuf> {
    let name = format!("wharf-floor-{}", std::process::id());
    let trees = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    trees.filter(|tree| tree.join("tasks").exists()).map(|tree| tree.join(&name)).collect()
}

fn once(rootfs: &Path, groups: &[PathBuf]) {
    for group in groups {
        fs::create_dir(group).unwrap();
        // A cpuset takes nobody in before it has processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|f| group.join(f).exists()) {
            let parent = group.parent().unwrap().join(file);
            fs::write(group.join(file), fs::read(parent).unwrap()).unwrap();
        }
    }
    let spaces = process::NEWPID
        | process::NEWNS
        | process::NEWNET
        | process::NEWIPC
        | process::NEWUTS
        | process::NEWCGROUP;
    match process::clone3(spaces, None).unwrap() {
        Fork::Child => become_true(rootfs, groups),
        Fork::Parent { pidfd, .. } => {
            let ended = process::wait(pidfd.as_fd()).unwrap();
            assert_eq!(ended, process::Ended::Code(0));
        }
    }
    for group in groups {
        fs::remove_dir(group).unwrap();
    }
}

fn become_true(rootfs: &Path, groups: &[PathBuf]) -> ! {
    for group in groups {
        // Not by cgroup.procs, which waits for a grace period of RCU.
        fs::write(group.join("tasks"), "0").unwrap();
    }
    let private = Attr { propagation: propagation::PRIVATE, ..Attr::default() };
    mount::set_attr_at(c"/", true, private).unwrap();
    let tree = mount::clone_tree(fs::File::open("/").unwrap(), rootfs, false).unwrap();
    mount::attach(&tree, fs::File::open(rootfs).unwrap()).unwrap();
    process::fchdir(&tree).unwrap();
    process::pivot_root(".", ".").unwrap();
    mount::detach(Path::new(".")).unwrap();
    process::chdir("/").unwrap();
    let words: Vec<CString> = vec![c"true".into()];
    panic!("{}", process::execve(c"/bin/true", &words, &[]))
}
