//! The binary: decides from its arguments which part of wharf to be.
#![forbid(unsafe_code)]

fn main() {}
