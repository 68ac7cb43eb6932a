//! `POST /build?version=2`: a BuildKit build in one request, as clients without gRPC ask for it.
//!
//! Docker's own command line before version 23 builds in this way, with a session for its files; others send them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_build::Tree;
use wharf_buildkit::{Output, PostError, Posted};
use wharf_engine::images as ops;
use wharf_spec::docker::Ulimit;

use super::Door;
use super::build::{self, Listed};
use super::uploads::Lent;
use crate::call::Call;
use crate::fault::Fault;
use crate::progress::{self, said};
use crate::query::Query;
use crate::reply::{self, Reply};

/// Before the id of a build: the request brings its context.
const UPLOAD: &str = "upload-request:";

/// Query parameters that are frontend options under another name, or under the same.
const SAME: &[(&str, &str)] = &[
    ("target", "target"),
    ("platform", "platform"),
    ("shmsize", "shm-size"),
    ("memory", "memory"),
    ("memswap", "memswap"),
    ("cpushares", "cpushares"),
    ("cpuperiod", "cpuperiod"),
    ("cpuquota", "cpuquota"),
    ("cpusetcpus", "cpusetcpus"),
    ("cpusetmems", "cpusetmems"),
    ("cgroupparent", "cgroup-parent"),
];

pub(super) async fn start(door: Arc<Door>, call: Call) -> Result<Reply, Fault> {
    let id = call.query.text("buildid");
    if let Some(id) = id.strip_prefix(UPLOAD) {
        door.uploads.give(id, call.into_stream()).await?;
        return Ok(reply::status(http::StatusCode::OK));
    }
    let mut posted = posted(&call)?;
    let quiet = call.query.truth("q");
    let (lines, receiver) = mpsc::unbounded_channel();
    let work = async move {
        posted.context = context(&door, &id, call).await?;
        run(&door, &id, posted, quiet, &lines).await
    };
    Ok(reply::stream("application/json", progress::run(work, receiver).await?))
}

/// The files that came with the request, or with another.
async fn context(door: &Door, id: &str, call: Call) -> Result<Option<Tree>, Fault> {
    let (body, other) = match call.query.text("remote").as_str() {
        "" => (call.into_stream(), None),
        "upload-request" => {
            let Lent { body, done } = door.uploads.take(id).await?;
            (body, Some(done))
        }
        _ => return Ok(None),
    };
    let tree = door.builder.unpack(body).await;
    drop(other);
    tree.map(Some).map_err(|e| build::fault(&e.into()))
}

async fn run(
    door: &Arc<Door>,
    id: &str,
    posted: Posted,
    quiet: bool,
    out: &mpsc::UnboundedSender<Bytes>,
) -> Result<(), Fault> {
    let cancel = CancellationToken::new();
    let _listed = Listed::new(door, id, &cancel);
    let images =
        posted.output.as_ref().is_some_and(|o| ["moby", "image"].contains(&o.kind.as_str()));
    // Nobody reads any more if the client is gone, and then all of this is dropped.
    let say = |line: Bytes| drop(out.send(line));
    let mut kept = Vec::new();
    let tell = |message: Vec<u8>| {
        let line = aux("moby.buildkit.trace", &Value::String(STANDARD.encode(message)));
        match quiet {
            true => kept.push(line),
            false => say(line),
        }
    };
    let built = door.buildkit.post(posted, cancel, tell).await;
    if built.is_err() {
        kept.into_iter().for_each(say);
    }
    let answer = built.map_err(|e| fault(&e))?;
    let image = answer.get("containerimage.digest").filter(|_| images);
    match image {
        Some(image) if quiet => say(said(format!("{image}\n"))),
        Some(image) => say(aux("moby.image.id", &json!({ "ID": image }))),
        None => (),
    }
    Ok(())
}

fn aux(id: &str, value: &Value) -> Bytes {
    let mut line = json!({ "id": id, "aux": value }).to_string();
    line.push_str("\r\n");
    line.into()
}

fn fault(e: &PostError) -> Fault {
    Fault::new(build::status(e.kind()), e.to_string())
}

/// What the request asks for, in BuildKit's words. The files are still missing.
fn posted(call: &Call) -> Result<Posted, Fault> {
    let q = &call.query;
    build::never(q)?;
    if q.text("remote") == "client-session" && q.text("session").is_empty() {
        return Err(Fault::invalid(
            "remote=client-session needs a session: open one with POST /session and name it as session=ID",
        ));
    }
    let network = q.text("networkmode");
    let entitlements = match network.as_str() {
        "host" => vec!["network.host".to_owned()],
        _ => Vec::new(),
    };
    Ok(Posted {
        options: options(q, &network)?,
        entitlements,
        output: output(q)?,
        session: q.text("session"),
        logins: build::decoded(call.header("X-Registry-Config")),
        context: None,
    })
}

