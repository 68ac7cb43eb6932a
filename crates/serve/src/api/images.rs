//! Images: lists, pulls, archives, names and removal.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::StatusCode;
use tokio::sync::mpsc::UnboundedSender;
use wharf_engine::EngineError;
use wharf_engine::filters::{IMAGES, PRUNE_IMAGES, SEARCH};
use wharf_engine::images::{self as ops, Images, ListImages, RemoveImage};
use wharf_image::{
    ImportOptions, LoadOptions, Loaded, PullError, PullOptions, Pulled, PushOptions, Pushed,
};
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use super::containers::parse_platform;
use super::system::{CREATED, now};
use super::{Door, blocking};
use crate::call::Call;
use crate::compat;
use crate::fault::Fault;
use crate::progress;
use crate::query::Query;
use crate::reply::{self, Reply};
use crate::route::ImageAction;
use crate::version::v;

pub(super) async fn image(
    door: Arc<Door>,
    action: ImageAction,
    call: Call,
) -> Result<Reply, Fault> {
    use ImageAction as Image;
    match action {
        Image::List => list(&door, &call).await,
        Image::Create if call.query.some("fromImage").is_some() => pull(&door, &call).await,
        Image::Create => import(&door, call).await,
        Image::Load => load(&door, call).await,
        Image::Save(name) => save(&door, vec![name], &call).await,
        Image::SaveMany => {
            let names = call.query.all("names").flat_map(|n| split_names(&n)).collect();
            save(&door, names, &call).await
        }
        Image::Prune => {
            let filters = call.query.filters(PRUNE_IMAGES)?;
            let users = ops::users(&door.engine).await?;
            let images = door.images.clone();
            let report = blocking(move || images.prune(&filters, &users, now())).await?;
            Ok(reply::ok(&report))
        }
        Image::Inspect(name) => inspect(&door, name, &call).await,
        Image::History(name) => {
            platform(&call.query, call.version >= v(48))?;
            let images = door.images.clone();
            let history = blocking(move || images.history(&name)).await?;
            Ok(reply::ok(&history))
        }
        Image::Tag(name) => {
            let (repo, tag) = (call.query.text("repo"), call.query.text("tag"));
            let images = door.images.clone();
            blocking(move || images.tag(&name, &repo, &tag)).await?;
            Ok(reply::status(CREATED))
        }
        Image::Remove(name) => remove(&door, name, &call).await,
        Image::Push(name) => push(&door, &name, &call).await,
        Image::Search => search(&door, &call).await,
    }
}

pub(super) async fn distribution(
    door: Arc<Door>,
    name: String,
    call: Call,
) -> Result<Reply, Fault> {
    let name = Reference::parse(&name)
        .map_err(|e| Fault::invalid(format!("invalid reference format: {e}")))?;
    let auth = AuthConfig::from_header(call.header("X-Registry-Auth")).unwrap_or_default();
    let found = door.images.store().distribution(&name, &auth).await;
    let found = found.map_err(|e| match e {
        // Unlike a pull, this question has an answer of its own for who may not ask.
        PullError::Denied { .. } => Fault::new(StatusCode::UNAUTHORIZED, e.to_string()),
        e => EngineError::from(e).into(),
    })?;
    Ok(reply::ok(&serde_json::json!({
        "Descriptor": found.descriptor,
        "Platforms": found.platforms,
    })))
}

