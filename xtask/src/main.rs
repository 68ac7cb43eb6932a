//! Development tasks: `cargo xtask demo`, `cargo xtask test`, `cargo xtask bench`.
#![forbid(unsafe_code)]

fn main() {}
