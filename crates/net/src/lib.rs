//! Container networks: bridges, address pools, sandboxes, published ports and the firewall around them.
#![forbid(unsafe_code)]

mod config;
mod error;
pub mod files;
mod mac;
mod net;
mod spec;
mod subnet;

pub use config::{DefaultBridge, NetConfig, Pool};
pub use error::{ErrorKind, NetError};
pub use mac::Mac;
pub use net::{Net, Sandbox};
pub use spec::{
    Binding, Driver, Endpoint, EndpointConfig, InterfaceStats, IpamConfig, NetworkInfo,
    NetworkSpec, PortMap, Protocol, Reach,
};
pub use subnet::{Subnet, SubnetError};
