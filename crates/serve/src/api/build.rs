//! `POST /build`: the classic door of the builder, with the whole syntax of today.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_base::sync::Mutex;
use wharf_build::inputs::Nothing;
use wharf_build::request::Allow;
use wharf_build::{
    BuildError, CacheEntry, Context, Credentials, ErrorKind, Inputs, NetworkMode, NoCache,
    PruneCache, Request, Tree,
};
use wharf_engine::images as ops;
use wharf_spec::docker::{ErrorDetail, ProgressLine, Resources, Ulimit, rfc3339};
use wharf_spec::dockerconfig::{AuthConfig, auth_key};
use wharf_spec::reference::Reference;

use super::containers::parse_platform;
use super::{Door, blocking};
use crate::call::Call;
use crate::classic::Classic;
use crate::fault::Fault;
use crate::progress::{self, encode, said};
use crate::query::Query;
use crate::reply::{self, Reply};
use crate::route::BuildAction;

/// Names that `POST /build/prune` takes.
const PRUNE_FILTERS: &[&str] =
    &["all", "description", "id", "inuse", "parent", "private", "shared", "type", "until"];

/// Builds that can be cancelled by name.
#[derive(Default)]
pub(crate) struct Running(Mutex<HashMap<String, CancellationToken>>);

pub(super) async fn build(
    door: Arc<Door>,
    action: BuildAction,
    call: Call,
) -> Result<Reply, Fault> {
    match action {
        BuildAction::Build => start(door, call).await,
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
        BuildAction::Prune => prune(&door, &call).await,
    }
}

/// The options of one request.
struct Options {
    request: Request,
    dockerfile: String,
    names: Vec<Reference>,
    remote: String,
    quiet: bool,
    id: String,
    credentials: Arc<Registries>,
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
    let Options { mut request, dockerfile, names, remote, quiet, id, credentials } = options;
    let tree = context(&door, call, &remote, &dockerfile).await?;
    take_dockerfile(&tree, &dockerfile, !remote.is_empty(), &mut request)?;
    let cancel = CancellationToken::new();
    let _listed = Listed::new(&door, &id, &cancel);
    let context: Arc<dyn Context> = Arc::new(tree);
    let inputs = Inputs { context, credentials, ..Inputs::default() };
    let (events, mut told) = mpsc::unbounded_channel();
    let building = door.builder.build(request, inputs, events, cancel);
    tokio::pin!(building);
    let mut classic = Classic::default();
    // Kept back while only the id is wanted: told if the build fails.
    let mut log: Vec<Bytes> = Vec::new();
    let mut say = |lines: Vec<Bytes>| match quiet {
        true => log.extend(lines),
        // Nobody reads any more if the client is gone, and then this is dropped.
        false => lines.into_iter().for_each(|line| drop(out.send(line))),
    };
    let built = loop {
        tokio::select! {
            biased;
            Some(event) = told.recv() => say(classic.lines(event)),
            built = &mut building => break built,
        }
    };
    while let Ok(event) = told.try_recv() {
        say(classic.lines(event));
    }
    say(classic.rest());
    let built = match built {
        Ok(built) => built,
        // Nothing was told: the request itself is wrong.
        Err(e @ BuildError::Dockerfile { .. }) => return Err(fault(&e)),
        Err(e) => {
            log.into_iter().for_each(|line| drop(out.send(line)));
            drop(out.send(encode(&failure(&e))));
            return Ok(());
        }
    };
    let image = blocking({
        let names = names.clone();
        move || {
            built.store(&names).map_err(|e| wharf_engine::EngineError::system("store the image", e))
        }
    })
    .await?;
    let id = image.id().to_string();
    for name in &names {
        door.images.tell("tag", &id, &name.familiar(), Some(&image));
    }
    let mut last = vec![aux(&id)];
    if quiet {
        last = vec![said(format!("{id}\n"))];
    } else {
        last.push(said(format!("Successfully built {}\n", image.id().short())));
        last.extend(names.iter().map(|n| said(format!("Successfully tagged {}\n", n.familiar()))));
    }
    last.into_iter().for_each(|line| drop(out.send(line)));
    Ok(())
}

/// A build's entry in the list, as long as it runs.
struct Listed {
    door: Arc<Door>,
    id: String,
}

