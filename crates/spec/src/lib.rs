//! The formats of the container world as types: OCI, references, digests, platforms, Docker Engine objects.
#![forbid(unsafe_code)]

pub mod compose;
pub mod digest;
pub mod docker;
pub mod dockerconfig;
pub mod dockerfile;
pub mod image;
pub mod listing;
pub mod platform;
pub mod reference;
