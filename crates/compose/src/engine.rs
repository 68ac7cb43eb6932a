//! The engine as Compose needs it; implemented by whoever can reach one.

use wharf_spec::docker::{
    ContainerInspect, ContainerSummary, CreateRequest, ExecCreateRequest, ImageInspect,
    NetworkCreateRequest, NetworkInspect, Volume, VolumeCreateRequest,
};

/// Why the engine did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Someone else was faster, or something is in use.
    #[error("{0}")]
    Conflict(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The probe says healthy or unhealthy, or the container stops.
    Probed,
    /// The container stops.
    Stopped,
}

/// What an engine answers.
pub type Answer<T> = Result<T, EngineError>;

/// An engine. All calls may run at the same time; a future that is dropped leaves the engine with
/// whatever it has done so far, which the next plan takes into account.
#[allow(async_fn_in_trait, reason = "projects are driven on one thread")]
pub trait Engine {
    /// All containers of a project, stopped ones included.
    async fn containers(&self, project: &str) -> Answer<Vec<ContainerSummary>>;
    /// One container.
    async fn inspect(&self, id: &str) -> Answer<ContainerInspect>;
    /// An image, if it is there.
    async fn image(&self, name: &str) -> Answer<Option<ImageInspect>>;
    /// All networks of a project.
    async fn networks(&self, project: &str) -> Answer<Vec<NetworkInspect>>;
    /// The network with exactly this name or id, if it is there.
    async fn network(&self, name: &str) -> Answer<Option<NetworkInspect>>;
    /// Makes a network and returns its id.
    async fn create_network(&self, request: &NetworkCreateRequest) -> Answer<String>;
    /// Removes a network.
    async fn remove_network(&self, id: &str) -> Answer<()>;
    /// Takes a container out of a network, running or not.
    async fn disconnect(&self, network: &str, container: &str) -> Answer<()>;
    /// All volumes of a project.
    async fn volumes(&self, project: &str) -> Answer<Vec<Volume>>;
    /// The volume of this name, if it is there.
    async fn volume(&self, name: &str) -> Answer<Option<Volume>>;
    /// Makes a volume.
    async fn create_volume(&self, request: &VolumeCreateRequest) -> Answer<()>;
    /// Removes a volume.
    async fn remove_volume(&self, name: &str) -> Answer<()>;
    /// Makes a container and returns its id and the engine's warnings.
    async fn create(
        &self,
        name: &str,
        platform: &str,
        request: &CreateRequest,
    ) -> Answer<(String, Vec<String>)>;
    /// Starts a container.
    async fn start(&self, id: &str) -> Answer<()>;
    /// Stops a container; the time in seconds before it is killed, or its own.
    async fn stop(&self, id: &str, timeout: Option<i64>) -> Answer<()>;
    /// Removes a container, with its anonymous volumes if asked.
    async fn remove(&self, id: &str, force: bool, volumes: bool) -> Answer<()>;
    /// Gives a container another name.
    async fn rename(&self, id: &str, name: &str) -> Answer<()>;
    /// Unpacks a tar archive in a container.
    async fn upload(&self, id: &str, path: &str, archive: Vec<u8>) -> Answer<()>;
    /// Runs a command in a container to its end and returns its exit status.
    async fn exec(&self, id: &str, request: &ExecCreateRequest) -> Answer<i64>;
    /// Waits until something is so, and returns the container as it then is.
    async fn until(&self, id: &str, until: Until) -> Answer<ContainerInspect>;
    /// Removes an image.
    async fn remove_image(&self, name: &str) -> Answer<()>;
}
