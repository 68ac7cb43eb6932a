//! What the programs share: a server of their own, and a client that its kubeconfig makes.

use futures::Stream;
use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::response::Status;
use kube::{Api, Client, Config, CustomResourceExt};
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};
use wharf_test::kube::Cluster;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and the administrator's client. The server ends with this.
pub struct Program {
    /// The server.
    pub cluster: Cluster,
    /// A client of it.
    pub client: Client,
}

impl Program {
    /// One without nodes.
    pub async fn start() -> Program {
        Program::with(&[]).await
    }

    /// One whose server has more flags.
    pub async fn with(flags: &[&str]) -> Program {
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        let start = move || Cluster::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        let cluster = tokio::task::spawn_blocking(start).await.unwrap();
        let file = Kubeconfig::read_from(cluster.config()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
        Program { cluster, client: Client::try_from(config).unwrap() }
    }

    /// Objects of a kind in the namespace `default`.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::default_namespaced(self.client.clone())
    }

    /// Applies the definition of a derived kind, and waits until it is served.
    pub async fn define<K: CustomResourceExt>(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let apply = PatchParams::apply("kube-rs").force();
        crds.patch(K::crd_name(), &apply, &Patch::Apply(K::crd())).await.unwrap();
        let established = kube::runtime::conditions::is_crd_established();
        let wait = kube::runtime::wait::await_condition(crds, K::crd_name(), established);
        soon("the definition", wait).await.unwrap();
    }
}

/// Waits for what must come soon.
pub async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, it).await {
        Ok(it) => it,
        Err(_) => panic!("{what} does not come"),
    }
}

/// The next item of a stream, which must come soon.
pub async fn next<T, E: Debug>(stream: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> T {
    soon("an item", stream.next()).await.expect("the stream has ended").unwrap()
}

/// Asks until the answer is one.
pub async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(it) = ask().await {
            return it;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The refusal that a call must end with.
#[track_caller]
pub fn refused<T: Debug>(outcome: Result<T, kube::Error>) -> Status {
    match outcome {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("not refused: {other:?}"),
    }
}

/// The names of objects.
pub fn names<'a, K: kube::Resource + 'a>(all: impl IntoIterator<Item = &'a K>) -> Vec<String> {
    all.into_iter().map(|o| o.meta().name.clone().unwrap_or_default()).collect()
}

/// An object of any kind, written as JSON.
pub fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).unwrap()
}
