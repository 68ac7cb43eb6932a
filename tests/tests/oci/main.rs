//! `wharf oci` under the programs that call OCI runtimes: podman, containerd, and a person at runc.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod command;
mod containerd;
mod podman;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use wharf_test::{Host, tools};

/// A host with Debian's container programs and, as `wharf-oci`, the runtime under test.
fn host() -> (Host, PathBuf) {
    let host = Host::peers();
    let binary = host.dir().join("wharf");
    fs::copy(tools::wharf(), &binary).unwrap();
    let runtime = host.dir().join("wharf-oci");
    symlink(&binary, &runtime).unwrap();
    (host, runtime)
}

/// A shell line that prints a control group's file, whichever layout the host has.
fn cgroup_file(controller: &str, v1: &str, v2: &str) -> String {
    format!(
        "if [ -d /sys/fs/cgroup/{controller} ]; then cat /sys/fs/cgroup/{controller}/{v1}; else cat /sys/fs/cgroup/{v2}; fi"
    )
}
