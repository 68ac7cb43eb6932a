//! `POST /build`: the classic door of the builder, with the whole syntax of today.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_base::sync::Mutex;
use wharf_build::inputs::Nothing;
use wharf_build::request::Allow;
use wharf_build::{
    BuildError, Built, CacheEntry, CacheScope, Credentials, ErrorKind, Event, Inputs, NetworkMode,
    NoCache, PruneCache, Request, Secrets, Ssh,
};
use wharf_engine::images as ops;
use wharf_image::{Image, Repack};
use wharf_spec::docker::{ErrorDetail, ProgressLine, Resources, Ulimit, rfc3339};
use wharf_spec::dockerconfig::{AuthConfig, auth_key};
use wharf_spec::reference::Reference;

use super::build_context::{Place, context, missing, named, take_dockerfile};
use super::containers::parse_platform;
use super::{Door, blocking};
use crate::call::Call;
use crate::classic::Classic;
use crate::fault::Fault;
use crate::progress::{self, encode, said};
use crate::query::Query;
use crate::reply::{self, Reply};
use crate::route::BuildAction;
use crate::structured;

/// Names that `POST /build/prune` takes.
const PRUNE_FILTERS: &[&str] = &[
    "all",
    "description",
    "id",
    "inuse",
    "label",
    "label!",
    "parent",
    "private",
    "shared",
    "type",
    "until",
];

/// Builds that can be cancelled by name.
#[derive(Default)]
pub(crate) struct Running(Mutex<HashMap<String, CancellationToken>>);

pub(super) async fn build(
    door: Arc<Door>,
    action: BuildAction,
    call: Call,
) -> Result<Reply, Fault> {
    match action {
        BuildAction::Build => match call.query.text("version").as_str() {
            "" | "1" => start(door, call).await,
            "2" => Box::pin(super::build_posted::start(door, call)).await,
            other => Err(Fault::invalid(format!("invalid version {other:?}"))),
        },
        BuildAction::Cancel => {
            let id = call.query.text("id");
            if id.is_empty() {
                return Err(Fault::invalid("build ID not provided"));
            }
            match door.builds.0.lock().get(&id) {
                Some(token) => token.cancel(),
                None => {
                    return Err(Fault::new(StatusCode::NOT_FOUND, format!("no such build: {id}")));
                }
            }
            Ok(reply::status(StatusCode::NO_CONTENT))
        }
        BuildAction::Context => missing(door, call).await,
        BuildAction::Prune => prune(&door, &call).await,
    }
}

/// The options of one request.
struct Options {
    request: Request,
    dockerfile: String,
    names: Vec<Reference>,
    remote: String,
    /// The key of a context that is kept; empty if the body is all of it.
    kept: String,
    view: View,
    id: String,
    inputs: Inputs,
    contexts: BTreeMap<String, String>,
    cache_to: Vec<CacheTo>,
    finish: Finish,
}

/// How the image is made of the result: what only wharf's own command line asks for.
#[derive(Default)]
struct Finish {
    /// Annotations of its manifest.
    annotations: BTreeMap<String, String>,
    /// How its layers are packed.
    repack: Option<Repack>,
}

/// Where the cache goes besides this engine.
#[derive(Debug, Clone, Deserialize)]
struct CacheTo {
    /// `registry`, or `local`: then this door names images for whoever asks to fetch.
    r#type: String,
    #[serde(default)]
    r#ref: String,
    /// `min` or `max`.
    #[serde(default)]
    mode: String,
    #[serde(default)]
    mounts: bool,
    /// `compression` and its kin.
    #[serde(default)]
    packing: BTreeMap<String, String>,
}

/// How progress is told.
enum View {
    /// Classic lines.
    Classic(Box<Classic>),
    /// The id alone; the lines only if it fails.
    Quiet(Box<Classic>, Vec<Bytes>),
    /// Objects for wharf's own command line.
    Structured,
}

async fn start(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let options = options(&call)?;
    let (lines, receiver) = mpsc::unbounded_channel();
    let work = run(door, options, call, lines);
    Ok(reply::stream("application/json", progress::run(work, receiver).await?))
}

