//! `moby.buildkit.v1.Control`: builds from start to answer, what they tell, what is kept of them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use async_stream::stream;
use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::builds::{Build, Started};
use crate::kit::BuildKit;
use crate::past::Past;
use crate::proto::grpc::health::v1::health_check_response::ServingStatus;
use crate::proto::grpc::health::v1::health_server::Health;
use crate::proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use crate::proto::moby::buildkit::v1::control_server::Control;
use crate::proto::moby::buildkit::v1::frontend::{ReturnRequest, result};
use crate::proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest,
    BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest, InfoResponse,
    ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse,
    StatusRequest, StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse,
    UsageRecord,
};
use crate::solve::{Ask, Outcome};
use crate::{cache, export, fault, solve, usage};

/// Bytes of a session's tunnel in one message, and between it and its session.
const TUNNEL: usize = 32 << 10;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for BuildKit {
    type PruneStream = Messages<UsageRecord>;
    type StatusStream = Messages<StatusResponse>;
    type SessionStream = Messages<BytesMessage>;
    type ListenBuildHistoryStream = Messages<BuildHistoryEvent>;

    async fn solve(
        &self,
        request: Request<SolveRequest>,
    ) -> Result<Response<SolveResponse>, Status> {
        let request = request.into_inner();
        refuse(&request)?;
        let (started, returned) = self.builds().start(request, self.clock().clone())?;
        let answer = run(self, &started, returned).await;
        answer.map(|exporter_response| Response::new(SolveResponse { exporter_response }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let reference = request.into_inner().r#ref;
        let (history, wanted) = (self.history().clone(), reference.clone());
        let told = tokio::task::spawn_blocking(move || history.told(&wanted)).await;
        if let Some(told) = told.ok().flatten() {
            return Ok(Response::new(Box::pin(futures_util::stream::iter(
                told.into_iter().map(Ok),
            ))));
        }
        let journal = self.builds().journal(&reference).await?;
        Ok(Response::new(Box::pin(stream! {
            let mut place = 0;
            while let Some((messages, next)) = journal.read(place).await {
                place = next;
                for message in messages {
                    yield Ok(message);
                }
            }
        })))
    }

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let offer = self
            .offer(request.metadata().as_ref())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(tunnel(self.clone(), offer, request.into_inner())))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        Ok(Response::new(ListWorkersResponse { record: vec![self.worker()] }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse { buildkit_version: Some(self.version()) }))
    }

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let request = request.into_inner();
        let past = Past::read(&request.filter, self.clock().now())?;
        let mut response = Response::new(history(self, request, past));
        let now = jiff::Timestamp::try_from(self.clock().now()).unwrap_or_default().to_string();
        if let Ok(now) = AsciiMetadataValue::try_from(now) {
            response.metadata_mut().insert("buildkit-current-timestamp", now);
        }
        Ok(response)
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        let UpdateBuildHistoryRequest { r#ref, pinned, delete, finalize } = request.into_inner();
        let history = self.history().clone();
        let update = move || match (delete, finalize) {
            (true, _) => history.delete(&r#ref),
            // Nothing of a record is left to be written later.
            (false, true) => Ok(()),
            (false, false) => history.pin(&r#ref, pinned),
        };
        tokio::task::spawn_blocking(update)
            .await
            .map_err(|e| Status::internal(e.to_string()))??;
        Ok(Response::new(UpdateBuildHistoryResponse {}))
    }

    async fn disk_usage(
        &self,
        request: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        let record = usage::list(self, request.into_inner()).await?;
        Ok(Response::new(DiskUsageResponse { record }))
    }

    async fn prune(
        &self,
        request: Request<PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let gone = usage::prune(self, request.into_inner()).await?;
        Ok(Response::new(Box::pin(futures_util::stream::iter(gone.into_iter().map(Ok)))))
    }
}

#[tonic::async_trait]
impl Health for BuildKit {
    type WatchStream = Messages<HealthCheckResponse>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(stream! {
            yield Ok(HealthCheckResponse { status: ServingStatus::Serving.into() });
            // It serves as long as there is a connection to ask on.
            std::future::pending::<()>().await;
        })))
    }
}

/// Source policies rewrite or deny what a build graph fetches; there is no graph here.
pub(crate) fn no_source_policies() -> Status {
    Status::unimplemented(
        "source policies are not supported by wharf: build without EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
    )
}

/// Refuses what cannot be done with any build.
fn refuse(request: &SolveRequest) -> Result<(), Status> {
    if request.definition.as_ref().is_some_and(|d| !d.def.is_empty()) {
        return Err(Status::unimplemented(
            "this is a build graph (LLB); wharf builds Dockerfiles, not graphs: give it a Dockerfile",
        ));
    }
    let policy = request.source_policy.as_ref().is_some_and(|p| !p.rules.is_empty());
    if policy || !request.source_policy_session.is_empty() {
        return Err(no_source_policies());
    }
    if request.enable_session_exporter {
        return Err(Status::unimplemented(
            "exporters chosen by the session are not supported by wharf: name them with --output",
        ));
    }
    Ok(())
}

/// Carries out a build and keeps its record.
pub(crate) async fn run(
    kit: &BuildKit,
    started: &Started,
    returned: oneshot::Receiver<ReturnRequest>,
) -> Result<HashMap<String, String>, Status> {
    let recording = kit.history().follow(&started.build);
    let answer = build(kit, &started.build, returned).await;
    recording.end(answer.as_ref());
    answer
}

