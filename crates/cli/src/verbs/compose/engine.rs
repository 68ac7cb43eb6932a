//! The engine that Compose drives, over its API.

use http::Method;
use serde_json::{Value, json};
use wharf_compose::engine::{Answer, Engine, EngineError, Until};
use wharf_spec::docker::{
    ContainerInspect, ContainerSummary, CreateRequest, CreateResponse, ExecCreateRequest,
    ImageInspect, NetworkCreateRequest, NetworkInspect, Volume, VolumeCreateRequest, VolumeList,
};

use crate::api::{ApiError, Client, JsonStream, Payload, filters, image_path, segment, url};
use crate::verbs::text;

/// A client as an engine.
pub(crate) struct ApiEngine<'a> {
    pub(crate) client: &'a Client,
}

fn failed(error: ApiError) -> EngineError {
    match error.status() {
        Some(404) => EngineError::NotFound(error.to_string()),
        Some(403 | 409) => EngineError::Conflict(error.to_string()),
        _ => EngineError::Failed(error.to_string()),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Answer<T> {
    serde_json::from_value(value)
        .map_err(|e| EngineError::Failed(format!("the engine's answer is not understood: {e}")))
}

fn body(value: &impl serde::Serialize) -> Answer<Payload> {
    serde_json::to_value(value)
        .map(Payload::Json)
        .map_err(|e| EngineError::Failed(format!("the request cannot be written: {e}")))
}

fn found<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(EngineError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn of_project(project: &str) -> String {
    filters(&[format!("label=com.docker.compose.project={project}")])
}

impl<'a> ApiEngine<'a> {
    /// An engine behind a call's client.
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Answer<T> {
        read(self.client.get(path).await.map_err(failed)?)
    }

    pub(crate) async fn post(&self, path: &str, payload: Payload) -> Answer<Value> {
        self.client.post(path, payload).await.map_err(failed)
    }

    async fn delete(&self, path: &str) -> Answer<()> {
        self.client.delete(path).await.map(drop).map_err(failed)
    }

    /// Asks again whenever something has happened to the container, until `done`.
    async fn watch(
        &self,
        id: &str,
        done: impl Fn(&ContainerInspect) -> bool,
    ) -> Answer<ContainerInspect> {
        let now = self.inspect(id).await?;
        if done(&now) {
            return Ok(now);
        }
        let wanted = filters(&[format!("container={id}"), "type=container".to_owned()]);
        let path = url("/events", &[("filters", &wanted)]);
        let response =
            self.client.send(Method::GET, &path, Payload::Empty, &[]).await.map_err(failed)?;
        let mut events = JsonStream::new(response);
        loop {
            // What happened before the engine listened is seen here.
            let now = self.inspect(id).await?;
            if done(&now) {
                return Ok(now);
            }
            if events.next().await.map_err(failed)?.is_none() {
                return Err(EngineError::Failed("the engine has gone away".to_owned()));
            }
        }
    }
}

impl Engine for ApiEngine<'_> {
    async fn containers(&self, project: &str) -> Answer<Vec<ContainerSummary>> {
        self.get(&url("/containers/json", &[("all", "1"), ("filters", &of_project(project))])).await
    }

    async fn inspect(&self, id: &str) -> Answer<ContainerInspect> {
        self.get(&format!("/containers/{}/json", segment(id))).await
    }

    async fn image(&self, name: &str) -> Answer<Option<ImageInspect>> {
        found(self.get(&format!("/images/{}/json", image_path(name))).await)
    }

    async fn networks(&self, project: &str) -> Answer<Vec<NetworkInspect>> {
        self.get(&url("/networks", &[("filters", &of_project(project))])).await
    }

    async fn network(&self, name: &str) -> Answer<Option<NetworkInspect>> {
        let network: Option<NetworkInspect> =
            found(self.get(&format!("/networks/{}", segment(name))).await)?;
        // The engine also finds networks by the beginning of their id.
        Ok(network.filter(|n| n.name == name || n.id == name))
    }

    async fn create_network(&self, request: &NetworkCreateRequest) -> Answer<String> {
        let made = self.post("/networks/create", body(request)?).await?;
        Ok(text(&made, "Id").to_owned())
    }

    async fn remove_network(&self, id: &str) -> Answer<()> {
        self.delete(&format!("/networks/{}", segment(id))).await
    }

    async fn disconnect(&self, network: &str, container: &str) -> Answer<()> {
        let path = format!("/networks/{}/disconnect", segment(network));
        let body = json!({"Container": container, "Force": true});
        self.post(&path, Payload::Json(body)).await.map(drop)
    }

    async fn volumes(&self, project: &str) -> Answer<Vec<Volume>> {
        let list: VolumeList =
            self.get(&url("/volumes", &[("filters", &of_project(project))])).await?;
        Ok(list.volumes)
    }

    async fn volume(&self, name: &str) -> Answer<Option<Volume>> {
        found(self.get(&format!("/volumes/{}", segment(name))).await)
    }

    async fn create_volume(&self, request: &VolumeCreateRequest) -> Answer<()> {
        self.post("/volumes/create", body(request)?).await.map(drop)
    }

    async fn remove_volume(&self, name: &str) -> Answer<()> {
        self.delete(&format!("/volumes/{}", segment(name))).await
    }

    async fn create(
        &self,
        name: &str,
        platform: &str,
        request: &CreateRequest,
    ) -> Answer<(String, Vec<String>)> {
        let path = url("/containers/create", &[("name", name), ("platform", platform)]);
        let made: CreateResponse = read(self.post(&path, body(request)?).await?)?;
        Ok((made.id, made.warnings))
    }

    async fn start(&self, id: &str) -> Answer<()> {
        let path = format!("/containers/{}/start", segment(id));
        self.post(&path, Payload::Empty).await.map(drop)
    }

    async fn stop(&self, id: &str, timeout: Option<i64>) -> Answer<()> {
        let seconds = timeout.map(|t| t.to_string()).unwrap_or_default();
        let path = url(&format!("/containers/{}/stop", segment(id)), &[("t", &seconds)]);
        self.post(&path, Payload::Empty).await.map(drop)
    }

    async fn remove(&self, id: &str, force: bool, volumes: bool) -> Answer<()> {
        let bit = |on: bool| if on { "1" } else { "" };
        let query = [("force", bit(force)), ("v", bit(volumes))];
        self.delete(&url(&format!("/containers/{}", segment(id)), &query)).await
    }

    async fn rename(&self, id: &str, name: &str) -> Answer<()> {
        let path = url(&format!("/containers/{}/rename", segment(id)), &[("name", name)]);
        self.post(&path, Payload::Empty).await.map(drop)
    }

    async fn upload(&self, id: &str, path: &str, archive: Vec<u8>) -> Answer<()> {
        let path = url(&format!("/containers/{}/archive", segment(id)), &[("path", path)]);
        let stream = Payload::Stream(Box::pin(std::io::Cursor::new(archive)), "application/x-tar");
        self.client.send(Method::PUT, &path, stream, &[]).await.map(drop).map_err(failed)
    }

    async fn exec(&self, id: &str, request: &ExecCreateRequest) -> Answer<i64> {
        let path = format!("/containers/{}/exec", segment(id));
        let made = self.post(&path, body(request)?).await?;
        let exec = text(&made, "Id").to_owned();
        let start = Some(json!({"Detach": false, "Tty": false}));
        let (mut stream, _) =
            self.client.hijack(&format!("/exec/{exec}/start"), start).await.map_err(failed)?;
        // The end of the output is the end of the command.
        tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .map_err(|e| EngineError::Failed(format!("the connection to the hook broke: {e}")))?;
        let state: Value = self.get(&format!("/exec/{exec}/json")).await?;
        Ok(state["ExitCode"].as_i64().unwrap_or(0))
    }

    async fn until(&self, id: &str, until: Until) -> Answer<ContainerInspect> {
        let stopped = |c: &ContainerInspect| {
            matches!(c.state.status.as_str(), "exited" | "dead") && !c.state.restarting
        };
        let probed = |c: &ContainerInspect| {
            stopped(c)
                || (c.state.running
                    && c.state.health.as_ref().is_none_or(|h| h.status != "starting"))
        };
        match until {
            Until::Stopped => self.watch(id, stopped).await,
            Until::Probed => self.watch(id, probed).await,
        }
    }

    async fn remove_image(&self, name: &str) -> Answer<()> {
        self.delete(&format!("/images/{}", image_path(name))).await
    }
}
