//! The generated code, as a tree of its packages. `cargo xtask protos` writes it.
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
    reason = "generated: its style is its generator's, and a service's other side is for tests"
)]

pub mod containerd {
    pub mod services {
        pub mod content {
            pub mod v1 {
                include!("proto/containerd.services.content.v1.rs");
            }
        }
    }
}

pub mod fsutil {
    pub mod types {
        include!("proto/fsutil.types.rs");
    }
}

pub mod google {
    pub mod rpc {
        include!("proto/google.rpc.rs");
    }
}

pub mod grpc {
    pub mod health {
        pub mod v1 {
            include!("proto/grpc.health.v1.rs");
        }
    }
}

pub mod moby {
    pub mod buildkit {
        pub mod secrets {
            pub mod v1 {
                include!("proto/moby.buildkit.secrets.v1.rs");
            }
        }
        pub mod v1 {
            include!("proto/moby.buildkit.v1.rs");

            pub mod apicaps {
                include!("proto/moby.buildkit.v1.apicaps.rs");
            }
            pub mod frontend {
                include!("proto/moby.buildkit.v1.frontend.rs");
            }
            pub mod sourcepolicy {
                include!("proto/moby.buildkit.v1.sourcepolicy.rs");
            }
            pub mod types {
                include!("proto/moby.buildkit.v1.types.rs");
            }
        }
    }

    pub mod filesync {
        pub mod v1 {
            include!("proto/moby.filesync.v1.rs");
        }
    }

    pub mod sshforward {
        pub mod v1 {
            include!("proto/moby.sshforward.v1.rs");
        }
    }

    pub mod upload {
        pub mod v1 {
            include!("proto/moby.upload.v1.rs");
        }
    }
}

pub mod pb {
    include!("proto/pb.rs");
}