/// One build: results from the client, which steers it, or straight from the frontend; then its outputs.
async fn build(
    kit: &BuildKit,
    build: &Arc<Build>,
    returned: oneshot::Receiver<ReturnRequest>,
) -> Result<HashMap<String, String>, Status> {
    export::check(build)?;
    let caches = cache::exports(&build.request)?;
    let outcomes = if build.request.frontend.is_empty() {
        let returned = returned.await.map_err(|_| Status::cancelled("the client has gone"))?;
        chosen(kit, returned)?
    } else {
        let ask = Ask {
            frontend: build.request.frontend.clone(),
            options: build.request.frontend_attrs.clone(),
            inputs: build.request.frontend_inputs.clone(),
        };
        solve::solve(kit, build, ask).await?.outcomes
    };
    let mut answer = export::export(kit, build, &outcomes).await?;
    for export in &caches {
        answer.extend(cache::export(kit, build, export, &outcomes).await?);
    }
    Ok(answer)
}

/// The results that a client wants exported, or its error.
fn chosen(
    kit: &BuildKit,
    returned: ReturnRequest,
) -> Result<Vec<(Option<String>, Arc<Outcome>)>, Status> {
    if let Some(error) = returned.error.filter(|e| e.code != 0) {
        return Err(fault::returned(error));
    }
    let refs: Vec<(Option<String>, String)> = match returned.result.and_then(|r| r.result) {
        None => Vec::new(),
        Some(result::Result::RefDeprecated(id)) => vec![(None, id)],
        Some(result::Result::Ref(r)) => vec![(None, r.id)],
        Some(result::Result::RefsDeprecated(map)) => {
            map.refs.into_iter().map(|(platform, id)| (Some(platform), id)).collect()
        }
        Some(result::Result::Refs(map)) => {
            map.refs.into_iter().map(|(platform, r)| (Some(platform), r.id)).collect()
        }
    };
    let mut outcomes = Vec::new();
    // A result without files has no id.
    for (platform, id) in refs.into_iter().filter(|(_, id)| !id.is_empty()) {
        outcomes.push((platform, kit.builds().outcome(&id)?));
    }
    outcomes.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(outcomes)
}

/// Past builds, builds of now, and what happens from then on, as far as it was asked for.
fn history(
    kit: &BuildKit,
    request: BuildHistoryRequest,
    past: Past,
) -> Messages<BuildHistoryEvent> {
    let mut news = kit.history().news();
    let limit = usize::try_from(request.limit).ok().filter(|l| *l > 0).unwrap_or(usize::MAX);
    let event = |kind: BuildHistoryEventType, record| BuildHistoryEvent {
        r#type: kind.into(),
        record: Some(record),
    };
    let wanted = move |record: &BuildHistoryRecord| {
        (request.r#ref.is_empty() || request.r#ref == record.r#ref) && past.matches(record)
    };
    let running = kit.builds().all().into_iter().filter(|b| !b.request.internal);
    let mut first: Vec<_> = running
        .map(|build| kit.history().running(&build))
        .filter(&wanted)
        .map(|record| event(BuildHistoryEventType::Started, record))
        .collect();
    if !request.active_only {
        let ended = kit.history().ended().into_iter().filter(&wanted);
        first.extend(ended.map(|record| event(BuildHistoryEventType::Complete, record)));
    }
    first.truncate(limit);
    let early_exit = request.early_exit;
    Box::pin(stream! {
        for event in first {
            yield Ok(event);
        }
        if early_exit {
            return;
        }
        loop {
            match news.recv().await {
                Ok(event) => {
                    if event.record.as_ref().is_some_and(&wanted) {
                        yield Ok(event);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    yield Err(Status::data_loss(format!("{missed} events were missed")));
                    break;
                }
                Err(RecvError::Closed) => break,
            }
        }
    })
}

/// A session inside a stream of messages.
fn tunnel(
    kit: BuildKit,
    offer: crate::session::Offer,
    mut messages: Streaming<BytesMessage>,
) -> Messages<BytesMessage> {
    let (near, far) = tokio::io::duplex(TUNNEL);
    let (mut reader, mut writer) = tokio::io::split(near);
    let holding = async move { kit.hold(far, offer).await };
    let feeding = async move {
        while let Ok(Some(message)) = messages.message().await {
            if writer.write_all(&message.data).await.is_err() {
                break;
            }
        }
        // The session sees the end of the client's stream as the end of its connection.
        drop(writer.shutdown().await);
    };
    let mut working = Box::pin(async move { tokio::join!(holding, feeding) });
    Box::pin(stream! {
        let mut chunk = vec![0; TUNNEL];
        let mut works = true;
        loop {
            tokio::select! {
                _ = &mut working, if works => works = false,
                read = reader.read(&mut chunk) => match read {
                    Ok(n @ 1..) => yield Ok(BytesMessage { data: Bytes::copy_from_slice(&chunk[..n]) }),
                    _ => break,
                },
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pb::Definition;

    #[test]
    fn what_no_build_can_says_what_to_do() {
        let graph = Definition { def: vec![Bytes::from_static(b"x")], ..Definition::default() };
        let definition = Some(graph);
        let session = "s".to_owned();
        for (request, says) in [
            (SolveRequest { definition, ..SolveRequest::default() }, "give it a Dockerfile"),
            (
                SolveRequest { source_policy_session: session, ..SolveRequest::default() },
                "build without EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
            ),
            (
                SolveRequest { enable_session_exporter: true, ..SolveRequest::default() },
                "name them with --output",
            ),
        ] {
            let refused = refuse(&request).unwrap_err();
            assert!(refused.message().contains(says), "{refused}");
        }
        refuse(&SolveRequest::default()).unwrap();
    }
}