async fn run(
    door: Arc<Door>,
    options: Options,
    call: Call,
    out: mpsc::UnboundedSender<Bytes>,
) -> Result<(), Fault> {
    let Options {
        mut request,
        dockerfile,
        names,
        remote,
        kept,
        mut view,
        id,
        mut inputs,
        contexts,
        cache_to,
        finish,
    } = options;
    let credentials = inputs.credentials.clone();
    let keep =
        request.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|v| v == "1" || v == "true");
    let place = Place { remote: &remote, kept: &kept, keep_git: keep };
    let tree = context(&door, call, place, &inputs).await?;
    take_dockerfile(&tree, &dockerfile, !remote.is_empty(), &mut request)?;
    inputs.named = named(&door, &tree, contexts, &inputs).await?;
    inputs.context = Arc::new(tree);
    let cancel = CancellationToken::new();
    let _listed = Listed::new(&door, &id, &cancel);
    let only_check = request.check;
    let (events, mut told) = mpsc::unbounded_channel();
    let building = Box::pin(door.builder.build(request, inputs, events, cancel));
    tokio::pin!(building);
    // Nobody reads any more if the client is gone, and then this is dropped.
    let say = |lines: Vec<Bytes>| lines.into_iter().for_each(|line| drop(out.send(line)));
    let built = loop {
        tokio::select! {
            biased;
            Some(event) = told.recv() => say(view.take(event)),
            built = &mut building => break built,
        }
    };
    while let Ok(event) = told.try_recv() {
        say(view.take(event));
    }
    let (structured, quiet) = (matches!(view, View::Structured), matches!(view, View::Quiet(..)));
    say(view.rest(built.is_ok()));
    let built = match built {
        Ok(_) if only_check => return Ok(()),
        Ok(built) => built,
        // Nothing was told: the request itself is wrong.
        Err(e @ BuildError::Dockerfile { .. }) if !structured => return Err(fault(&e)),
        Err(e) => {
            say(structured::place(&e).into_iter().filter(|_| structured).collect());
            say(vec![encode(&failure(&e, structured))]);
            return Ok(());
        }
    };
    for to in &cache_to {
        match export_cache(&built, to, credentials.as_ref()).await {
            Ok(line) => say(line.into_iter().collect()),
            Err(e) => {
                say(vec![encode(&broken(0, e.message().to_owned()))]);
                return Ok(());
            }
        }
    }
    let image = store(&door, built, &names, finish).await?;
    say(ending(&image, &names, structured, quiet));
    Ok(())
}

/// Makes the result an image with its names.
async fn store(
    door: &Door,
    built: Built,
    names: &[Reference],
    finish: Finish,
) -> Result<Image, Fault> {
    let own = names.to_vec();
    let Finish { annotations, repack } = finish;
    let stored = blocking(move || {
        let stored = built.annotated(&own, annotations, repack);
        stored.map_err(|e| wharf_engine::EngineError::system("store the image", e))
    });
    let image = stored.await?;
    let id = image.id().to_string();
    for name in names {
        door.images.tell("tag", &id, &name.familiar(), Some(&image));
    }
    Ok(image)
}

/// The last lines of a build that went well.
fn ending(image: &Image, names: &[Reference], structured: bool, quiet: bool) -> Vec<Bytes> {
    let id = image.id().to_string();
    if quiet {
        return vec![said(format!("{id}\n"))];
    }
    let mut last = vec![aux(&id)];
    if !structured {
        last.push(said(format!("Successfully built {}\n", image.id().short())));
        last.extend(names.iter().map(|n| said(format!("Successfully tagged {}\n", n.familiar()))));
    }
    last
}

