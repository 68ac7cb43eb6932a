//! `build --print`: what is to be built as a bake file, for whoever builds with `docker buildx bake`.

use serde_json::{Map, Value, json};
use wharf_compose::labels;
use wharf_spec::compose::Project;
use wharf_spec::compose::model::{Build, Service};

use crate::app::Call;

/// The bake file of some services, as stock Compose prints it.
pub(super) fn file(call: &Call, project: &Project, names: &[String]) -> Value {
    let target = |name: &String| {
        let service = project.services.get(name)?;
        Some((bake_name(name), target(call, project, name, service, service.build.as_ref()?)))
    };
    let targets: Map<String, Value> = names.iter().filter_map(target).collect();
    let all: Vec<&String> = targets.keys().collect();
    json!({"group": {"default": {"targets": all}}, "target": targets})
}

/// Bake takes no dots.
fn bake_name(service: &str) -> String {
    service.replace('.', "_")
}

fn target(call: &Call, project: &Project, name: &str, service: &Service, build: &Build) -> Value {
    let given = &call.given;
    let push = given.on("push") && !service.image.is_empty();
    let output = match push || build.platforms.len() > 1 {
        true => format!("type=image,push={push}"),
        false => "type=docker".to_owned(),
    };
    let dockerfile = match build.dockerfile_inline.is_empty() && !build.dockerfile.is_empty() {
        true => {
            let path = std::path::Path::new(&build.context).join(&build.dockerfile);
            crate::parse::clean_path(&path.to_string_lossy())
        }
        false => String::new(),
    };
    let image = service.image_or_default(&project.name, name);
    let tags: Vec<&String> = build.tags.iter().chain([&image]).collect();
    let size = match build.shm_size.0 {
        0 => String::new(),
        bytes => bytes.to_string(),
    };
    let hosts: Map<String, Value> =
        build.extra_hosts.0.iter().map(|(h, ips)| (h.clone(), ips.join(",").into())).collect();
    let fields = [
        ("context", json!(build.context)),
        ("contexts", contexts(build)),
        ("dockerfile", json!(dockerfile)),
        ("dockerfile-inline", json!(build.dockerfile_inline)),
        ("args", arguments(call, project, build)),
        ("labels", own_labels(project, name, build)),
        ("tags", json!(tags)),
        ("cache-from", json!(build.cache_from.iter().collect::<Vec<_>>())),
        ("cache-to", json!(build.cache_to.iter().collect::<Vec<_>>())),
        ("target", json!(build.target)),
        ("secret", secrets(project, build)),
        ("ssh", agents(call, build)),
        ("platforms", json!(build.platforms.iter().collect::<Vec<_>>())),
        ("pull", json!(build.pull || given.on("pull"))),
        ("no-cache", json!(build.no_cache || given.on("no-cache"))),
        ("network", json!(build.network)),
        ("shm-size", json!(size)),
        ("ulimits", limits(build)),
        ("entitlements", json!(build.entitlements)),
        ("extra-hosts", Value::Object(hosts)),
        ("output", json!([output])),
    ];
    let written = fields.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(written.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn contexts(build: &Build) -> Value {
    let of = |value: &String| match value.strip_prefix("service:") {
        Some(service) => format!("target:{}", bake_name(service)),
        None => value.clone(),
    };
    let all = build.additional_contexts.0.iter();
    Value::Object(all.map(|(name, value)| (name.clone(), of(value).into())).collect())
}

fn arguments(call: &Call, project: &Project, build: &Build) -> Value {
    let mut args = build.args.0.clone();
    for pair in call.given.all("build-arg") {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (pair.as_str(), project.environment.get(pair).cloned()),
        };
        args.insert(key.to_owned(), value);
    }
    Value::Object(args.into_iter().filter_map(|(k, v)| Some((k, v?.into()))).collect())
}

fn own_labels(project: &Project, name: &str, build: &Build) -> Value {
    let mut own = build.labels.0.clone();
    own.insert(labels::PROJECT.to_owned(), project.name.clone());
    own.insert(labels::SERVICE.to_owned(), name.to_owned());
    own.insert(labels::VERSION.to_owned(), labels::COMPOSE_VERSION.to_owned());
    json!(own)
}

fn secrets(project: &Project, build: &Build) -> Value {
    let one = |secret: &wharf_spec::compose::model::FileRef| {
        let id = if secret.target.is_empty() { &secret.source } else { &secret.target };
        let found = project.secrets.get(&secret.source)?;
        Some(match found.environment.as_str() {
            "" => format!("id={id},type=file,src={}", found.file),
            variable => format!("id={id},type=env,env={variable}"),
        })
    };
    json!(build.secrets.iter().filter_map(one).collect::<Vec<_>>())
}

fn agents(call: &Call, build: &Build) -> Value {
    let written = build.ssh.0.iter();
    let written = written.map(|(id, path)| format!("{id}={}", path.as_deref().unwrap_or_default()));
    let given = call.given.all("ssh").iter();
    let given = given.map(|a| if a.contains('=') { a.clone() } else { format!("{a}=") });
    json!(written.chain(given).collect::<Vec<_>>())
}

fn limits(build: &Build) -> Value {
    let one = |(name, limit): (&String, &wharf_spec::compose::value::Ulimit)| match limit.single {
        0 => format!("{name}={}:{}", limit.soft, limit.hard),
        single => format!("{name}={single}"),
    };
    json!(build.ulimits.iter().map(one).collect::<Vec<_>>())
}