async fn search(door: &Door, call: &Call) -> Result<Reply, Fault> {
    let limit = call.query.number("limit").ok().map(Option::unwrap_or_default);
    let limit = limit.filter(|n| *n >= 0);
    let limit = limit.ok_or_else(|| Fault::invalid("invalid limit specified".to_owned()))?;
    let filters = call.query.filters(SEARCH)?;
    let (automated, official) = (filters.truth("is-automated")?, filters.truth("is-official")?);
    let mut stars = 0;
    for wanted in filters.values("stars") {
        let wanted: i64 = wanted
            .parse()
            .map_err(|_| Fault::invalid(format!("invalid filter 'stars={wanted}'")))?;
        stars = stars.max(wanted);
    }
    let auth = AuthConfig::from_header(call.header("X-Registry-Auth")).unwrap_or_default();
    let found = door.images.store().search(&call.query.text("term"), limit, &auth).await;
    let mut found = found.map_err(EngineError::from)?;
    // Automated builds are no more, whatever the Hub says of them.
    found.retain(|r| {
        automated != Some(true)
            && official.is_none_or(|o| r.is_official == o)
            && r.star_count >= stars
    });
    for result in &mut found {
        result.is_automated = false;
    }
    Ok(reply::ok(&found))
}

async fn list(door: &Door, call: &Call) -> Result<Reply, Fault> {
    let mut filters = call.query.filters(IMAGES)?;
    // Until 1.25 a pattern had a parameter of its own.
    if call.version < v(25)
        && !filters.contains("reference")
        && let Some(pattern) = call.query.some("filter")
    {
        filters = filters.with("reference", &pattern);
    }
    let how = ListImages {
        all: call.query.truth("all"),
        shared_size: call.version >= v(42) && call.query.truth("shared-size"),
        manifests: call.version >= v(47) && call.query.truth("manifests"),
        filters,
    };
    let users = ops::users(&door.engine).await?;
    let images = door.images.clone();
    let list = blocking(move || images.list(&how, &users)).await?;
    Ok(reply::ok(&compat::image_list(list, call.version)))
}