/// Exports the cache of a build; a line that names the images of which a local cache is made.
async fn export_cache(
    built: &Built,
    to: &CacheTo,
    credentials: &dyn Credentials,
) -> Result<Option<Bytes>, Fault> {
    let repack = packing("cacheto", &to.packing)?;
    let scope = CacheScope { all_stages: to.mode == "max", mounts: to.mounts, repack };
    if to.r#type == "local" {
        let images = built.cache_images(scope).await.map_err(|e| fault(&e))?;
        let ids: Vec<String> = images.iter().map(|i| i.id().to_string()).collect();
        let mut line = serde_json::json!({ "wharf": { "cache": ids } }).to_string();
        line.push_str("\r\n");
        return Ok(Some(line.into()));
    }
    let name = Reference::parse(&to.r#ref)
        .map_err(|e| Fault::invalid(format!("cache-to: invalid reference {:?}: {e}", to.r#ref)))?;
    let auth = credentials.auth(name.domain()).await.map_err(Fault::invalid)?;
    built.push_cache(&name, scope, &auth).await.map_err(|e| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, wharf_base::error::chain(&e).to_string())
    })?;
    Ok(None)
}

impl View {
    fn of(q: &Query) -> View {
        match (q.text("progress").as_str(), q.truth("q")) {
            ("vertices", _) => View::Structured,
            (_, true) => View::Quiet(Box::default(), Vec::new()),
            _ => View::Classic(Box::default()),
        }
    }

    /// What is to be told now.
    fn take(&mut self, event: Event) -> Vec<Bytes> {
        match self {
            View::Classic(classic) => classic.lines(event),
            View::Quiet(classic, kept) => {
                kept.extend(classic.lines(event));
                Vec::new()
            }
            View::Structured => vec![structured::line(&event)],
        }
    }

    fn rest(self, well: bool) -> Vec<Bytes> {
        match self {
            View::Classic(classic) => classic.rest(),
            View::Quiet(..) if well => Vec::new(),
            View::Quiet(classic, kept) => kept.into_iter().chain(classic.rest()).collect(),
            View::Structured => Vec::new(),
        }
    }
}

/// A build's entry in the list, as long as it runs.
pub(super) struct Listed {
    door: Arc<Door>,
    id: String,
}

impl Listed {
    pub(super) fn new(door: &Arc<Door>, id: &str, cancel: &CancellationToken) -> Listed {
        if !id.is_empty() {
            door.builds.0.lock().insert(id.to_owned(), cancel.clone());
        }
        Listed { door: door.clone(), id: id.to_owned() }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.door.builds.0.lock().remove(&self.id);
    }
}

fn options(call: &Call) -> Result<Options, Fault> {
    let q = &call.query;
    refuse(q)?;
    let dockerfile = q.some("dockerfile").unwrap_or_else(|| "Dockerfile".into());
    let mut names = Vec::new();
    for name in q.all("t") {
        names.extend(ops::target(&name, "")?);
    }
    let platform = q.some("platform").filter(|p| !p.is_empty());
    let arguments: BTreeMap<String, Option<String>> = json(q, "buildargs")?.unwrap_or_default();
    let request = Request {
        dockerfile_name: dockerfile.clone(),
        target: q.some("target"),
        // Without a value it is what the client's environment lacks: as if it had not been given.
        args: arguments.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
        labels: json(q, "labels")?.unwrap_or_default(),
        platform: platform.map(|p| parse_platform(&p)).transpose()?,
        pull: q.truth("pull"),
        no_cache: no_cache(q)?,
        network: NetworkMode::parse(&q.text("networkmode")),
        extra_hosts: extra_hosts(q)?,
        resources: resources(q)?,
        shm_size: q.number("shmsize")?.unwrap_or(0),
        allow: allow(q)?,
        check: q.truth("check"),
        cache_from: json(q, "cachefrom")?.unwrap_or_default(),
        cache_from_alone: q.text("progress") != "vertices",
        inline_cache: q.truth("inlinecache"),
        reference: q.text("buildid"),
        ..Request::default()
    };
    Ok(Options {
        request,
        dockerfile,
        names,
        remote: q.text("remote"),
        kept: q.text("kept"),
        view: View::of(q),
        id: q.text("buildid"),
        inputs: Inputs {
            secrets: Arc::new(Sent::read(call.header("X-Wharf-Build-Secrets"))),
            ssh: Arc::new(Agents(decoded(call.header("X-Wharf-Build-Agents")))),
            credentials: Arc::new(Registries::read(call.header("X-Registry-Config"))),
            ..Inputs::default()
        },
        contexts: json(q, "contexts")?.unwrap_or_default(),
        cache_to: cache_to(q)?,
        finish: Finish {
            annotations: json(q, "annotations")?.unwrap_or_default(),
            repack: packing("packing", &json(q, "packing")?.unwrap_or_default())?,
        },
    })
}

/// How layers are to be packed, as the options of `of` say.
fn packing(of: &str, options: &BTreeMap<String, String>) -> Result<Option<Repack>, Fault> {
    let read = Repack::read(|key| options.get(key).map(String::as_str));
    read.map_err(|e| Fault::invalid(format!("{of}: {e}")))
}

fn cache_to(q: &Query) -> Result<Vec<CacheTo>, Fault> {
    let all: Vec<CacheTo> = json(q, "cacheto")?.unwrap_or_default();
    for to in &all {
        if !matches!(to.r#type.as_str(), "registry" | "local") {
            return Err(Fault::invalid(format!(
                "cacheto: type {:?} is not known: use registry or local",
                to.r#type
            )));
        }
        if !matches!(to.mode.as_str(), "" | "min" | "max") {
            return Err(Fault::invalid(format!(
                "cacheto: mode {:?} is not known: use min or max",
                to.mode
            )));
        }
        packing("cacheto", &to.packing)?;
    }
    Ok(all)
}

fn no_cache(q: &Query) -> Result<NoCache, Fault> {
    let stages: Vec<String> = json(q, "nocachefilter")?.unwrap_or_default();
    Ok(match (q.truth("nocache"), stages.is_empty()) {
        (true, _) => NoCache::All,
        (false, true) => NoCache::Nothing,
        (false, false) => NoCache::Stages(stages),
    })
}

fn allow(q: &Query) -> Result<Allow, Fault> {
    let mut out = Allow::default();
    for name in json::<Vec<String>>(q, "allow")?.unwrap_or_default() {
        match name.as_str() {
            "network.host" => out.network_host = true,
            "security.insecure" => out.security_insecure = true,
            other => {
                return Err(Fault::invalid(format!(
                    "unknown entitlement {other:?}: use network.host or security.insecure"
                )));
            }
        }
    }
    Ok(out)
}

/// A JSON object in a header; what cannot be read counts as none.
pub(super) fn decoded<T: DeserializeOwned + Default>(header: &str) -> T {
    let engines =
        [base64::engine::general_purpose::URL_SAFE, base64::engine::general_purpose::STANDARD];
    let bytes = engines.iter().find_map(|e| e.decode(header.trim()).ok());
    bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
}

/// Secrets that came with the request: by id, in base64.
struct Sent(BTreeMap<String, Vec<u8>>);

impl Sent {
    fn read(header: &str) -> Sent {
        let texts: BTreeMap<String, String> = decoded(header);
        let plain = |text: String| base64::engine::general_purpose::STANDARD.decode(text).ok();
        Sent(texts.into_iter().filter_map(|(id, text)| Some((id, plain(text)?))).collect())
    }
}

impl Secrets for Sent {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, String>> {
        Box::pin(async move { Ok(self.0.get(id).cloned()) })
    }
}

/// Agents whose sockets are on this host: by id, the path.
struct Agents(BTreeMap<String, PathBuf>);

impl Ssh for Agents {
    fn has<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(async move { Ok(self.0.contains_key(id)) })
    }

    fn serve<'a>(
        &'a self,
        id: &'a str,
        mut stream: UnixStream,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let path = self.0.get(id).ok_or_else(|| format!("no ssh agent {id:?}"))?;
            let failed = |e| format!("ssh agent {id:?} at {}: {e}", path.display());
            let mut agent = UnixStream::connect(path).await.map_err(failed)?;
            tokio::io::copy_bidirectional(&mut stream, &mut agent).await.map(drop).map_err(failed)
        })
    }
}

