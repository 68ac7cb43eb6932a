//! `build`: packs the context, asks the engine, shows its progress, delivers the result.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tokio::io::AsyncRead;
use wharf_spec::platform::Platform;
use wharf_sys::terminal;

use super::build_cache::{self, CacheFrom, CacheTo};
use super::build_context::{CONTEXTS, Context, rules};
use super::build_output::{
    Output, deliver, deliver_several, fill, outputs, packing, takes_several,
};
use super::build_upload::{Broken, upload};
use super::build_view::{Style, View, excerpt};
use super::{Outcome, text};
use crate::api::{Client, JsonStream, Payload, url};
use crate::app::{Call, say_line, warn};
use crate::conf::auth;
use crate::failure::{Failure, os_text};
use crate::parse::{csv, ulimit};

/// Secrets that fit into a request's headers.
const MAX_SECRETS: usize = 200 << 10;

/// What is sent.
struct Plan {
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Body,
    /// The Dockerfile's name and text, for messages.
    dockerfile: (String, String),
}

enum Body {
    /// A context to pack, and names that are sent whatever the rules say.
    Pack(Box<Context>, Vec<String>),
    /// An archive as it comes.
    Stream(Pin<Box<dyn AsyncRead + Send>>),
    /// The engine fetches it.
    Nothing,
}

/// `build PATH | URL | -`
pub async fn build(call: Call) -> Outcome {
    let style = style(&call)?;
    match make(&call, style).await? {
        Some(id) if call.given.on("quiet") || style == Style::Quiet => say_line(&id),
        _ => Ok(()),
    }
}

/// Builds for another verb, which has its own way to tell of the result; nothing is printed to standard output.
pub(super) async fn image(call: &Call, quiet: bool) -> Outcome {
    let style = if quiet { Style::Quiet } else { style(call)? };
    make(call, style).await.map(drop)
}

/// Builds and delivers; the id of the image if there is just one.
async fn make(call: &Call, style: Style) -> Result<Option<String>, Failure> {
    refuse(call)?;
    let outputs = outputs(call)?;
    if platforms(call).len() > 1 {
        return several(call, style, &outputs).await.map(|()| None);
    }
    let cache_to = given_caches(call, "cache-to", CacheTo::parse)?;
    let cache_from = given_caches(call, "cache-from", CacheFrom::parse)?;
    let layouts = layouts(call).await?;
    let mut plan = plan(call, &layouts.by_name)?;
    plan.query.extend(finish(call, platforms(call).first())?);
    let asked: Vec<Value> = cache_to.iter().filter_map(CacheTo::request).collect();
    if !asked.is_empty() {
        plan.query.push(("cacheto", json!(asked).to_string()));
    }
    if cache_to.contains(&CacheTo::Inline) {
        plan.query.push(("inlinecache", "1".into()));
    }
    let checking = call.given.on("check") || call.given.text("call") == "check";
    if checking {
        plan.query.push(("check", "1".into()));
    }
    let mut view = view(call, style);
    let client = call.client()?;
    let dockerfile = plan.dockerfile.clone();
    let (names, loaded) = caches(client, &cache_from).await?;
    plan.query.push(("cachefrom", json!(names).to_string()));
    let built = run(client, plan, &mut view).await;
    view.finish();
    // A cache that was loaded and one that is written may be the same image.
    let kept = match &built {
        Ok(done) => keep_caches(client, &cache_to, &done.caches).await,
        Err(_) => Ok(()),
    };
    build_cache::forget(client, &loaded).await;
    build_cache::forget(client, &layouts.loaded).await;
    if checking {
        return report_check(&view, &dockerfile, built.err()).map(|()| None);
    }
    let Done { id, .. } = match built {
        Ok(done) => done,
        Err(e) => return Err(explained(&view, &dockerfile, e)),
    };
    tell_warnings(&view, &dockerfile, style);
    kept?;
    deliver(call, client, &id, &outputs).await?;
    Ok(Some(id))
}

