//! `build`: the images that a project makes itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::json;
use wharf_compose::apply::{Event, Progress, Status};
use wharf_compose::labels;
use wharf_spec::compose::model::{Build, Service};
use wharf_spec::compose::{Project, Selection};
use wharf_spec::dockerfile::ignore::Ignore;

use super::display::Screen;
use super::load;
use crate::api::{JsonStream, Payload, url};
use crate::app::Call;
use crate::failure::{Failure, os_text};
use crate::out::progress::{Target, show};
use crate::verbs::Outcome;

/// The name of a Dockerfile that is written in the Compose file or lies outside of the context.
const INLINE: &str = ".dockerfile.compose";

/// `compose build [SERVICE...]`
pub async fn build(call: Call) -> Outcome {
    let reach = match call.given.on("with-dependencies") {
        true => Selection::WithDependencies,
        false => Selection::Alone,
    };
    let project = load(&call, call.args(), reach)?;
    let buildable = project.services.iter().filter(|(_, s)| s.build.is_some());
    let names: Vec<String> = buildable.map(|(n, _)| n.clone()).collect();
    if names.is_empty() {
        super::remark("No services to build");
        return Ok(());
    }
    let screen = super::screen(&call)?;
    build_services(&call, &screen, &project, &names).await
}

/// Builds the images of some services, those that others build on first.
pub(crate) async fn build_services(
    call: &Call,
    screen: &Screen,
    project: &Project,
    names: &[String],
) -> Outcome {
    let mut left: Vec<&String> = names.iter().collect();
    while !left.is_empty() {
        let needs = |name: &String| {
            let build = project.services.get(name).and_then(|s| s.build.as_ref());
            let contexts = build.into_iter().flat_map(|b| b.additional_contexts.values());
            let mut needed = contexts.filter_map(|c| c.strip_prefix("service:"));
            needed.any(|n| left.iter().any(|other| *other == n && *other != name))
        };
        let at = left.iter().position(|name| !needs(name)).unwrap_or(0);
        let name = left.remove(at);
        let Some(service) = project.services.get(name) else { continue };
        let image = service.image_or_default(&project.name, name);
        let tell = |status, text: &str| {
            screen.event(Event { subject: image.clone(), status, text: text.to_owned() });
        };
        tell(Status::Working, "Building");
        let result = build_one(call, project, name, service, &image).await;
        match &result {
            Ok(()) => tell(Status::Done, "Built"),
            Err(_) => tell(Status::Failed, "Failed"),
        }
        result.map_err(|f| Failure::new(format!("failed to build {name}: {}", f.text)))?;
    }
    Ok(())
}

async fn build_one(
    call: &Call,
    project: &Project,
    name: &str,
    service: &Service,
    image: &str,
) -> Outcome {
    let Some(build) = &service.build else { return Ok(()) };
    refuse(build)?;
    let query = query(call, project, name, build, service, image)?;
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let payload = match is_remote(&build.context) {
        true => Payload::Empty,
        false => {
            let archive = pack(build)?;
            let file = tokio::fs::File::from_std(archive);
            Payload::Stream(Box::pin(file), "application/x-tar")
        }
    };
    let response = call.client()?.send(Method::POST, &url("/build", &query), payload, &[]).await?;
    let target = if call.given.on("quiet") { Target::Nowhere } else { Target::Stderr };
    show(JsonStream::new(response), target, |_| ()).await
}

fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}

/// What the classic build of the Engine API has no words for is refused by name.
fn refuse(build: &Build) -> Outcome {
    let odd = [
        ("secrets", !build.secrets.is_empty()),
        ("ssh", !build.ssh.0.is_empty()),
        ("additional_contexts", !build.additional_contexts.is_empty()),
        ("platforms", build.platforms.len() > 1),
        ("privileged", build.privileged),
        ("entitlements", !build.entitlements.is_empty()),
        ("cache_to", !build.cache_to.is_empty()),
    ];
    match odd.iter().find(|(_, used)| *used) {
        Some((what, _)) => Err(Failure::new(format!(
            "build.{what} is not supported by compose build; use the docker CLI with buildx"
        ))),
        None => Ok(()),
    }
}