/// What this door does not do is refused by its name.
fn refuse(q: &Query) -> Result<(), Fault> {
    never(q)?;
    let outputs = q.text("outputs");
    if !matches!(outputs.trim(), "" | "null" | "[]") {
        return Err(Fault::not_implemented(
            "outputs need BuildKit's version of this request: use docker buildx build, or docker save",
        ));
    }
    Ok(())
}

/// What no door does.
pub(super) fn never(q: &Query) -> Result<(), Fault> {
    if q.truth("squash") {
        return Err(Fault::not_implemented(
            "wharf does not squash images: use a further stage and COPY --from",
        ));
    }
    let isolation = q.text("isolation");
    if !matches!(isolation.as_str(), "" | "default") {
        return Err(Fault::invalid(format!(
            "isolation {isolation:?} is for Windows: leave it out"
        )));
    }
    Ok(())
}

/// docker sends a JSON list, docker-py a JSON map, curl users `name:address` again and again.
pub(super) fn extra_hosts(q: &Query) -> Result<Vec<String>, Fault> {
    let mut out = Vec::new();
    for value in q.all("extrahosts") {
        let value = value.trim();
        if value.is_empty() {
            continue;
        }
        if let Ok(list) = serde_json::from_str::<Vec<String>>(value) {
            out.extend(list);
        } else if let Ok(map) = serde_json::from_str::<BTreeMap<String, String>>(value) {
            out.extend(map.into_iter().map(|(k, v)| format!("{k}:{v}")));
        } else {
            out.extend(value.split(',').map(str::to_owned));
        }
    }
    for entry in &out {
        wharf_engine::validate::extra_host(entry)?;
    }
    Ok(out)
}

