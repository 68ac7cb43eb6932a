//! Safe types over the Linux kernel: mounts, namespaces, processes, cgroups, netlink, nf_tables.

pub mod channel;
pub mod child;
pub mod errno;
pub mod events;
pub mod scratch;
pub mod terminal;