/// Writes the caches of `type=local` to their directories.
async fn keep_caches(client: &Client, to: &[CacheTo], made: &[Vec<String>]) -> Outcome {
    let local = to.iter().filter_map(|to| match to {
        CacheTo::Local { dest, .. } => Some(dest),
        _ => None,
    });
    for (dest, ids) in local.zip(made) {
        let names: Vec<(&str, &str)> = ids.iter().map(|id| ("names", id.as_str())).collect();
        let saved = fill(client, &url("/images/get", &names), dest).await;
        build_cache::forget(client, ids).await;
        saved.and_then(|()| build_cache::list(dest))?;
    }
    Ok(())
}

/// The name of a build that Compose asks for: it shows its progress on standard output, as stock Compose does.
pub(super) const OF_COMPOSE: &str = "compose build";

fn view(call: &Call, style: Style) -> View {
    let stdout = call.path == OF_COMPOSE;
    let size =
        if stdout { terminal::size(std::io::stdout()) } else { terminal::size(std::io::stderr()) };
    let width = size.map_or(80, |(_, columns)| usize::from(columns));
    let color = is_seen(call) && std::env::var_os("NO_COLOR").is_none();
    View::new(style, color, width).on_stdout(stdout)
}

/// Whether progress goes to a terminal.
fn is_seen(call: &Call) -> bool {
    match call.path == OF_COMPOSE {
        true => std::io::stdout().is_terminal(),
        false => std::io::stderr().is_terminal(),
    }
}

fn platforms(call: &Call) -> Vec<String> {
    let given = call.given.all("platform").iter().flat_map(|p| p.split(','));
    given.filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// One build after the other for several platforms. One that would have to run programs of a platform which the host
/// cannot run is refused by its first `RUN`.
async fn several(call: &Call, style: Style, outputs: &[Output]) -> Outcome {
    takes_several(call, outputs)?;
    if call.args()[0] == "-" || call.given.text("file") == "-" {
        return Err("standard input can be read for one --platform only".into());
    }
    let client = call.client()?;
    let layouts = layouts(call).await?;
    let from = given_caches(call, "cache-from", CacheFrom::parse)?;
    let (names, loaded) = caches(client, &from).await?;
    let mut made = Vec::new();
    for platform in platforms(call) {
        let mut plan = plan(call, &layouts.by_name)?;
        plan.query.retain(|(key, _)| *key != "platform");
        plan.query.extend(finish(call, Some(&platform))?);
        plan.query.push(("platform", platform.clone()));
        plan.query.push(("cachefrom", json!(names).to_string()));
        let (dockerfile, mut view) = (plan.dockerfile.clone(), view(call, style));
        let built = run(client, plan, &mut view).await;
        view.finish();
        match built {
            Ok(done) => made.push((platform, done.id)),
            Err(e) => return Err(explained(&view, &dockerfile, e)),
        }
    }
    build_cache::forget(client, &loaded).await;
    build_cache::forget(client, &layouts.loaded).await;
    deliver_several(client, &made, outputs).await
}

/// The values of a flag, read.
fn given_caches<T>(
    call: &Call,
    flag: &str,
    read: fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    call.given.all(flag).iter().map(|text| read(text)).collect()
}

/// The names of caches for the engine, and the images that were loaded for them.
async fn caches(
    client: &Client,
    from: &[CacheFrom],
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut names, mut loaded) = (Vec::new(), Vec::new());
    for from in from {
        match from {
            CacheFrom::Name(name) => names.push(name.clone()),
            // The first build of all has none yet.
            CacheFrom::Local(dir) if !Path::new(dir).join("index.json").exists() => {
                warn(format!("importing the cache in {dir}: it has no index.json"));
            }
            CacheFrom::Local(dir) => loaded.extend(build_cache::load_cache(client, dir).await?),
        }
    }
    names.extend(loaded.iter().cloned());
    Ok((names, loaded))
}

