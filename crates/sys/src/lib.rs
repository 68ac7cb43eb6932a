//! Safe types over the Linux kernel: mounts, namespaces, processes, cgroups, netlink, nf_tables.

pub mod errno;
pub mod fs;
pub mod host;
pub mod mount;
pub mod process;
pub mod security;
pub mod socket;
pub mod tty;
pub mod tuning;
