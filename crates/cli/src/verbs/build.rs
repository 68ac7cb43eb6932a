//! `build`: packs the context, asks the engine, shows its progress, delivers the result.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http::Method;
use serde_json::{Map, Value, json};
use tokio::io::AsyncRead;
use wharf_sys::terminal;

use super::build_context::{CONTEXTS, Context, rules};
use super::build_view::{Style, View, excerpt};
use super::unpack::{Place, unpack};
use super::{Outcome, text};
use crate::api::{Client, JsonStream, Payload, next, segment, url};
use crate::app::{Call, say, say_line, warn};
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

/// Where the result goes besides the image store.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Output {
    Image,
    Local(String),
    Tar(String),
    Archive(String),
}

/// `build PATH | URL | -`
pub async fn build(call: Call) -> Outcome {
    refuse(&call)?;
    let outputs = outputs(&call)?;
    let mut plan = plan(&call)?;
    let checking = call.given.on("check") || call.given.text("call") == "check";
    if checking {
        plan.query.push(("check", "1".into()));
    }
    let style = style(&call)?;
    let mut view = view(style);
    let client = call.client()?;
    let dockerfile = plan.dockerfile.clone();
    let built = run(client, plan, &mut view).await;
    view.finish();
    if checking {
        return report_check(&view, &dockerfile, built.err());
    }
    let id = match built {
        Ok(id) => id,
        Err(e) => return Err(explained(&view, &dockerfile, e)),
    };
    tell_warnings(&view, &dockerfile, style);
    deliver(&call, client, &id, &outputs).await?;
    if call.given.on("quiet") || style == Style::Quiet {
        say_line(&id)?;
    }
    Ok(())
}

fn view(style: Style) -> View {
    let width = terminal::size(std::io::stderr()).map_or(80, |(_, columns)| usize::from(columns));
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    View::new(style, color, width)
}

/// Builds an image for another verb, and returns its id; nothing is printed to standard output.
pub(super) async fn image(call: &Call, quiet: bool) -> Result<String, Failure> {
    refuse(call)?;
    let plan = plan(call)?;
    let style = if quiet { Style::Quiet } else { style(call)? };
    let mut view = view(style);
    let dockerfile = plan.dockerfile.clone();
    let built = run(call.client()?, plan, &mut view).await;
    view.finish();
    let id = built.map_err(|e| explained(&view, &dockerfile, e))?;
    tell_warnings(&view, &dockerfile, style);
    Ok(id)
}

/// A build that failed, and where.
struct Broken {
    failure: Failure,
    place: Option<(usize, usize)>,
}

impl From<crate::api::ApiError> for Broken {
    fn from(e: crate::api::ApiError) -> Broken {
        Broken { failure: e.into(), place: None }
    }
}

async fn run(client: &Client, plan: Plan, view: &mut View) -> Result<String, Broken> {
    let Plan { query, headers, body, .. } = plan;
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let path = url("/build", &query);
    let mut packing = None;
    let payload = match body {
        Body::Nothing => Payload::Empty,
        Body::Stream(reader) => Payload::Stream(reader, "application/x-tar"),
        Body::Pack(context, always) => {
            let (reader, writer) = tokio::io::duplex(1 << 20);
            let writer = tokio_util::io::SyncIoBridge::new(writer);
            packing = Some(tokio::task::spawn_blocking(move || {
                let always: Vec<&str> = always.iter().map(String::as_str).collect();
                let writer = std::io::BufWriter::with_capacity(256 << 10, writer);
                context.pack(writer, &always)
            }));
            Payload::Stream(Box::pin(reader), "application/x-tar")
        }
    };
    let sent = client.send(Method::POST, &path, payload, &headers).await;
    // What could not be read is the better reason for a broken upload.
    if let Some(packing) = packing
        && (sent.is_err() || packing.is_finished())
        && let Ok(Err(failure)) = packing.await
    {
        return Err(Broken { failure, place: None });
    }
    let mut stream = JsonStream::new(sent?);
    let (mut id, mut place) = (String::new(), None);
    while let Some(line) = stream.next().await? {
        if let Some(found) = line["aux"]["ID"].as_str() {
            id = found.to_owned();
        }
        let news = &line["wharf"];
        if news["failed"].is_string() {
            let number =
                |key: &str| news[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            place = Some((number("line"), number("last")));
        } else if news.is_object() {
            view.take(news);
        }
        if let Some(error) = line["error"].as_str() {
            let failure = Failure::new(format!("ERROR: failed to build: {error}"));
            return Err(Broken { failure, place });
        }
    }
    Ok(id)
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
        "" | "auto" if std::io::stderr().is_terminal() => Ok(Style::Tree),
        "" | "auto" | "plain" => Ok(Style::Plain),
        "tty" => Ok(Style::Tree),
        "quiet" | "none" => Ok(Style::Quiet),
        "rawjson" => Ok(Style::Raw),
        other => Err(Failure::new(format!(
            "invalid progress mode {other:?}: use auto, plain, tty, quiet or rawjson"
        ))),
    }
}