fn query(
    call: &Call,
    project: &Project,
    name: &str,
    build: &Build,
    service: &Service,
    image: &str,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let given = &call.given;
    let mut args: BTreeMap<String, Option<String>> = build.args.0.clone();
    for pair in given.all("build-arg") {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (pair.as_str(), project.environment.get(pair).cloned()),
        };
        args.insert(key.to_owned(), value);
    }
    let mut own = build.labels.0.clone();
    own.insert(labels::PROJECT.to_owned(), project.name.clone());
    own.insert(labels::SERVICE.to_owned(), name.to_owned());
    own.insert(labels::VERSION.to_owned(), labels::COMPOSE_VERSION.to_owned());
    let bit = |on: bool| if on { "1" } else { "" }.to_owned();
    let platform = build.platforms.first().cloned().unwrap_or_else(|| service.platform.clone());
    let mut query = vec![
        ("buildargs", json!(args).to_string()),
        ("dockerfile", dockerfile(build)?.0),
        ("extrahosts", build.extra_hosts.lines(":").join(",")),
        ("forcerm", "1".to_owned()),
        ("labels", json!(own).to_string()),
        (
            "memory",
            if given.bytes("memory") > 0 {
                given.bytes("memory").to_string()
            } else {
                String::new()
            },
        ),
        ("networkmode", build.network.clone()),
        ("nocache", bit(build.no_cache || given.on("no-cache"))),
        ("platform", platform),
        ("pull", bit(build.pull || given.on("pull"))),
        ("rm", "1".to_owned()),
        (
            "shmsize",
            if build.shm_size.0 > 0 { build.shm_size.0.to_string() } else { String::new() },
        ),
        ("target", build.target.clone()),
        ("t", image.to_owned()),
    ];
    query.extend(build.tags.iter().map(|t| ("t", t.clone())));
    if !build.cache_from.is_empty() {
        query.push(("cachefrom", json!(build.cache_from.0).to_string()));
    }
    if is_remote(&build.context) {
        query.push(("remote", build.context.clone()));
    }
    Ok(query)
}

/// The Dockerfile's name in the archive, and its text when it is not part of the context.
fn dockerfile(build: &Build) -> Result<(String, Option<Vec<u8>>), Failure> {
    if !build.dockerfile_inline.is_empty() {
        return Ok((INLINE.to_owned(), Some(build.dockerfile_inline.clone().into_bytes())));
    }
    if is_remote(&build.context) {
        return Ok((build.dockerfile.clone(), None));
    }
    let context = Path::new(&build.context);
    let path = context.join(&build.dockerfile);
    let clean = crate::parse::clean_path(&path.to_string_lossy());
    match Path::new(&clean).strip_prefix(crate::parse::clean_path(&build.context)) {
        Ok(inside) => Ok((inside.to_string_lossy().into_owned(), None)),
        Err(_) => {
            let text = std::fs::read(&clean)
                .map_err(|e| Failure::new(format!("open {clean}: {}", os_text(&e))))?;
            Ok((INLINE.to_owned(), Some(text)))
        }
    }
}

/// The context as a tar file without a name, positioned at its beginning.
fn pack(build: &Build) -> Result<std::fs::File, Failure> {
    use std::io::Seek;
    let context = Path::new(&build.context);
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| Failure::new(format!("cannot pack {path}: {}", os_text(&e)))
    };
    let (name, text) = dockerfile(build)?;
    let rules = ignore_rules(context, &name)?;
    let temporary = wharf_base::fs::temp_beside(&std::env::temp_dir().join("wharf-context"));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(failed(&temporary))?;
    std::fs::remove_file(&temporary).map_err(failed(&temporary))?;
    let mut archive = tar::Builder::new(file);
    archive.follow_symlinks(false);
    add(&mut archive, context, Path::new(""), &rules, &name).map_err(failed(context))?;
    if let Some(text) = text {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, &name, &text[..]).map_err(failed(context))?;
    }
    let mut file = archive.into_inner().map_err(failed(context))?;
    file.rewind().map_err(failed(context))?;
    Ok(file)
}

/// `<Dockerfile>.dockerignore`, or `.dockerignore`, or nothing.
fn ignore_rules(context: &Path, dockerfile: &str) -> Result<Option<Ignore>, Failure> {
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
        let path = context.join(name);
        if let Ok(text) = std::fs::read_to_string(&path) {
            let rules = Ignore::parse(&text)
                .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
            return Ok(Some(rules));
        }
    }
    Ok(None)
}

fn add(
    archive: &mut tar::Builder<std::fs::File>,
    context: &Path,
    below: &Path,
    rules: &Option<Ignore>,
    dockerfile: &str,
) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(context.join(below))?
        .map(|entry| entry.map(|e| below.join(e.file_name())))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        let text = path.to_string_lossy().into_owned();
        let full = context.join(&path);
        let is_dir = full.symlink_metadata()?.is_dir();
        let ignored = rules.as_ref().is_some_and(|r| r.ignores(&text));
        // The engine needs these two whatever the rules say.
        let needed = text == dockerfile || text == ".dockerignore";
        if ignored
            && !needed
            && !(is_dir && rules.as_ref().is_some_and(|r| r.may_include_below(&text)))
        {
            continue;
        }
        if is_dir {
            if !ignored {
                archive.append_path_with_name(&full, &path)?;
            }
            add(archive, context, &path, rules, dockerfile)?;
        } else {
            archive.append_path_with_name(&full, &path)?;
        }
    }
    Ok(())
}