fn options(q: &Query, network: &str) -> Result<HashMap<String, String>, Fault> {
    let mut out: HashMap<String, String> = HashMap::new();
    for (parameter, option) in SAME {
        if let Some(value) = q.some(parameter).filter(|v| v != "0") {
            out.insert((*option).to_owned(), value);
        }
    }
    let mut add = |key: &str, value: String| drop(out.insert(key.to_owned(), value));
    if let Some(name) = q.some("dockerfile").filter(|n| n != ".") {
        add("filename", name);
    }
    match q.text("remote") {
        remote if ["", "client-session", "upload-request"].contains(&remote.as_str()) => (),
        remote => add("context", remote),
    }
    match network {
        "" | "default" => (),
        "host" | "none" => add("force-network-mode", network.to_owned()),
        other => {
            return Err(Fault::invalid(format!(
                "network mode {other:?} not supported by buildkit: use default, host or none, or DOCKER_BUILDKIT=0"
            )));
        }
    }
    if q.truth("nocache") {
        add("no-cache", String::new());
    }
    let resolve = if q.truth("pull") { "pull" } else { "default" };
    add("image-resolve-mode", resolve.to_owned());
    let caches: Vec<String> = build::json(q, "cachefrom")?.unwrap_or_default();
    add("cache-from", caches.join(","));
    add("add-hosts", hosts(q)?.join(","));
    add("ulimit", ulimits(q)?.join(","));
    // Without a value it is what the client's environment lacks: as if it had not been given.
    let arguments: BTreeMap<String, Option<String>> =
        build::json(q, "buildargs")?.unwrap_or_default();
    for (name, value) in arguments.into_iter().filter_map(|(k, v)| Some((k, v?))) {
        add(&format!("build-arg:{name}"), value);
    }
    let labels: BTreeMap<String, String> = build::json(q, "labels")?.unwrap_or_default();
    for (name, value) in labels {
        add(&format!("label:{name}"), value);
    }
    Ok(out)
}

fn hosts(q: &Query) -> Result<Vec<String>, Fault> {
    let hosts = build::extra_hosts(q)?;
    let pair = |entry: &String| {
        let (name, address) = wharf_engine::validate::extra_host(entry)?;
        Ok(format!("{name}={address}"))
    };
    hosts.iter().map(pair).collect()
}

fn ulimits(q: &Query) -> Result<Vec<String>, Fault> {
    let limits: Vec<Ulimit> = build::json(q, "ulimits")?.unwrap_or_default();
    Ok(limits.iter().map(|l| format!("{}={}:{}", l.name, l.soft, l.hard)).collect())
}

/// Where the result goes: into the engine's store if nothing else is said.
fn output(q: &Query) -> Result<Option<Output>, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Wanted {
        #[serde(default, alias = "type")]
        r#type: String,
        #[serde(default, alias = "attrs")]
        attrs: Option<HashMap<String, String>>,
    }
    let wanted: Option<Option<Vec<Wanted>>> = build::json(q, "outputs")?;
    let mut wanted = wanted.flatten().unwrap_or_default();
    if wanted.len() > 1 {
        return Err(Fault::invalid("multiple outputs not supported"));
    }
    let mut output = match wanted.pop() {
        None => Output { kind: "moby".into(), ..Output::default() },
        Some(wanted) if wanted.r#type == "cacheonly" => return Ok(None),
        Some(wanted) => Output { kind: wanted.r#type, attrs: wanted.attrs.unwrap_or_default() },
    };
    let mut names = Vec::new();
    for name in q.all("t") {
        names.extend(ops::target(&name, "")?.map(|n| n.to_string()));
    }
    if ["moby", "image"].contains(&output.kind.as_str()) && !names.is_empty() {
        output.attrs.insert("name".into(), names.join(","));
    }
    Ok(Some(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(raw: &str) -> Query {
        Query::parse(raw).unwrap()
    }

    #[test]
    fn parameters_become_options() {
        let q = query(
            "dockerfile=D&remote=client-session&pull=1&nocache=1&target=t&shmsize=5&memory=0\
             &buildargs=%7B%22A%22:%22b%22,%22C%22:null%7D&labels=%7B%22l%22:%22m%22%7D\
             &cachefrom=%5B%22x%22,%22y%22%5D&extrahosts=a:::1\
             &ulimits=%5B%7B%22Name%22:%22nofile%22,%22Soft%22:1,%22Hard%22:2%7D%5D",
        );
        let options = options(&q, "none").unwrap();
        let sorted: BTreeMap<&str, &str> =
            options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = BTreeMap::from([
            ("filename", "D"),
            ("image-resolve-mode", "pull"),
            ("no-cache", ""),
            ("target", "t"),
            ("shm-size", "5"),
            ("build-arg:A", "b"),
            ("label:l", "m"),
            ("cache-from", "x,y"),
            ("add-hosts", "a=::1"),
            ("ulimit", "nofile=1:2"),
            ("force-network-mode", "none"),
        ]);
        assert_eq!(sorted, expected);
        let refused = super::options(&q, "container:x").unwrap_err();
        assert_eq!(refused.status(), http::StatusCode::BAD_REQUEST);
        let first = "network mode \"container:x\" not supported by buildkit: use ";
        assert!(refused.message().starts_with(first), "{}", refused.message());
    }

    #[test]
    fn the_result_goes_where_it_is_wanted() {
        let to = |raw: &str| output(&query(raw));
        let image = to("t=a&t=b:1").unwrap().unwrap();
        assert_eq!(image.kind, "moby");
        assert_eq!(image.attrs["name"], "docker.io/library/a:latest,docker.io/library/b:1");
        let files = to("t=a&outputs=%5B%7B%22Type%22:%22local%22,%22Attrs%22:null%7D%5D");
        let files = files.unwrap().unwrap();
        assert_eq!((files.kind.as_str(), files.attrs.len()), ("local", 0));
        assert!(to("outputs=%5B%7B%22Type%22:%22cacheonly%22%7D%5D").unwrap().is_none());
        let tar = to("outputs=%5B%7B%22type%22:%22tar%22%7D%5D").unwrap().unwrap();
        assert_eq!(tar.kind, "tar");
        assert!(to("outputs=null").unwrap().is_some());
        assert!(to("outputs=%5B%7B%7D,%7B%7D%5D").is_err());
    }
}
