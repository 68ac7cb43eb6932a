//! Safe types over the Linux kernel: mounts, namespaces, processes, cgroups, netlink, nf_tables.

pub mod errno;

pub mod netlink;
