//! `moby.buildkit.v1.frontend.LLBBridge`: what a client asks of the build that it steers.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use wharf_spec::dockerfile::ignore::Pattern;
use wharf_sys::root::Root;

use crate::builds::Build;
use crate::kit::BuildKit;
use crate::proto::fsutil::types::Stat;
use crate::proto::moby::buildkit::v1::VertexWarning;
use crate::proto::moby::buildkit::v1::apicaps::ApiCap;
use crate::proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridge;
use crate::proto::moby::buildkit::v1::frontend::{
    EvaluateRequest, EvaluateResponse, InputsRequest, InputsResponse, PingRequest, PongResponse,
    ReadDirRequest, ReadDirResponse, ReadFileRequest, ReadFileResponse, Ref, RefMap,
    ResolveImageConfigRequest, ResolveImageConfigResponse, ResolveSourceImageResponse,
    ResolveSourceMetaRequest, ResolveSourceMetaResponse, Result as Answer, ReturnRequest,
    ReturnResponse, SolveRequest, SolveResponse, StatFileRequest, StatFileResponse, WarnRequest,
    WarnResponse, result,
};
use crate::proto::moby::buildkit::v1::sourcepolicy::Policy;
use crate::proto::pb;
use crate::remote::broken;
use crate::solve::{Ask, Outcome, Solved, solve};
use crate::{fsutil, graph, metadata};

/// What this side can. With an empty list clients wait for ever.
const CAPS: &[&str] = &[
    "solve.base",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "frontend.caps",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "source.metaresolver",
];
/// What builds can, of that which clients ask about.
const BUILD_CAPS: &[&str] = &[
    "exporter.image.attestations",
    "exporter.multiple",
    "gc.freespacefilter",
    "source.local.sessionid",
];
/// Where an image is to be looked up, as BuildKit numbers it: at its registry.
const REGISTRY: i32 = 0;
/// The largest file that is read at once.
const MAX_READ: u64 = 15 << 20;

#[tonic::async_trait]
impl LlbBridge for BuildKit {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PongResponse>, Status> {
        steered(self, request.metadata()).await?;
        let caps = |names: &[&str]| names.iter().map(|n| cap(n)).collect();
        Ok(Response::new(PongResponse {
            frontend_api_caps: caps(CAPS),
            llb_caps: caps(BUILD_CAPS),
            workers: vec![self.worker()],
        }))
    }

    async fn solve(
        &self,
        request: Request<SolveRequest>,
    ) -> Result<Response<SolveResponse>, Status> {
        let build = steered(self, request.metadata()).await?;
        let request = request.into_inner();
        no_policies(&request.source_policies)?;
        let solved = match &request.definition {
            Some(graph) if request.frontend.is_empty() && !graph.def.is_empty() => {
                let outcome = self.builds().outcome(&graph::result(graph)?)?;
                Solved { outcomes: vec![(None, outcome)], ..Solved::default() }
            }
            // An empty graph is a result without files.
            _ if request.frontend.is_empty() => Solved::default(),
            _ => {
                let SolveRequest {
                    frontend, frontend_opt: options, frontend_inputs: inputs, ..
                } = request;
                solve(self, &build, Ask { frontend, options, inputs }).await?
            }
        };
        Ok(Response::new(SolveResponse { result: Some(shown(solved)), ..Default::default() }))
    }

