//! The one object that owns every network, sandbox and published port of a daemon.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use wharf_base::Id;
use wharf_base::db::Db;

use crate::config::NetConfig;
use crate::error::NetError;
use crate::spec::{
    Binding, Endpoint, EndpointConfig, InterfaceStats, NetworkInfo, NetworkSpec, PortMap,
};

/// Every network, sandbox and published port of a daemon.
///
/// All methods but [`Net::watch`] block for microseconds to a few milliseconds; call them from a blocking thread.
#[derive(Debug)]
pub struct Net {}

/// A network namespace of a container. It lives as long as somebody holds a descriptor of it or
/// runs in it, so nothing is left when the container and the daemon are gone.
#[derive(Debug)]
pub struct Sandbox {
    ns: Arc<OwnedFd>,
}

impl Sandbox {
    /// The namespace, for `setns`.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.ns.as_fd()
    }
}

impl Net {
    /// Reads the records, and makes the host's bridges, firewall rules and reserved ports agree with
    /// them. Must be called inside a tokio runtime, on which relays will run.
    pub fn open(_db: Db, _config: NetConfig) -> Result<Arc<Net>, NetError> {
        todo_first_hour()
    }

    /// Creates a network.
    pub fn create_network(&self, _spec: NetworkSpec) -> Result<NetworkInfo, NetError> {
        todo_first_hour()
    }

    /// Finds a network by name, id or unambiguous id prefix, in that order.
    pub fn network(&self, _name_or_id: &str) -> Result<NetworkInfo, NetError> {
        todo_first_hour()
    }

    /// All networks by name.
    pub fn networks(&self) -> Vec<NetworkInfo> {
        Vec::new()
    }

    /// Removes a network that nobody is on.
    pub fn remove_network(&self, _name_or_id: &str) -> Result<NetworkInfo, NetError> {
        todo_first_hour()
    }

    /// Removes every unused user-defined network that `want` agrees to, and says which went.
    pub fn prune(
        &self,
        _want: &dyn Fn(&NetworkInfo) -> bool,
    ) -> Result<Vec<NetworkInfo>, NetError> {
        todo_first_hour()
    }

    /// Makes the network namespace for a container: loopback up, Docker's default sysctls.
    /// Pass its descriptor to whoever starts the container.
    pub fn create_sandbox(&self, _id: &Id) -> Result<Sandbox, NetError> {
        todo_first_hour()
    }

    /// After a restart: takes the sandboxes of the containers that still run back (their namespaces
    /// as descriptors, say of `/proc/<pid>/ns/net`), and releases every other. Returns the released.
    pub fn adopt(&self, _live: BTreeMap<Id, OwnedFd>) -> Result<Vec<Id>, NetError> {
        todo_first_hour()
    }

    /// Puts a sandbox on a network: interface, addresses, routes. On `host` an error, on `none` a record only.
    pub fn attach(
        &self,
        _sandbox: &Id,
        _network: &str,
        _config: EndpointConfig,
    ) -> Result<Endpoint, NetError> {
        todo_first_hour()
    }

    /// Takes a sandbox off a network, its published ports there included.
    pub fn detach(&self, _sandbox: &Id, _network: &str) -> Result<(), NetError> {
        todo_first_hour()
    }

    /// Publishes ports of a sandbox, all or none, through the endpoint that holds its default route.
    pub fn publish(&self, _sandbox: &Id, _ports: &[PortMap]) -> Result<Vec<Binding>, NetError> {
        todo_first_hour()
    }

    /// Withdraws every published port of a sandbox.
    pub fn unpublish(&self, _sandbox: &Id) -> Result<(), NetError> {
        todo_first_hour()
    }

    /// Withdraws ports, leaves networks and forgets the sandbox. Idempotent. Slow kernel work goes on in the background.
    pub fn release(&self, _sandbox: &Id) -> Result<(), NetError> {
        todo_first_hour()
    }

    /// The endpoints of a sandbox, the one with the default route first.
    pub fn endpoints(&self, _sandbox: &Id) -> Vec<Endpoint> {
        Vec::new()
    }

    /// Counters of every interface of a sandbox but loopback.
    pub fn stats(&self, _sandbox: &Id) -> Result<Vec<InterfaceStats>, NetError> {
        todo_first_hour()
    }

    /// Restores the firewall when somebody else's `flush ruleset` takes it away. Ends when `shutdown` does.
    pub async fn watch(self: Arc<Net>, shutdown: impl Future<Output = ()>) {
        shutdown.await;
    }
}

fn todo_first_hour<T>() -> Result<T, NetError> {
    Err(NetError::Unsupported {
        what: "networking".into(),
        why: "the body lands within the hour".into(),
    })
}