/// A build that is complete.
struct Done {
    id: String,
    /// Images of each local cache, in the order they were asked for.
    caches: Vec<Vec<String>>,
}

async fn run(client: &Client, plan: Plan, view: &mut View) -> Result<Done, Broken> {
    let Plan { query, headers, body, .. } = plan;
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let path = url("/build", &query);
    let sent = match body {
        Body::Nothing => client.send(Method::POST, &path, Payload::Empty, &headers).await,
        Body::Stream(reader) => {
            let payload = Payload::Stream(reader, "application/x-tar");
            client.send(Method::POST, &path, payload, &headers).await
        }
        Body::Pack(context, always) => {
            let sent = upload(client, &query, &headers, *context, always).await?;
            return follow(sent, view).await;
        }
    };
    follow(sent?, view).await
}

/// Shows a build until it ends.
async fn follow(response: Response<Incoming>, view: &mut View) -> Result<Done, Broken> {
    let mut stream = JsonStream::new(response);
    let (mut id, mut place, mut caches) = (String::new(), None, Vec::new());
    while let Some(line) = stream.next().await? {
        if let Some(found) = line["aux"]["ID"].as_str() {
            id = found.to_owned();
        }
        let news = &line["wharf"];
        if let Some(ids) = news["cache"].as_array() {
            caches.push(ids.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect());
        } else if news["failed"].is_string() {
            let number =
                |key: &str| news[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            place = Some((number("line"), number("last")));
        } else if news.is_object() {
            view.take(news);
        }
        if let Some(error) = line["error"].as_str() {
            let failure = Failure::new(format!("ERROR: failed to build: {error}"));
            return Err(Broken { failure, place, status: None });
        }
    }
    Ok(Done { id, caches })
}

/// The error with the end of the output and the lines that it is about.
fn explained(view: &View, dockerfile: &(String, String), broken: Broken) -> Failure {
    let mut out = String::new();
    if let Some((name, tail)) = view.failed() {
        out.push_str(&format!("------\n > {name}:\n"));
        tail.iter().for_each(|line| out.push_str(&format!("{line}\n")));
        out.push_str("------\n");
    }
    if let Some((first, last)) = broken.place.filter(|(first, _)| *first > 0) {
        out.push_str(&excerpt(&dockerfile.0, &dockerfile.1, first, last));
        out.push('\n');
    }
    Failure { text: format!("{out}{}", broken.failure.text), ..broken.failure }
}

fn tell_warnings(view: &View, dockerfile: &(String, String), style: Style) {
    if view.warnings.is_empty() || matches!(style, Style::Quiet | Style::Raw) {
        return;
    }
    let count = view.warnings.len();
    warn(format!(
        "\n {count} warning{} found (use --check to expand):",
        if count == 1 { "" } else { "s" }
    ));
    for w in &view.warnings {
        let at = match w["lines"][0].as_u64() {
            None | Some(0) => String::new(),
            Some(line) => format!(" ({} line {line})", dockerfile.0),
        };
        let rule = match text(w, "rule") {
            "" => String::new(),
            rule => format!("{rule}: "),
        };
        warn(format!(" - {rule}{}{at}", text(w, "warning")));
    }
}

fn report_check(view: &View, dockerfile: &(String, String), broken: Option<Broken>) -> Outcome {
    for w in &view.warnings {
        let number =
            |n: usize| w["lines"][n].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        say_line(format!(
            "\nWARNING: {} - {}\n{}",
            text(w, "rule"),
            text(w, "url"),
            text(w, "warning")
        ))?;
        if number(0) > 0 {
            say_line(excerpt(&dockerfile.0, &dockerfile.1, number(0), number(1)))?;
        }
    }
    match (broken, view.warnings.len()) {
        (Some(broken), _) => Err(explained(view, dockerfile, broken)),
        (None, 0) => say_line("Check complete, no warnings found."),
        (None, 1) => Err(Failure::new("Check complete, 1 warning has been found!")),
        (None, n) => Err(Failure::new(format!("Check complete, {n} warnings have been found!"))),
    }
}

fn style(call: &Call) -> Result<Style, Failure> {
    if call.given.on("quiet") {
        return Ok(Style::Quiet);
    }
    let own = std::env::var("BUILDKIT_PROGRESS").unwrap_or_default();
    let chosen = match call.given.text("progress") {
        "" => own.as_str(),
        chosen => chosen,
    };
    match chosen {
        "" | "auto" if is_seen(call) => Ok(Style::Tree),
        "" | "auto" | "plain" => Ok(Style::Plain),
        "tty" => Ok(Style::Tree),
        "quiet" | "none" => Ok(Style::Quiet),
        "rawjson" => Ok(Style::Raw),
        other => Err(Failure::new(format!(
            "invalid progress mode {other:?}: use auto, plain, tty, quiet or rawjson"
        ))),
    }
}

const NO_ATTESTATIONS: &str =
    "wharf does not make attestations: leave it out, or give false to --provenance and --sbom";

/// What this command line knows and wharf does not do.
fn refuse(call: &Call) -> Outcome {
    let given = &call.given;
    let told = |flag: &str, why: &str| Err(Failure::new(format!("--{flag}: {why}")));
    for (flag, why) in [
        ("attest", NO_ATTESTATIONS),
        ("squash", "wharf does not squash images: use a further stage and COPY --from"),
    ] {
        if given.changed(flag) {
            return told(flag, why);
        }
    }
    for flag in ["provenance", "sbom"] {
        if !matches!(given.text(flag), "" | "false" | "disabled=true" | "0") {
            return told(flag, NO_ATTESTATIONS);
        }
    }
    match given.text("call") {
        "" | "build" | "check" => Ok(()),
        other => told("call", &format!("{other} is not known: use build or check")),
    }
}

/// How the image for a platform is to be made of the result.
fn finish(call: &Call, platform: Option<&String>) -> Result<Vec<(&'static str, String)>, Failure> {
    let (packing, notes) = (packing(call)?, annotations(call, platform)?);
    let queries = [("packing", packing), ("annotations", notes)].into_iter();
    Ok(queries
        .filter(|(_, m)| !m.is_empty())
        .map(|(k, m)| (k, Value::from(m).to_string()))
        .collect())
}

/// `--annotation [manifest[PLATFORM]:]KEY=VALUE`: those of the manifest for a platform.
fn annotations(call: &Call, platform: Option<&String>) -> Result<Map<String, Value>, Failure> {
    let mut out = Map::new();
    let read = |text: &str| {
        text.parse::<Platform>()
            .map_err(|e| Failure::new(format!("--annotation: invalid platform {text:?}: {e}")))
    };
    let built = platform.map_or_else(|| Ok(Platform::host()), |p| read(p))?.to_string();
    let mut all = vec![built.clone()];
    for platform in platforms(call) {
        all.push(read(&platform)?.to_string());
    }
    for text in call.given.all("annotation") {
        let wrong = |why: &str| Failure::new(format!("--annotation {text}: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("expected key=value"))?;
        let (kinds, key) = key.split_once(':').unwrap_or(("manifest", key));
        for kind in kinds.split(',') {
            let (kind, only) = match kind.strip_suffix(']').and_then(|k| k.split_once('[')) {
                Some((kind, only)) => (kind, read(only)?.to_string()),
                None => (kind, built.clone()),
            };
            match kind {
                "manifest" if only == built => drop(out.insert(key.to_owned(), value.into())),
                "manifest" if all.contains(&only) => {}
                "manifest" => return Err(wrong(&format!("{only} is not built"))),
                "index" | "index-descriptor" | "manifest-descriptor" => {
                    return Err(wrong(
                        "wharf build annotates manifests: use docker buildx build for indexes and descriptors",
                    ));
                }
                _ => return Err(wrong("no such type: use manifest, or manifest[PLATFORM]")),
            }
        }
    }
    Ok(out)
}

/// Contexts that are OCI layouts: the engine has their images while it builds.
#[derive(Default)]
struct Layouts {
    by_name: BTreeMap<String, String>,
    loaded: Vec<String>,
}

async fn layouts(call: &Call) -> Result<Layouts, Failure> {
    let mut out = Layouts::default();
    for entry in call.given.all("build-context") {
        let found =
            entry.split_once('=').and_then(|(n, v)| Some((n, v.strip_prefix("oci-layout://")?)));
        let Some((name, place)) = found else { continue };
        let new = build_cache::load_one(call.client()?, place).await?;
        out.by_name.insert(name.to_owned(), new.id);
        out.loaded.extend(new.loaded);
    }
    Ok(out)
}

fn plan(call: &Call, layouts: &BTreeMap<String, String>) -> Result<Plan, Failure> {
    let source = call.args()[0].as_str();
    let mut query = query(call)?;
    let headers = headers(call)?;
    let remote =
        source.contains("://") || source.starts_with("git@") || source.starts_with("github.com/");
    if remote {
        let mut context = Context::default();
        query.push(("contexts", named_contexts(call, layouts, &mut context)?));
        if !context.further.is_empty() {
            let text =
                "directories as --build-context need a build context that is a directory, too";
            return Err(text.into());
        }
        query.push(("remote", source.to_owned()));
        query.push(("dockerfile", call.given.text("file").to_owned()));
        return Ok(Plan {
            query,
            headers,
            body: Body::Nothing,
            dockerfile: ("Dockerfile".into(), String::new()),
        });
    }
    let mut context = Context::default();
    let contexts = named_contexts(call, layouts, &mut context)?;
    query.push(("contexts", contexts));
    if source == "-" {
        return stdin_plan(query, headers, context);
    }
    let dir = PathBuf::from(source);
    if !dir.is_dir() {
        return Err(Failure::new(format!("unable to prepare context: path {source:?} not found")));
    }
    let (name, text, always) = dockerfile(call, &dir, &mut context)?;
    query.push(("dockerfile", name.clone()));
    context.dir = Some(dir);
    let body = Body::Pack(Box::new(context), always);
    Ok(Plan { query, headers, body, dockerfile: (name, text) })
}

/// The Dockerfile's name in the context, its text, and what is sent whatever the rules say.
fn dockerfile(
    call: &Call,
    dir: &Path,
    context: &mut Context,
) -> Result<(String, String, Vec<String>), Failure> {
    let named = call.given.text("file");
    let outside = |context: &mut Context, text: String| {
        let name = format!(".dockerfile.{:016x}", std::process::id());
        context.extra.push((name.clone(), text.clone().into_bytes()));
        (name, text, Vec::new())
    };
    if named == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text)?;
        context.ignore = rules(dir, Path::new(""))?;
        return Ok(outside(context, text));
    }
    let path = match named {
        "" => dir.join("Dockerfile"),
        named => PathBuf::from(named),
    };
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::new(format!("failed to read dockerfile: open {}: {}", path.display(), os_text(&e)))
    })?;
    context.ignore = rules(dir, &path)?;
    let full = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
    let (top, file) = (full(dir), full(&path));
    match file.strip_prefix(&top).ok().and_then(Path::to_str) {
        Some(inside) => {
            let beside = format!("{inside}.dockerignore");
            let always = vec![inside.to_owned(), beside, ".dockerignore".into()];
            Ok((inside.to_owned(), text, always))
        }
        None => Ok(outside(context, text)),
    }
}

