//! The messages and services of etcd's v3 API, generated from the definitions in `proto/`.

#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    clippy::too_many_arguments,
    clippy::too_many_lines,
    clippy::unwrap_used,
    dead_code,
    elided_lifetimes_in_paths,
    missing_docs,
    unreachable_pub,
    reason = "generated: its style is its generator's, and not every message is used"
)]

pub(crate) mod authpb {
    include!("proto/authpb.rs");
}
pub(crate) mod mvccpb {
    include!("proto/mvccpb.rs");
}
pub(crate) mod etcdserverpb {
    include!("proto/etcdserverpb.rs");
}
pub(crate) mod v3electionpb {
    include!("proto/v3electionpb.rs");
}
pub(crate) mod v3lockpb {
    include!("proto/v3lockpb.rs");
}
