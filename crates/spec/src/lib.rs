//! The formats of the container world as types: OCI, references, digests, platforms, Docker Engine objects.
#![forbid(unsafe_code)]
