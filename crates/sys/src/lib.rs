//! Safe types over the Linux kernel: mounts, namespaces, processes, cgroups, netlink, nf_tables.

pub mod channel;
pub mod child;
pub mod daemon;
pub mod errno;
pub mod events;
pub mod fs;
pub mod host;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod own;
pub mod process;
pub mod reaper;
pub mod root;
pub mod scratch;
pub mod security;
pub mod socket;
pub mod terminal;
pub mod tty;
pub mod tuning;
