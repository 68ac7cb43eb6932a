//! Container networks: bridges, address pools, sandboxes, published ports and the firewall around them.
#![forbid(unsafe_code)]

mod attach;
mod config;
pub mod dns;
mod elements;
mod error;
pub mod files;
mod firewall;
mod interface;
mod ipam;
mod mac;
mod namespace;
mod net;
mod network;
mod options;
mod plug;
mod ports;
mod publish;
mod reap;
mod reconcile;
mod relay;
mod sandbox;
mod spec;
mod subnet;
mod watch;

pub use config::{DefaultBridge, NetConfig, Pool};
pub use dns::NameService;
pub use error::{ErrorKind, NetError};
pub use mac::{Mac, MacError};
pub use net::Net;
pub use plug::{Plug, Source};
pub use sandbox::Sandbox;
pub use spec::{
    Binding, Driver, Endpoint, EndpointConfig, InterfaceStats, IpamConfig, Link, NetworkInfo,
    NetworkSpec, Opening, PortMap, Protocol, Reach,
};
pub use subnet::{Subnet, SubnetError};
