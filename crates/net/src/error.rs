//! What can go wrong in a network operation, and which HTTP status that is.

use std::io;
use std::net::IpAddr;

use wharf_base::db::DbError;

use crate::spec::Protocol;

/// The class of a [`NetError`], one per HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400: the request is wrong whatever the state.
    Invalid,
    /// 403: allowed for nobody in this state (predefined or busy network).
    Forbidden,
    /// 404: no such network, sandbox or endpoint.
    NotFound,
    /// 409: something else has the name or the address.
    Conflict,
    /// 501: understood and refused by name.
    Unsupported,
    /// 500: the host did not do it (port taken, kernel refused, disk full).
    Unavailable,
}

/// What can go wrong in a network operation.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No network of that name or id.
    #[error("network {0} not found")]
    NoNetwork(String),
    /// An id prefix that fits several networks.
    #[error("network {0} is ambiguous ({1} matches found on name or id)")]
    Ambiguous(String, usize),
    /// No sandbox of that id.
    #[error("no network sandbox for container {0}")]
    NoSandbox(String),
    /// The sandbox is not on that network.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// The sandbox is on that network already.
    #[error("endpoint with name {container} already exists in network {network}")]
    AlreadyConnected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// The name is taken.
    #[error("network with name {0} already exists")]
    NameTaken(String),
    /// The network still has containers.
    #[error("error while removing network: network {name} has active endpoints (name:{endpoints})")]
    Busy {
        /// The network.
        name: String,
        /// Who is on it, for a person.
        endpoints: String,
    },
    /// `bridge`, `host` and `none` stay.
    #[error("{0} is a pre-defined network and cannot be {1}")]
    Predefined(String, &'static str),
    /// No network driver of that name; the words that clients know.
    #[error(
        "could not find plugin {0} in v1 plugin registry: plugin {0:?} not found: use bridge, macvlan or ipvlan"
    )]
    NoDriver(String),
    /// There is no network with nothing but settings of that name.
    #[error("configuration network {0:?} does not exist")]
    NoConfig(String),
    /// Other networks have their settings from it.
    #[error("configuration network {0:?} is in use")]
    ConfigInUse(String),
    /// What cannot be done with a network that has nothing but settings.
    #[error("{0}")]
    Config(&'static str),
    /// A setting that makes no sense.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// Which setting.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// Understood, and not built.
    #[error("{what} is not supported by wharf: {why}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// What to do instead.
        why: String,
    },
    /// The kernel lacks a driver.
    #[error("this kernel has no {what}: load the module {module}, or boot a kernel that has it")]
    MissingDriver {
        /// What is missing.
        what: &'static str,
        /// The module that would bring it.
        module: &'static str,
    },
    /// The parent interface of a network cannot have such a child.
    #[error(
        "{0} is in use: take it out of its bridge or bond, or remove its children of another kind \
         (an interface has macvlan children or ipvlan children, not both)"
    )]
    ParentInUse(String),
    /// The subnet is in use.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} is used by {by}"
    )]
    Overlap {
        /// The subnet asked for.
        subnet: String,
        /// What uses it.
        by: String,
    },
    /// No pool has room.
    #[error(
        "all predefined address pools have been fully subnetted; remove unused networks or configure default-address-pools"
    )]
    PoolsExhausted,
    /// No address is left.
    #[error("no available IP addresses on this address pool: {0}")]
    AddressesExhausted(String),
    /// The address is in use.
    /// The capital is Docker's; clients match it.
    #[error("{}: {addr}", "Address already in use", addr = .0)]
    AddressTaken(IpAddr),
    /// Another container has published it.
    /// The capital is Docker's; clients match it.
    #[error("{} {ip}:{port} failed: port is already allocated", "Bind for")]
    PortAllocated {
        /// Host address.
        ip: String,
        /// Host port.
        port: u16,
    },
    /// Something else on the host listens there.
    #[error("failed to bind host port for {ip}:{port}:{container}:{target}/{proto}")]
    PortInUse {
        /// Host address.
        ip: String,
        /// Host port.
        port: u16,
        /// Container address.
        container: String,
        /// Container port.
        target: u16,
        /// Transport.
        proto: Protocol,
        /// What the kernel said.
        source: io::Error,
    },
    /// Publishing failed; Docker's sentence around the reason.
    #[error("driver failed programming external connectivity on endpoint {name} ({id})")]
    Publish {
        /// The container's name.
        name: String,
        /// The endpoint's id.
        id: String,
        /// Why.
        source: Box<NetError>,
    },
    /// Every port of a range is taken.
    #[error("all ports are allocated: no free host port in {first}-{last}/{proto}")]
    PortsExhausted {
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
        /// Transport.
        proto: Protocol,
    },
    /// The kernel refused.
    #[error("{action}")]
    Kernel {
        /// What was being done, to what.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The state database failed.
    #[error("record network state")]
    Db(#[source] DbError),
}

impl NetError {
    /// Which HTTP status this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoNetwork(_)
            | Self::NoConfig(_)
            | Self::NoDriver(_)
            | Self::NoSandbox(_)
            | Self::NotConnected { .. } => ErrorKind::NotFound,
            Self::Ambiguous(..) | Self::Invalid { .. } => ErrorKind::Invalid,
            Self::NameTaken(_) => ErrorKind::Conflict,
            Self::AlreadyConnected { .. }
            | Self::Busy { .. }
            | Self::Predefined(..)
            | Self::ConfigInUse(_)
            | Self::Config(_)
            | Self::AddressTaken(_)
            | Self::ParentInUse(_)
            | Self::Overlap { .. } => ErrorKind::Forbidden,
            Self::Publish { source, .. } => source.kind(),
            Self::Unsupported { .. } | Self::MissingDriver { .. } => ErrorKind::Unsupported,
            Self::PoolsExhausted
            | Self::AddressesExhausted(_)
            | Self::PortAllocated { .. }
            | Self::PortInUse { .. }
            | Self::PortsExhausted { .. }
            | Self::Kernel { .. }
            | Self::Db(_) => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> NetError {
        NetError::Invalid { what: what.into(), why: why.into() }
    }
}

/// Names the driver that a kernel lacks; other refusals as [`kernel`] does.
pub(crate) fn missing_driver(
    what: &'static str,
    module: &'static str,
) -> impl FnOnce(wharf_sys::netlink::NetlinkError) -> NetError {
    move |e| match e.is_unsupported() {
        true => NetError::MissingDriver { what, module },
        false => kernel(format!("use {what}"))(e),
    }
}

/// Names what was being done when the kernel refused.
pub(crate) fn kernel<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> NetError {
    let action = action.into();
    move |e| NetError::Kernel { action, source: e.into() }
}