fn resources(q: &Query) -> Result<Resources, Fault> {
    let number = |key: &str| Ok::<_, Fault>(q.number(key)?.unwrap_or(0));
    Ok(Resources {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: q.text("cpusetcpus"),
        cpuset_mems: q.text("cpusetmems"),
        cgroup_parent: q.text("cgroupparent"),
        ulimits: json::<Vec<Ulimit>>(q, "ulimits")?,
        ..Resources::default()
    })
}

pub(super) fn json<T: DeserializeOwned>(q: &Query, key: &str) -> Result<Option<T>, Fault> {
    let Some(text) = q.some(key).filter(|t| !t.trim().is_empty()) else { return Ok(None) };
    serde_json::from_str(&text).map_err(|e| Fault::invalid(format!("error reading {key}: {e}")))
}

/// `X-Registry-Config`: credentials by registry.
struct Registries(BTreeMap<String, AuthConfig>);

impl Registries {
    /// Credentials that cannot be read count as none, for compatibility.
    fn read(header: &str) -> Registries {
        Registries(decoded(header))
    }
}

impl Credentials for Registries {
    fn auth<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<AuthConfig, String>> {
        let found = self.0.get(&auth_key(host)).or_else(|| self.0.get(host));
        let found = found.cloned().unwrap_or_default();
        Box::pin(async move {
            match found.is_anonymous() {
                true => Nothing.auth(host).await,
                false => Ok(found),
            }
        })
    }
}

pub(super) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Cancelled | ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(crate) fn fault(e: &BuildError) -> Fault {
    let status = status(e.kind());
    let text = wharf_base::error::chain(e).to_string();
    Fault::new(
        status,
        match e {
            BuildError::Dockerfile { at, .. } => {
                format!(
                    "dockerfile parse error on line {}: {text}\n  {} | {}",
                    at.line, at.line, at.text
                )
            }
            _ => text,
        },
    )
}

/// The line that ends the stream of a build which failed: with the status of the program, which the client exits with.
fn failure(e: &BuildError, structured: bool) -> ProgressLine {
    let (code, message) = match innermost(e) {
        BuildError::Exit { command, code, hint } if !structured => {
            (*code, format!("The command '{command}' returned a non-zero code: {code}{hint}"))
        }
        BuildError::Exit { code, .. } => {
            (*code, wharf_base::error::chain(innermost(e)).to_string())
        }
        inner if structured => (0, wharf_base::error::chain(inner).to_string()),
        _ => (0, fault(e).message().to_owned()),
    };
    broken(code, message)
}

/// A line that ends a stream without success.
fn broken(code: i32, message: String) -> ProgressLine {
    ProgressLine {
        error_detail: Some(ErrorDetail { code: i64::from(code), message: message.clone() }),
        error: message,
        ..ProgressLine::default()
    }
}

fn innermost(e: &BuildError) -> &BuildError {
    match e {
        BuildError::Step { source, .. } => innermost(source),
        e => e,
    }
}

fn aux(id: &str) -> Bytes {
    let mut line = serde_json::json!({ "aux": { "ID": id } }).to_string();
    line.push_str("\r\n");
    line.into()
}