/// What this command line knows and wharf does not do.
fn refuse(call: &Call) -> Outcome {
    let given = &call.given;
    let told = |flag: &str, why: &str| Err(Failure::new(format!("--{flag}: {why}")));
    for (flag, why) in [
        ("annotation", "wharf does not annotate manifests"),
        ("attest", "wharf does not make attestations"),
        ("squash", "wharf does not squash images: use a further stage and COPY --from"),
        ("push", "build first and push the image then"),
    ] {
        if given.changed(flag) {
            return told(flag, why);
        }
    }
    for flag in ["provenance", "sbom"] {
        if !matches!(given.text(flag), "" | "false" | "disabled=true" | "0") {
            return told(flag, "wharf does not make attestations");
        }
    }
    for to in given.all("cache-to") {
        if to != "inline" && to != "type=inline" {
            return told(
                "cache-to",
                "the cache is in the engine, shared by all builds; only type=inline can be exported",
            );
        }
    }
    match given.text("call") {
        "" | "build" | "check" => Ok(()),
        other => told("call", &format!("{other} is not known: use build or check")),
    }
}

fn outputs(call: &Call) -> Result<Vec<Output>, Failure> {
    let mut out = Vec::new();
    for text in call.given.all("output") {
        out.push(output(text)?);
    }
    if out.is_empty() {
        out.push(Output::Image);
    }
    Ok(out)
}

fn output(text: &str) -> Result<Output, Failure> {
    if text == "-" {
        return Ok(Output::Tar("-".into()));
    }
    if !text.contains('=') {
        return Ok(Output::Local(text.to_owned()));
    }
    let fields = csv(text)?;
    let field = |key: &str| {
        fields
            .iter()
            .filter_map(|f| f.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.to_owned())
    };
    let dest = || {
        field("dest").ok_or_else(|| Failure::new(format!("dest is required in --output {text}")))
    };
    match field("type").as_deref() {
        Some("local") => dest().map(Output::Local),
        Some("tar") => dest().map(Output::Tar),
        Some("docker") if field("dest").is_none() => Ok(Output::Image),
        Some("docker" | "oci") => dest().map(Output::Archive),
        Some("image" | "cacheonly") => Ok(Output::Image),
        Some("registry") => {
            Err("--output type=registry: build first and push the image then".into())
        }
        other => Err(Failure::new(format!(
            "unknown output type {:?}: use local, tar, oci, docker or image",
            other.unwrap_or_default()
        ))),
    }
}

fn plan(call: &Call) -> Result<Plan, Failure> {
    let source = call.args()[0].as_str();
    let mut query = query(call)?;
    let headers = headers(call)?;
    let remote = source.contains("://") || source.starts_with("git@");
    if remote {
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
    let contexts = named_contexts(call, &mut context)?;
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
        ("cachefrom", json!(given.all("cache-from")).to_string()),
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
    if !given.all("cache-to").is_empty() {
        out.push(("inlinecache", "1".into()));
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
fn named_contexts(call: &Call, context: &mut Context) -> Result<String, Failure> {
    let mut out = Map::new();
    for entry in call.given.all("build-context") {
        let (name, value) = entry.split_once('=').ok_or_else(|| {
            Failure::new(format!("invalid context value: {entry}, expected key=value"))
        })?;
        let value = match value.contains("://") {
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
                "--ssh {entry}: SSH_AUTH_SOCK is not set: no agent runs"
            )));
        }
        out.insert(id.to_owned(), crate::parse::absolute(&socket).into());
    }
    Ok(out)
}

