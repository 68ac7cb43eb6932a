//! The processes that outlive the daemon: the launcher, one keeper per container, and the log it writes.
#![forbid(unsafe_code)]