/// Standard input is an archive or a Dockerfile.
fn stdin_plan(
    mut query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    mut context: Context,
) -> Result<Plan, Failure> {
    let mut head = vec![0; 512];
    let mut stdin = std::io::stdin().lock();
    let mut got = 0;
    while got < head.len() {
        match stdin.read(&mut head[got..])? {
            0 => break,
            n => got += n,
        }
    }
    head.truncate(got);
    let magic: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    let archive = magic.iter().any(|m| head.starts_with(m))
        || head.get(257..262).is_some_and(|m| m == b"ustar");
    if archive {
        drop(stdin);
        let whole = tokio::io::AsyncReadExt::chain(std::io::Cursor::new(head), tokio::io::stdin());
        let dockerfile = ("Dockerfile".to_owned(), String::new());
        return Ok(Plan { query, headers, body: Body::Stream(Box::pin(whole)), dockerfile });
    }
    stdin.read_to_end(&mut head)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    query.push(("dockerfile", "Dockerfile".into()));
    context.extra.push(("Dockerfile".into(), head));
    let body = Body::Pack(Box::new(context), Vec::new());
    Ok(Plan { query, headers, body, dockerfile: ("Dockerfile".into(), text) })
}

fn query(call: &Call) -> Result<Vec<(&'static str, String)>, Failure> {
    let given = &call.given;
    let mut out: Vec<(&'static str, String)> = vec![
        ("progress", "vertices".into()),
        ("target", given.text("target").into()),
        ("platform", given.all("platform").join(",")),
        ("networkmode", given.text("network").into()),
        ("cgroupparent", given.text("cgroup-parent").into()),
        ("cpusetcpus", given.text("cpuset-cpus").into()),
        ("cpusetmems", given.text("cpuset-mems").into()),
        ("buildargs", Value::Object(build_args(given.all("build-arg"))).to_string()),
        ("labels", Value::Object(crate::parse::pairs(given.all("label"))).to_string()),
        ("nocachefilter", json!(given.all("no-cache-filter")).to_string()),
        ("allow", json!(given.all("allow")).to_string()),
        (
            "extrahosts",
            json!(given.all("add-host").iter().map(|h| host(h)).collect::<Vec<_>>()).to_string(),
        ),
    ];
    for name in given.all("tag") {
        crate::parse::reference::parse(name)?;
        out.push(("t", name.clone()));
    }
    for (flag, key) in [("no-cache", "nocache"), ("pull", "pull")] {
        if given.on(flag) {
            out.push((key, "1".into()));
        }
    }
    for (flag, key) in
        [("cpu-period", "cpuperiod"), ("cpu-quota", "cpuquota"), ("cpu-shares", "cpushares")]
    {
        if given.changed(flag) {
            out.push((key, given.int_or(flag, 0).to_string()));
        }
    }
    for (flag, key) in [("memory", "memory"), ("memory-swap", "memswap"), ("shm-size", "shmsize")] {
        if given.changed(flag) {
            out.push((key, given.bytes(flag).to_string()));
        }
    }
    let ulimits: Result<Vec<Value>, String> =
        given.all("ulimit").iter().map(|u| ulimit::parse(u)).collect();
    out.push(("ulimits", json!(ulimits?).to_string()));
    Ok(out)
}