async fn prune(door: &Arc<Door>, call: &Call) -> Result<Reply, Fault> {
    let q = &call.query;
    let filters = q.filters(PRUNE_FILTERS)?;
    let first = |key: &str| filters.values(key).next().map(str::to_owned);
    let size = |keys: &[&str]| -> Result<Option<u64>, Fault> {
        for key in keys {
            if let Some(n) = q.number(key)?.filter(|n| *n > 0) {
                return Ok(Some(u64::try_from(n).unwrap_or(0)));
            }
        }
        Ok(None)
    };
    let now = std::time::SystemTime::now();
    let unused_for = match first("until") {
        None => None,
        Some(text) => {
            let then = wharf_engine::filters::moment(&text, now)
                .ok_or_else(|| Fault::invalid(format!("invalid filter 'until=[{text}]'")))?;
            Some(now.duration_since(then).unwrap_or_default())
        }
    };
    let flag = |key: &str| first(key).map(|v| !matches!(v.as_str(), "0" | "false"));
    // `system prune` sends its labels here as well; nothing in the cache has one.
    if flag("inuse") == Some(true) || filters.values("label").next().is_some() {
        return Ok(reply::ok(&serde_json::json!({ "CachesDeleted": [], "SpaceReclaimed": 0 })));
    }
    let what = PruneCache {
        shared: flag("shared").or_else(|| flag("private").map(|p| !p)),
        parents: filters.values("parent").map(str::to_owned).collect(),
        all: q.truth("all") || first("all").is_some(),
        unused_for,
        ids: filters.values("id").map(str::to_owned).collect(),
        kinds: filters.values("type").map(str::to_owned).collect(),
        description: first("description").unwrap_or_default(),
        keep_bytes: size(&["keep-storage", "reserved-space", "max-used-space"])?,
        min_free: size(&["min-free-space"])?,
    };
    // What clients sent is no step: it goes when everything may go.
    let everything = what == PruneCache { all: what.all, ..PruneCache::default() };
    let (builder, buildkit) = (door.builder.clone(), door.buildkit.clone());
    let pruned = blocking(move || {
        let mut pruned = builder
            .prune(&what)
            .map_err(|e| wharf_engine::EngineError::system("prune the build cache", e))?;
        if everything {
            let (ids, bytes) = buildkit.forget_contexts();
            pruned.deleted.extend(ids);
            pruned.reclaimed += bytes;
        }
        Ok(pruned)
    })
    .await?;
    Ok(reply::ok(&serde_json::json!({
        "CachesDeleted": pruned.deleted, "SpaceReclaimed": pruned.reclaimed,
    })))
}

/// The build cache as `GET /system/df` lists it.
pub(super) fn usage(entry: &CacheEntry) -> serde_json::Value {
    serde_json::json!({
        "ID": entry.id,
        "Parent": entry.parent.clone().unwrap_or_default(),
        "Parents": entry.parent.iter().collect::<Vec<_>>(),
        "Type": entry.kind,
        "Description": entry.description,
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.size,
        "CreatedAt": rfc3339(entry.created),
        "LastUsedAt": rfc3339(entry.used),
        "UsageCount": entry.uses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(raw: &str) -> Query {
        Query::parse(raw).unwrap()
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        assert!(refuse(&query("squash=1")).unwrap_err().message().contains("squash"));
        assert!(refuse(&query("isolation=hyperv")).unwrap_err().message().contains("hyperv"));
        assert!(refuse(&query("outputs=%5B%7B%7D%5D")).is_err());
        refuse(&query("squash=0&isolation=default&outputs=null")).unwrap();
    }

    #[test]
    fn hosts_come_in_three_forms() {
        for raw in [
            "extrahosts=%5B%22a:1.2.3.4%22%5D",
            "extrahosts=%7B%22a%22:%221.2.3.4%22%7D",
            "extrahosts=a:1.2.3.4",
        ] {
            assert_eq!(extra_hosts(&query(raw)).unwrap(), ["a:1.2.3.4"], "{raw}");
        }
        assert!(extra_hosts(&query("extrahosts=nonsense")).is_err());
    }
}