    async fn r#return(
        &self,
        request: Request<ReturnRequest>,
    ) -> Result<Response<ReturnResponse>, Status> {
        let build = steered(self, request.metadata()).await?;
        build.give_back(request.into_inner())?;
        Ok(Response::new(ReturnResponse {}))
    }

    async fn inputs(
        &self,
        request: Request<InputsRequest>,
    ) -> Result<Response<InputsResponse>, Status> {
        let build = steered(self, request.metadata()).await?;
        let definitions = build.request.frontend_inputs.clone();
        Ok(Response::new(InputsResponse { definitions }))
    }

    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        steered(self, request.metadata()).await?;
        // Results are complete as soon as they have an id.
        self.builds().outcome(&request.get_ref().r#ref)?;
        Ok(Response::new(EvaluateResponse {}))
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        steered(self, request.metadata()).await?;
        let ReadFileRequest { r#ref, file_path, range, .. } = request.into_inner();
        let range = range.map(|r| (r.offset, r.length));
        let data = in_tree(self, &r#ref, move |tree| read(tree, &file_path, range)).await?;
        Ok(Response::new(ReadFileResponse { data }))
    }

    async fn read_dir(
        &self,
        request: Request<ReadDirRequest>,
    ) -> Result<Response<ReadDirResponse>, Status> {
        steered(self, request.metadata()).await?;
        let ReadDirRequest { r#ref, dir_path, include_pattern, .. } = request.into_inner();
        let entries = in_tree(self, &r#ref, move |tree| list(tree, &dir_path, &include_pattern));
        Ok(Response::new(ReadDirResponse { entries: entries.await? }))
    }

    async fn stat_file(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        steered(self, request.metadata()).await?;
        let StatFileRequest { r#ref, path, .. } = request.into_inner();
        let stat = in_tree(self, &r#ref, move |tree| stat(tree, &path)).await?;
        Ok(Response::new(StatFileResponse { stat: Some(stat) }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Result<Response<ResolveImageConfigResponse>, Status> {
        let build = steered(self, request.metadata()).await?;
        let request = request.into_inner();
        no_policies(&request.source_policies)?;
        let ResolveImageConfigRequest { r#ref: name, platform, resolve_mode, log_name, .. } =
            request;
        if request.resolver_type != REGISTRY {
            return Err(Status::unimplemented(format!(
                "wharf does not look up {name} in an OCI layout of the client; push it to a registry"
            )));
        }
        let wanted = metadata::Wanted { name, platform, mode: resolve_mode, shown: log_name };
        let metadata::Found { digest, config, name } =
            metadata::look_up(self, &build, wanted).await?;
        Ok(Response::new(ResolveImageConfigResponse { digest, config, r#ref: name }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<ResolveSourceMetaRequest>,
    ) -> Result<Response<ResolveSourceMetaResponse>, Status> {
        let build = steered(self, request.metadata()).await?;
        let request = request.into_inner();
        no_policies(&request.source_policies)?;
        let source = request.source.unwrap_or_default();
        let Some(name) = source.identifier.strip_prefix("docker-image://") else {
            let text = format!(
                "wharf knows nothing about the source {}: it looks up images, as docker-image://NAME",
                source.identifier
            );
            return Err(Status::unimplemented(text));
        };
        let (name, platform) = (name.to_owned(), request.platform);
        let (mode, shown) = (request.resolve_mode, request.log_name);
        let wanted = metadata::Wanted { name, platform, mode, shown };
        let metadata::Found { digest, config, name } =
            metadata::look_up(self, &build, wanted).await?;
        let identifier = format!("docker-image://{name}");
        Ok(Response::new(ResolveSourceMetaResponse {
            source: Some(pb::SourceOp { identifier, attrs: source.attrs }),
            image: Some(ResolveSourceImageResponse { digest, config }),
        }))
    }

    async fn warn(&self, request: Request<WarnRequest>) -> Result<Response<WarnResponse>, Status> {
        let build = steered(self, request.metadata()).await?;
        let WarnRequest { digest: vertex, level, short, detail, url, info, ranges } =
            request.into_inner();
        build.journal.warn(VertexWarning { vertex, level, short, detail, url, info, ranges });
        Ok(Response::new(WarnResponse {}))
    }
}

/// The build that a call is about, which may begin a moment later.
async fn steered(kit: &BuildKit, metadata: &MetadataMap) -> Result<Arc<Build>, Status> {
    let id = metadata.get("buildkit-controlapi-buildid").and_then(|v| v.to_str().ok());
    let id = id.ok_or_else(|| Status::invalid_argument("no buildid found in context"))?;
    kit.builds().find(id).await
}

fn no_policies(policies: &[Policy]) -> Result<(), Status> {
    match policies.iter().any(|p| !p.rules.is_empty()) {
        true => Err(crate::control::no_source_policies()),
        false => Ok(()),
    }
}

fn cap(id: &str) -> ApiCap {
    ApiCap { id: id.to_owned(), enabled: true, ..ApiCap::default() }
}

/// Results as a client gets them: with an id, and as a graph for other builds.
fn shown(solved: Solved) -> Answer {
    let reference = |outcome: &Outcome| Ref {
        id: outcome.id.clone(),
        def: Some(graph::of_result(&outcome.id)),
    };
    let result = match &solved.outcomes[..] {
        [] => result::Result::Ref(Ref::default()),
        [(None, outcome)] => result::Result::Ref(reference(outcome)),
        several => {
            let refs = several.iter().map(|(platform, outcome)| {
                (platform.clone().unwrap_or_default(), reference(outcome))
            });
            result::Result::Refs(RefMap { refs: refs.collect() })
        }
    };
    Answer { result: Some(result), metadata: solved.metadata }
}

/// Does something with the files of a result.
async fn in_tree<T: Send + 'static>(
    kit: &BuildKit,
    id: &str,
    work: impl FnOnce(&Root) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let outcome = kit.builds().outcome(id)?;
    let work = move || {
        let tree = outcome.built.tree().map_err(|e| Status::internal(e.to_string()))?;
        work(&tree)
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

fn read(tree: &Root, path: &str, range: Option<(i64, i64)>) -> Result<Bytes, Status> {
    let failed = missing("open", path);
    let mut file = tree.read(&inside(path)).map_err(&failed)?;
    let (offset, length) = range.unwrap_or((0, 0));
    file.seek(SeekFrom::Start(offset.unsigned_abs())).map_err(&failed)?;
    let wanted = if length > 0 { length.unsigned_abs() } else { MAX_READ + 1 };
    let mut data = Vec::new();
    file.take(wanted).read_to_end(&mut data).map_err(&failed)?;
    if data.len() as u64 > MAX_READ {
        return Err(Status::resource_exhausted(format!(
            "{path} is larger than {} MiB",
            MAX_READ >> 20
        )));
    }
    Ok(data.into())
}

fn list(tree: &Root, path: &str, pattern: &str) -> Result<Vec<Stat>, Status> {
    let failed = missing("read", path);
    let pattern = match pattern {
        "" => None,
        text => Some(Pattern::new(text).map_err(|e| Status::invalid_argument(e.to_string()))?),
    };
    let dir = tree.dir(&inside(path)).map_err(&failed)?;
    let mut names = dir.entries().map_err(&failed)?;
    names.sort();
    let mut entries = Vec::new();
    for name in names {
        if pattern.as_ref().is_some_and(|p| !p.matches(&name.to_string_lossy())) {
            continue;
        }
        let found = dir.lstat(&name).map_err(&failed)?;
        let link = dir.read_link(&name).ok().map(|l| l.to_string_lossy().into_owned());
        entries.push(fsutil::stat(Path::new(&name), &found, link));
    }
    Ok(entries)
}

fn stat(tree: &Root, path: &str) -> Result<Stat, Status> {
    let found = tree.stat(&inside(path)).map_err(missing("stat", path))?;
    let name = Path::new(path).file_name().unwrap_or_else(|| ".".as_ref());
    Ok(fsutil::stat(Path::new(name), &found, None))
}

/// A path as the tree takes it.
fn inside(path: &str) -> PathBuf {
    let relative = path.trim_start_matches('/');
    PathBuf::from(if relative.is_empty() { "." } else { relative })
}

/// Go's words: clients look for them.
fn missing(action: &'static str, path: &str) -> impl Fn(std::io::Error) -> Status {
    let path = path.to_owned();
    move |e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Status::unknown(format!("{action} {path}: no such file or directory"))
        }
        _ => broken("read a file of a result")(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_result_are_read_in_ranges_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "0123456789").unwrap();
        std::os::unix::fs::symlink("/a.txt", dir.path().join("l")).unwrap();
        let tree = Root::open(dir.path()).unwrap();
        assert_eq!(read(&tree, "/a.txt", None).unwrap(), "0123456789");
        assert_eq!(read(&tree, "l", Some((2, 3))).unwrap(), "234");
        let gone = read(&tree, "/none", None).unwrap_err();
        assert_eq!(gone.message(), "open /none: no such file or directory");
        let names = |pattern: &str| {
            let entries = list(&tree, "/", pattern).unwrap();
            entries.into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["a.txt", "l"]);
        assert_eq!(names("*.txt"), ["a.txt"]);
        assert_eq!(list(&tree, "", "l").unwrap()[0].linkname, "/a.txt");
        assert_eq!(stat(&tree, "a.txt").unwrap().size, 10);
        assert!(stat(&tree, "").unwrap().mode & (1 << 31) != 0);
    }
}