/// `name=address` is an older form of `name:address`.
fn host(entry: &str) -> String {
    match entry.split_once('=') {
        Some((name, address)) if !name.contains(':') => format!("{name}:{address}"),
        _ => entry.to_owned(),
    }
}

/// An argument without a value has that of the environment, or none.
fn build_args(list: &[String]) -> Map<String, Value> {
    let pair = |arg: &String| match arg.split_once('=') {
        Some((name, value)) => (name.to_owned(), json!(value)),
        None => (arg.clone(), std::env::var(arg).map_or(Value::Null, |v| json!(v))),
    };
    list.iter().map(pair).collect()
}

/// `--build-context`: directories go into the upload, the rest is for the engine to find.
fn named_contexts(
    call: &Call,
    layouts: &BTreeMap<String, String>,
    context: &mut Context,
) -> Result<String, Failure> {
    let mut out = Map::new();
    for entry in call.given.all("build-context") {
        let (name, value) = entry.split_once('=').ok_or_else(|| {
            Failure::new(format!("invalid context value: {entry}, expected key=value"))
        })?;
        let value = match value.contains("://") || value.starts_with("git@") {
            _ if layouts.contains_key(name) => format!("docker-image://{}", layouts[name]),
            true => value.to_owned(),
            false if Path::new(value).is_dir() => {
                let n = context.further.len().to_string();
                context.further.push((n.clone(), value.into()));
                format!("upload://{CONTEXTS}/{n}")
            }
            false => {
                return Err(Failure::new(format!(
                    "failed to get build context {name}: {value} is no directory"
                )));
            }
        };
        out.insert(name.to_lowercase(), value.into());
    }
    Ok(if out.is_empty() { String::new() } else { Value::Object(out).to_string() })
}