async fn deliver(call: &Call, client: &Client, id: &str, outputs: &[Output]) -> Outcome {
    let write = |path: &str, content: &[u8]| {
        std::fs::File::create(path)
            .and_then(|mut f| f.write_all(content))
            .map_err(|e| Failure::new(format!("cannot write {path}: {}", os_text(&e))))
    };
    if call.given.changed("iidfile") {
        write(call.given.text("iidfile"), id.as_bytes())?;
    }
    if call.given.changed("metadata-file") {
        let image = client.get(&format!("/images/{}/json", segment(id))).await?;
        let facts = json!({
            "containerimage.config.digest": id,
            "containerimage.digest": image["Descriptor"]["digest"],
            "containerimage.descriptor": image["Descriptor"],
            "image.name": call.given.all("tag").join(","),
        });
        let facts = serde_json::to_vec_pretty(&facts).unwrap_or_default();
        write(call.given.text("metadata-file"), &facts)?;
    }
    for output in outputs {
        match output {
            Output::Image => {}
            Output::Archive(dest) => {
                let path = url("/images/get", &[("names", id)]);
                save(client, &path, dest).await?;
            }
            Output::Tar(dest) => files(client, id, dest, false).await?,
            Output::Local(dest) => files(client, id, dest, true).await?,
        }
    }
    let kept = outputs.contains(&Output::Image) || !call.given.all("tag").is_empty();
    if !kept {
        // The files are what was asked for; the cache keeps the layers.
        drop(client.delete(&format!("/images/{}?noprune=1", segment(id))).await);
    }
    Ok(())
}

/// The image's files, by way of a container that never runs.
async fn files(client: &Client, id: &str, dest: &str, unpacked: bool) -> Outcome {
    let body = json!({ "Image": id, "Cmd": ["none"], "Entrypoint": [] });
    let made = client.post("/containers/create", Payload::Json(body)).await?;
    let container = text(&made, "Id").to_owned();
    let path = format!("/containers/{}/export", segment(&container));
    let done = match unpacked {
        false => save(client, &path, dest).await,
        true => fill(client, &path, dest).await,
    };
    client.delete(&format!("/containers/{}", segment(&container))).await?;
    done
}

async fn fill(client: &Client, path: &str, dest: &str) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {dest}: {}", os_text(&e)));
    std::fs::create_dir_all(dest).map_err(failed)?;
    let temporary = wharf_base::fs::temp_beside(Path::new(dest));
    let name = temporary.display().to_string();
    let saved = save(client, path, &name).await;
    let place = Place { directory: dest.into(), rename: None, keep_owner: false };
    let done = saved.and_then(|()| {
        let file = std::fs::File::open(&temporary).map_err(failed)?;
        unpack(std::io::BufReader::new(file), &place).map(drop)
    });
    // What is left is a temporary file that the message need not mention.
    drop(std::fs::remove_file(&temporary));
    done
}

async fn save(client: &Client, path: &str, dest: &str) -> Outcome {
    let mut body = client.send(Method::GET, path, Payload::Empty, &[]).await?.into_body();
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {dest}: {}", os_text(&e)));
    let mut file = match dest {
        "-" => None,
        dest => Some(std::fs::File::create(dest).map_err(failed)?),
    };
    while let Some(bytes) = next(&mut body).await? {
        match &mut file {
            None => say(&bytes)?,
            Some(file) => file.write_all(&bytes).map_err(failed)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_have_dockers_forms() {
        assert_eq!(output("out").unwrap(), Output::Local("out".into()));
        assert_eq!(output("-").unwrap(), Output::Tar("-".into()));
        assert_eq!(output("type=tar,dest=x.tar").unwrap(), Output::Tar("x.tar".into()));
        assert_eq!(output("type=oci,dest=x").unwrap(), Output::Archive("x".into()));
        assert!(output("type=local").is_err() && output("type=zip,dest=x").is_err());
    }

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