impl Listed {
    fn new(door: &Arc<Door>, id: &str, cancel: &CancellationToken) -> Listed {
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

/// The files: uploaded, or at an address.
async fn context(door: &Door, call: Call, remote: &str, dockerfile: &str) -> Result<Tree, Fault> {
    let body = match remote {
        "" => call.into_stream(),
        address if is_git(address) => {
            return Err(Fault::not_implemented(format!(
                "wharf does not fetch git repositories itself: clone {address} and build the directory"
            )));
        }
        address => {
            let fetched = door.images.store().download(address).await;
            fetched.map_err(|e| {
                fault(&BuildError::NotFound(format!(
                    "cannot fetch {address}: {}",
                    wharf_base::error::chain(&e)
                )))
            })?
        }
    };
    let mut body = body.peekable();
    let first = std::pin::Pin::new(&mut body).peek().await;
    let text = match first {
        Some(Ok(bytes)) => !is_archive(bytes),
        _ => false,
    };
    let unpacked = match text && !remote.is_empty() {
        // The address of a Dockerfile rather than of a context.
        true => {
            let mut whole = Vec::new();
            while let Some(bytes) = body.next().await {
                whole.extend_from_slice(
                    &bytes.map_err(|e| Fault::invalid(format!("cannot read {remote}: {e}")))?,
                );
            }
            door.builder.single_file(dockerfile, whole).await
        }
        false => door.builder.unpack(body.boxed()).await,
    };
    unpacked.map_err(|e| fault(&e.into()))
}

fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    compressed.iter().any(|m| head.starts_with(m))
        || head.get(257..262).is_some_and(|m| m == b"ustar")
}

fn is_git(address: &str) -> bool {
    let plain = address.split('#').next().unwrap_or(address);
    address.starts_with("git://")
        || address.starts_with("git@")
        || address.starts_with("ssh://")
        || address.starts_with("github.com/")
        || plain.ends_with(".git")
}

fn take_dockerfile(
    tree: &Tree,
    name: &str,
    lone: bool,
    request: &mut Request,
) -> Result<(), Fault> {
    let read = |path: &str| wharf_build::read_small(tree, path).map_err(|e| fault(&e.into()));
    let found = match read(name)? {
        None if lone => read("Dockerfile")?,
        found => found,
    };
    let Some(text) = found else {
        return Err(Fault::invalid(format!("Cannot locate specified Dockerfile: {name}")));
    };
    if text.is_empty() {
        return Err(Fault::invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    request.dockerignore = match read(&format!("{name}.dockerignore"))? {
        None => read(".dockerignore")?,
        own => own,
    };
    request.dockerfile = text;
    Ok(())
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
        no_cache: if q.truth("nocache") { NoCache::All } else { NoCache::Nothing },
        network: NetworkMode::parse(&q.text("networkmode")),
        extra_hosts: extra_hosts(q)?,
        resources: resources(q)?,
        shm_size: q.number("shmsize")?.unwrap_or(0),
        allow: Allow::default(),
        cache_from: json(q, "cachefrom")?.unwrap_or_default(),
        reference: q.text("buildid"),
        ..Request::default()
    };
    Ok(Options {
        request,
        dockerfile,
        names,
        remote: q.text("remote"),
        quiet: q.truth("q"),
        id: q.text("buildid"),
        credentials: Arc::new(Registries::read(call.header("X-Registry-Config"))),
    })
}

/// What this door does not do is refused by its name.
fn refuse(q: &Query) -> Result<(), Fault> {
    if q.truth("squash") {
        return Err(Fault::not_implemented(
            "wharf does not squash images: use a further stage and COPY --from",
        ));
    }
    let outputs = q.text("outputs");
    if !matches!(outputs.trim(), "" | "null" | "[]") {
        return Err(Fault::not_implemented(
            "outputs need a session: use docker buildx build, or docker save",
        ));
    }
    let isolation = q.text("isolation");
    if !matches!(isolation.as_str(), "" | "default") {
        return Err(Fault::invalid(format!("isolation {isolation:?} is for Windows")));
    }
    Ok(())
}

/// docker sends a JSON list, docker-py a JSON map, curl users `name:address` again and again.
fn extra_hosts(q: &Query) -> Result<Vec<String>, Fault> {
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

fn json<T: DeserializeOwned>(q: &Query, key: &str) -> Result<Option<T>, Fault> {
    let Some(text) = q.some(key).filter(|t| !t.trim().is_empty()) else { return Ok(None) };
    serde_json::from_str(&text).map_err(|e| Fault::invalid(format!("error reading {key}: {e}")))
}

/// `X-Registry-Config`: credentials by registry.
struct Registries(BTreeMap<String, AuthConfig>);

impl Registries {
    /// Credentials that cannot be read count as none, for compatibility.
    fn read(header: &str) -> Registries {
        let engines =
            [base64::engine::general_purpose::URL_SAFE, base64::engine::general_purpose::STANDARD];
        let bytes = engines.iter().find_map(|e| e.decode(header.trim()).ok());
        Registries(bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default())
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

pub(crate) fn fault(e: &BuildError) -> Fault {
    let status = match e.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Cancelled | ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
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
fn failure(e: &BuildError) -> ProgressLine {
    let (code, message) = match innermost(e) {
        BuildError::Exit { command, code, hint } => {
            (*code, format!("The command '{command}' returned a non-zero code: {code}{hint}"))
        }
        _ => (0, fault(e).message().to_owned()),
    };
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
    let what = PruneCache {
        all: q.truth("all") || first("all").is_some(),
        unused_for,
        ids: filters.values("id").map(str::to_owned).collect(),
        kinds: filters.values("type").map(str::to_owned).collect(),
        description: first("description").unwrap_or_default(),
        keep_bytes: size(&["keep-storage", "reserved-space", "max-used-space"])?,
        min_free: size(&["min-free-space"])?,
    };
    let builder = door.builder.clone();
    let pruned = blocking(move || {
        builder
            .prune(&what)
            .map_err(|e| wharf_engine::EngineError::system("prune the build cache", e))
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

    #[test]
    fn contexts_are_told_from_dockerfiles_and_repositories() {
        assert!(!is_archive(b"FROM busybox\n") && is_archive(b"\x1f\x8b\x08"));
        assert!(
            is_git("github.com/a/b")
                && is_git("https://x/y.git#main")
                && !is_git("https://x/ctx.tar.gz")
        );
    }
}