fn headers(call: &Call) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut out = Vec::new();
    let mut secrets = Map::new();
    for text in call.given.all("secret") {
        let (id, value) = secret(text)?;
        secrets.insert(id, base64::engine::general_purpose::STANDARD.encode(value).into());
    }
    if !secrets.is_empty() {
        let encoded = URL_SAFE.encode(Value::Object(secrets).to_string());
        if encoded.len() > MAX_SECRETS {
            return Err("the secrets are too large for wharf build: use docker buildx build".into());
        }
        out.push(("X-Wharf-Build-Secrets", encoded));
    }
    let agents = agents(call.given.all("ssh"))?;
    if !agents.is_empty() {
        out.push(("X-Wharf-Build-Agents", URL_SAFE.encode(Value::Object(agents).to_string())));
    }
    let config = call.session.config();
    let mut known = Map::new();
    for key in config.json["auths"].as_object().into_iter().flat_map(Map::keys) {
        // A helper that does not answer must not keep a build from images that need none.
        if let Ok(found) = auth::lookup(config, key) {
            known.insert(key.clone(), found);
        }
    }
    if !known.is_empty() {
        out.push(("X-Registry-Config", URL_SAFE.encode(Value::Object(known).to_string())));
    }
    Ok(out)
}

/// `id=x,src=path` or `id=x,env=NAME`.
fn secret(text: &str) -> Result<(String, Vec<u8>), Failure> {
    let fields = csv(text)?;
    let field = |keys: &[&str]| {
        fields
            .iter()
            .filter_map(|f| f.split_once('='))
            .find(|(k, _)| keys.contains(k))
            .map(|(_, v)| v.to_owned())
    };
    let id =
        field(&["id"]).ok_or_else(|| Failure::new(format!("--secret {text}: id is required")))?;
    if let Some(name) = field(&["env"]) {
        let value = std::env::var(&name)
            .map_err(|_| Failure::new(format!("--secret {text}: {name} is not set")))?;
        return Ok((id, value.into_bytes()));
    }
    let path = field(&["src", "source"]).unwrap_or_else(|| id.clone());
    match std::fs::read(&path) {
        Ok(bytes) => Ok((id, bytes)),
        // docker takes the id as a variable's name, too.
        Err(e) => match std::env::var(&id) {
            Ok(value) if field(&["src", "source"]).is_none() => Ok((id, value.into_bytes())),
            _ => Err(Failure::new(format!("--secret {text}: cannot read {path}: {}", os_text(&e)))),
        },
    }
}

/// `default`, `id=socket`.
fn agents(list: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut out = Map::new();
    for entry in list {
        let (id, socket) = match entry.split_once('=') {
            Some((id, socket)) => (id, socket.to_owned()),
            None => (entry.as_str(), std::env::var("SSH_AUTH_SOCK").unwrap_or_default()),
        };
        if socket.is_empty() {
            return Err(Failure::new(format!(
                "--ssh {entry}: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"
            )));
        }
        out.insert(id.to_owned(), crate::parse::absolute(&socket).into());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_hosts() {
        assert_eq!(build_args(&["A=b=c".into()])["A"], "b=c");
        assert!(
            build_args(&["SURELY_NOT_SET_ANYWHERE".into()])["SURELY_NOT_SET_ANYWHERE"].is_null()
        );
        assert_eq!(host("a=1.2.3.4"), "a:1.2.3.4");
        assert_eq!(host("a:::1"), "a:::1");
    }
}