async fn inspect(door: &Door, name: String, call: &Call) -> Result<Reply, Fault> {
    let manifests = call.version >= v(48) && call.query.truth("manifests");
    let wanted = platform(&call.query, call.version >= v(49))?;
    if manifests && wanted.is_some() {
        return Err(Fault::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let images = door.images.clone();
    let inspect = blocking(move || {
        let image = images.store().resolve(&name)?;
        check_platform(&name, wanted.as_ref(), &image.platform())?;
        images.inspect(&name, manifests)
    })
    .await?;
    Ok(reply::ok(&compat::image_inspect(inspect, call.version)))
}

async fn remove(door: &Door, name: String, call: &Call) -> Result<Reply, Fault> {
    if name.trim().is_empty() {
        return Err(Fault::invalid("image name cannot be blank"));
    }
    let wanted = platforms(&call.query, "platforms", call.version >= v(50))?;
    let how =
        RemoveImage { force: call.query.truth("force"), keep_parents: call.query.truth("noprune") };
    let users = ops::users(&door.engine).await?;
    let images = door.images.clone();
    let removed = blocking(move || {
        // Each image is stored for one platform: removing that platform is removing the image.
        let image = images.store().resolve(&name)?;
        for one in &wanted {
            check_platform(&name, Some(one), &image.platform())?;
        }
        images.remove(&name, how, &users)
    })
    .await?;
    Ok(reply::ok(&removed))
}

async fn pull(door: &Door, call: &Call) -> Result<Reply, Fault> {
    let name = ops::pull_name(&call.query.text("fromImage"), &call.query.text("tag"))?;
    let platform = match call.query.some("platform").filter(|_| call.version >= v(32)) {
        Some(text) => Some(parse_platform(&text)?),
        None => None,
    };
    // Credentials that cannot be read count as none, for compatibility.
    let auth = AuthConfig::from_header(call.header("X-Registry-Auth")).unwrap_or_default();
    let (sink, _, lines) = progress::channel();
    let options = PullOptions { platform, auth, progress: sink };
    let work = pull_work(door.images.clone(), name, options);
    Ok(reply::stream("application/json", progress::run(work, lines).await?))
}

async fn pull_work(images: Images, name: Reference, options: PullOptions) -> Result<(), Fault> {
    let store = images.store();
    let pulled = match name.is_name_only() {
        true => store.pull_all_tags(&name, options).await.map_err(EngineError::from)?,
        false => vec![store.pull(&name, options).await.map_err(EngineError::from)?],
    };
    for Pulled { image, name, .. } in &pulled {
        images.tell("pull", &name.familiar(), &name.familiar_name(), Some(image));
    }
    Ok(())
}

async fn push(door: &Door, name: &str, call: &Call) -> Result<Reply, Fault> {
    let name = ops::push_name(name, &call.query.text("tag"))?;
    let platform = platform(&call.query, call.version >= v(46))?;
    let header = call.header("X-Registry-Auth");
    // Unlike at a pull, nobody pushes by mistake without credentials.
    let auth = match header {
        "" => AuthConfig::default(),
        text => AuthConfig::from_header(text).ok_or_else(|| {
            Fault::invalid("invalid X-Registry-Auth header: it is not base64url of JSON")
        })?,
    };
    let (sink, _, lines) = progress::channel();
    let options = PushOptions { platform, auth, progress: sink };
    let work = push_work(door.images.clone(), name, options);
    Ok(reply::stream("application/json", progress::run(work, lines).await?))
}

async fn push_work(images: Images, name: Reference, options: PushOptions) -> Result<(), Fault> {
    let store = images.store();
    let pushed = match name.is_name_only() {
        true => store.push_all_tags(&name, options).await.map_err(EngineError::from)?,
        false => vec![store.push(&name, options).await.map_err(EngineError::from)?],
    };
    for Pushed { image, name, .. } in &pushed {
        images.tell("push", &name.familiar(), &name.familiar_name(), Some(image));
    }
    Ok(())
}

async fn load(door: &Door, call: Call) -> Result<Reply, Fault> {
    let platform = platform(&call.query, call.version >= v(48))?;
    let quiet = call.query.truth_or("quiet", true);
    let images = door.images.clone();
    let (sink, out, lines) = progress::channel();
    let sink = if quiet { wharf_image::progress::silent() } else { sink };
    let body = call.into_stream();
    let work = async move {
        let options = LoadOptions { platform, progress: sink };
        let loaded = images.store().load(body, options).await.map_err(EngineError::from)?;
        for one in &loaded {
            say_loaded(one, &out);
            let id = one.image.id().to_string();
            images.tell("load", &id, &id, Some(&one.image));
        }
        Ok(())
    };
    // A load always answers 200; what goes wrong is a line, as clients expect of it.
    let work = async { Ok::<_, Fault>(work.await) };
    Ok(reply::stream("application/json", failing_in_band(work, lines).await?))
}

/// As [`progress::run`], with even an early failure as a line.
async fn failing_in_band(
    work: impl Future<Output = Result<Result<(), Fault>, Fault>> + Send + 'static,
    lines: progress::Lines,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, Fault> {
    let (last, failed) = tokio::sync::oneshot::channel();
    let work = async move {
        if let Err(fault) = work.await? {
            // The stream that would read it is gone only if the client is.
            let _gone = last.send(progress::encode(&progress::error(&fault)));
        }
        Ok(())
    };
    let tail =
        futures_util::stream::once(failed).filter_map(|line| std::future::ready(line.ok().map(Ok)));
    Ok(progress::run(work, lines).await?.chain(tail))
}

fn say_loaded(loaded: &Loaded, out: &UnboundedSender<Bytes>) {
    let mut said: Vec<String> =
        loaded.names.iter().map(|n| format!("Loaded image: {}\n", n.familiar())).collect();
    if said.is_empty() {
        said.push(format!("Loaded image ID: {}\n", loaded.image.id()));
    }
    for text in said {
        // Nobody reads any more if the client is gone.
        let _gone = out.send(progress::said(text));
    }
}

async fn save(door: &Door, names: Vec<String>, call: &Call) -> Result<Reply, Fault> {
    let wanted = platforms(&call.query, "platform", call.version >= v(48))?;
    if call.version < v(52) && wanted.len() > 1 {
        return Err(Fault::invalid(
            "multiple platform parameters not supported before API version 1.52: name one, or none for all",
        ));
    }
    let images = door.images.clone();
    let tar = blocking(move || {
        let mut found = Vec::with_capacity(names.len());
        for name in &names {
            for image in images.store().to_save(name)? {
                for one in &wanted {
                    check_platform(name, Some(one), &image.platform())?;
                }
                found.push(image);
            }
        }
        let tar = images.store().save(&names)?;
        for image in &found {
            let id = image.id().to_string();
            images.tell("save", &id, &id, Some(image));
        }
        Ok(tar)
    })
    .await?;
    Ok(reply::stream("application/x-tar", tar))
}

async fn import(door: &Door, call: Call) -> Result<Reply, Fault> {
    let query = &call.query;
    let source = query.text("fromSrc");
    let options = ImportOptions {
        name: ops::target(&query.text("repo"), &query.text("tag"))?,
        message: query.some("message").unwrap_or_else(|| format!("Imported from {source}")),
        changes: query.all("changes").map(std::borrow::Cow::into_owned).collect(),
        platform: match query.some("platform").filter(|_| call.version >= v(32)) {
            Some(text) => Some(own_system(parse_platform(&text)?)?),
            None => None,
        },
    };
    let images = door.images.clone();
    let (_, out, lines) = progress::channel();
    let work = async move {
        let body = match source.as_str() {
            "-" => call.into_stream(),
            address => {
                let body = images.store().download(address).await.map_err(EngineError::from)?;
                // Nobody reads any more if the client is gone.
                let _gone = out.send(progress::status(format!("Downloading from {address}")));
                body
            }
        };
        let image = images.store().import(body, options).await.map_err(EngineError::from)?;
        let id = image.id().to_string();
        images.tell("import", &id, &id, Some(&image));
        // Nobody reads any more if the client is gone.
        let _gone = out.send(progress::status(id));
        Ok(())
    };
    Ok(reply::stream("application/json", progress::run(work, lines).await?))
}

/// An image for another operating system cannot be made here.
fn own_system(platform: Platform) -> Result<Platform, Fault> {
    match platform.os.as_str() {
        "linux" => Ok(platform),
        other => Err(Fault::invalid(format!(
            "operating system is not supported: images made here are for linux, not for {other}"
        ))),
    }
}

/// docker-py sends several names as one list with blanks encoded away.
fn split_names(names: &str) -> Vec<String> {
    names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// The `platform` parameter as a JSON object; ignored by versions that did not have it.
fn platform(query: &Query, known: bool) -> Result<Option<Platform>, Fault> {
    Ok(platforms(query, "platform", known)?.pop())
}

fn platforms(query: &Query, key: &str, known: bool) -> Result<Vec<Platform>, Fault> {
    let given = query.all(key).filter(|text| known && !text.is_empty());
    given.map(|text| decode_platform(&text)).collect()
}

fn decode_platform(text: &str) -> Result<Platform, Fault> {
    let platform: Platform = serde_json::from_str(text)
        .map_err(|e| Fault::invalid(format!("failed to parse platform: {e}")))?;
    match (platform.os.is_empty(), platform.architecture.is_empty()) {
        (false, false) => Ok(platform),
        (true, true) if !platform.variant.is_empty() => Err(Fault::invalid(
            "optional platform fields provided, but OS and Architecture are missing",
        )),
        _ => Err(Fault::invalid("both OS and Architecture must be provided")),
    }
}

/// docker-py knows a missing platform by these words.
fn check_platform(
    name: &str,
    wanted: Option<&Platform>,
    stored: &Platform,
) -> Result<(), EngineError> {
    match wanted {
        Some(wanted) if wanted.distance(stored).is_none() => Err(EngineError::not_found(format!(
            "image with reference {name} was found but does not match the specified platform: wanted {wanted}, actual: {stored}"
        ))),
        _ => Ok(()),
    }
}
