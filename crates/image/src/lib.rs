//! Images: content-addressed blobs, layers, snapshots, garbage collection and the registry client.
#![forbid(unsafe_code)]
