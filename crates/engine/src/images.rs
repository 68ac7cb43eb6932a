//! Images as the Engine API shows them: lists with filters, inspection, removal, and their events.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::{Value, json};
use wharf_image::{HistoryEntry, Image, ImageStore, ImageUser, Removed, Summary};
use wharf_spec::docker::{self, Map};
use wharf_spec::reference::Reference;

use crate::Engine;
use crate::error::{EngineError, Result};
use crate::events::{Attributes, Events, Kind};
use crate::filters::{self, FilterError, Filters};
use crate::options::ListOptions;

/// The image store with its events.
#[derive(Clone)]
pub struct Images {
    store: ImageStore,
    events: Events,
}

/// What an image list shows.
#[derive(Clone, Debug, Default)]
pub struct ListImages {
    /// Untagged parents of other images as well.
    pub all: bool,
    /// Measure what images share.
    pub shared_size: bool,
    /// Describe the manifest of each.
    pub manifests: bool,
    /// Filters.
    pub filters: Filters,
}

/// How an image is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveImage {
    /// Also if stopped containers use it or several names point to it.
    pub force: bool,
    /// Keep untagged parents.
    pub keep_parents: bool,
}

impl Images {
    /// Over a store.
    pub fn new(store: ImageStore, events: Events) -> Images {
        Images { store, events }
    }

    /// The store, for what has no event and no filter.
    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    /// Lists images, newest first.
    pub fn list(&self, how: &ListImages, users: &[ImageUser]) -> Result<Vec<docker::ImageSummary>> {
        how.filters.check(filters::IMAGES).map_err(invalid)?;
        let pick = Pick::new(&self.store, &how.filters)?;
        let all = self.store.list();
        let parents: BTreeSet<_> = all.iter().filter_map(|s| s.image.parent().cloned()).collect();
        let shared = if how.shared_size { Some(self.store.usage()?.shared) } else { None };
        let rows = all.iter().filter(|s| {
            let is_step = s.is_dangling() && parents.contains(s.image.id());
            (how.all || !is_step) && pick.takes(s)
        });
        Ok(rows
            .map(|summary| {
                let mut row = row(&pick.names(summary), users);
                if let Some(shared) = &shared {
                    row.shared_size = signed(shared.get(summary.image.id()).copied().unwrap_or(0));
                }
                if how.manifests {
                    row.manifests = Some(vec![manifest(&summary.image, users)]);
                }
                row
            })
            .collect())
    }

    /// Everything about one.
    pub fn inspect(&self, name: &str, manifests: bool) -> Result<docker::ImageInspect> {
        let image = self.store.resolve(name)?;
        let summary = self.store.summary(&image);
        let mut inspect = inspect(&self.store, &image, summary);
        if manifests {
            inspect.manifests = Some(vec![manifest(&image, &[])]);
        }
        Ok(inspect)
    }

    /// How it came about, newest step first.
    pub fn history(&self, name: &str) -> Result<Vec<docker::HistoryItem>> {
        let image = self.store.resolve(name)?;
        let tags = self.store.summary(&image).repo_tags;
        let item = |step: HistoryEntry| docker::HistoryItem {
            comment: step.comment,
            created: step.created,
            created_by: step.created_by,
            tags: step.id.as_ref().and((!tags.is_empty()).then(|| tags.clone())),
            id: step.id.map_or_else(|| "<missing>".into(), |id| id.to_string()),
            size: signed(step.size),
        };
        Ok(image.history().into_iter().map(item).collect())
    }

    /// Gives it a further name.
    pub fn tag(&self, name: &str, repo: &str, tag: &str) -> Result<()> {
        let target = target(repo, tag)?.ok_or_else(|| {
            EngineError::invalid("repository name must have at least one component")
        })?;
        if target.familiar_name() == "sha256" {
            return Err(EngineError::invalid(
                "refusing to create an ambiguous tag using digest algorithm as name",
            ));
        }
        let image = self.store.resolve(name)?;
        self.store.tag(&image, &target)?;
        self.tell("tag", &image.id().to_string(), &target.familiar(), Some(&image));
        Ok(())
    }

    /// Removes a name, or an image by id.
    pub fn remove(
        &self,
        name: &str,
        how: RemoveImage,
        users: &[ImageUser],
    ) -> Result<Vec<docker::ImageDelete>> {
        let options =
            wharf_image::RemoveOptions { force: how.force, prune: !how.keep_parents, users };
        let removed = self.store.remove(name, options)?;
        Ok(self.report(removed))
    }

    /// Removes what no container uses: untagged images, or all of them with `dangling=false`.
    pub fn prune(
        &self,
        filters: &Filters,
        users: &[ImageUser],
        now: SystemTime,
    ) -> Result<docker::ImagesPruneReport> {
        filters.check(filters::PRUNE_IMAGES).map_err(invalid)?;
        let all = !filters.truth("dangling").map_err(invalid)?.unwrap_or(true);
        let until = filters.until(now).map_err(invalid)?.map(unix);
        let pruned = self.store.prune(all, users, |summary| {
            until.is_none_or(|until| summary.image.created() < until)
                && filters.prunes(&labels(&summary.image))
        })?;
        let reclaimed = pruned.reclaimed;
        let deleted = self.report(pruned.removed);
        let attributes = Attributes::from([("reclaimed".into(), reclaimed.to_string())]);
        self.events.publish(Kind::Image, "prune", "", attributes);
        Ok(docker::ImagesPruneReport {
            images_deleted: (!deleted.is_empty()).then_some(deleted),
            space_reclaimed: reclaimed,
        })
    }

    /// Publishes that an image was loaded, saved, imported or pulled. `name` as Docker gives it.
    pub fn tell(&self, action: &str, id: &str, name: &str, image: Option<&Image>) {
        let mut attributes: Attributes = image.map(labels).unwrap_or_default();
        attributes.insert("name".into(), name.into());
        self.events.publish(Kind::Image, action, id, attributes);
    }

    fn report(&self, removed: Vec<Removed>) -> Vec<docker::ImageDelete> {
        let mut report = Vec::with_capacity(removed.len());
        for one in removed {
            match one {
                Removed::Untagged { name, image } => {
                    let id = image.to_string();
                    self.tell("untag", &id, &id, None);
                    report.push(docker::ImageDelete { untagged: name, ..Default::default() });
                }
                Removed::Image(id) => {
                    let id = id.to_string();
                    self.tell("delete", &id, &id, None);
                    report.push(docker::ImageDelete { deleted: id, ..Default::default() });
                }
                Removed::Layer(id) => {
                    let deleted = id.to_string();
                    report.push(docker::ImageDelete { deleted, ..Default::default() });
                }
            }
        }
        report
    }
}

/// Which containers were made from which image.
pub async fn users(engine: &Engine) -> Result<Vec<ImageUser>> {
    let all = engine.list(ListOptions { all: true, ..ListOptions::default() }).await?;
    let user = |c: docker::ContainerSummary| {
        let image = c.image_id.parse().ok()?;
        let running = matches!(c.state.as_str(), "running" | "paused" | "restarting");
        Some(ImageUser { container: c.id, image, running })
    };
    let mut users: Vec<ImageUser> = all.into_iter().filter_map(user).collect();
    users.extend(engine.mounted_images());
    Ok(users)
}

/// The name that `repo` and `tag` parameters give; `None` without a repository.
pub fn target(repo: &str, tag: &str) -> Result<Option<Reference>> {
    if repo.is_empty() {
        return Ok(None);
    }
    let name = parse(repo)?;
    if name.digest().is_some() {
        return Err(EngineError::invalid("cannot import digest reference"));
    }
    if tag.is_empty() {
        return Ok(Some(name.or_latest()));
    }
    name.with_tag(tag).map(Some).map_err(|e| EngineError::invalid(e.to_string()))
}

/// The name that a pull asks for: `tag` may be a digest. `None`: no tag at all, which means all tags.
pub fn pull_name(from: &str, tag: &str) -> Result<Reference> {
    // `pull -a` of old clients sends a trailing colon.
    let name = parse(from.strip_suffix(':').unwrap_or(from))?;
    let name = match tag.parse() {
        Ok(digest) => name.name_only().with_digest(digest),
        Err(_) if tag.is_empty() => name,
        Err(_) => name.with_tag(tag).map_err(|e| EngineError::invalid(e.to_string()))?,
    };
    if name.familiar_name() == "scratch" {
        return Err(EngineError::forbidden("'scratch' is a reserved name"));
    }
    Ok(name)
}

/// The name that a push asks for. `None`: no tag at all, which means all tags.
pub fn push_name(name: &str, tag: &str) -> Result<Reference> {
    let name = parse(name)?;
    if name.digest().is_some() || tag.parse::<wharf_spec::digest::Digest>().is_ok() {
        return Err(EngineError::invalid("cannot push a digest reference"));
    }
    match tag {
        "" => Ok(name),
        tag => name.with_tag(tag).map_err(|e| EngineError::invalid(e.to_string())),
    }
}

fn parse(name: &str) -> Result<Reference> {
    Reference::parse(name).map_err(|e| EngineError::invalid(e.to_string()))
}

/// Filters of a list, with the images that they refer to looked up once.
struct Pick<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    before: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
}

impl<'a> Pick<'a> {
    fn new(store: &ImageStore, filters: &'a Filters) -> Result<Pick<'a>> {
        let created = |key: &str| -> Result<Option<i64>> {
            let times: Vec<i64> = filters
                .values(key)
                .map(|name| store.resolve(name).map(|i| i.created_nanos()))
                .collect::<std::result::Result<_, _>>()?;
            Ok(if key == "before" { times.into_iter().min() } else { times.into_iter().max() })
        };
        Ok(Pick {
            filters,
            dangling: filters.truth("dangling").map_err(invalid)?,
            before: created("before")?,
            since: created("since")?,
            until: filters.earliest("until", SystemTime::now()).map_err(invalid)?.map(nanos),
        })
    }

    /// The image with the names that were asked for.
    fn names(&self, summary: &Summary) -> Summary {
        let mut summary = summary.clone();
        let patterns: Vec<&str> = self.filters.values("reference").collect();
        if !patterns.is_empty() {
            summary.retain_references(patterns.iter().copied());
        }
        summary
    }

    fn takes(&self, summary: &Summary) -> bool {
        let created = summary.image.created_nanos();
        let mut references = self.filters.values("reference").peekable();
        self.dangling.is_none_or(|want| want == summary.is_dangling())
            && self.before.is_none_or(|t| created < t)
            && self.since.is_none_or(|t| created > t)
            && self.until.is_none_or(|t| created < t)
            && self.filters.prunes(&labels(&summary.image))
            && (references.peek().is_none() || references.any(|p| summary.matches_reference(p)))
    }
}

fn row(summary: &Summary, users: &[ImageUser]) -> docker::ImageSummary {
    let image = &summary.image;
    let containers = users.iter().filter(|u| u.image == *image.id()).count();
    let labels = labels(image);
    docker::ImageSummary {
        containers: i64::try_from(containers).unwrap_or(i64::MAX),
        created: image.created(),
        id: image.id().to_string(),
        labels: (!labels.is_empty()).then_some(labels),
        parent_id: image.parent().map_or_else(String::new, ToString::to_string),
        descriptor: Some(descriptor(image)),
        manifests: None,
        repo_digests: summary.repo_digests.clone(),
        repo_tags: summary.repo_tags.clone(),
        shared_size: -1,
        size: signed(image.size()),
    }
}

fn inspect(store: &ImageStore, image: &Image, summary: Summary) -> docker::ImageInspect {
    let config = image.config();
    let layers: Vec<String> = image.layers().iter().map(|l| l.diff_id.to_string()).collect();
    docker::ImageInspect {
        id: image.id().to_string(),
        repo_tags: summary.repo_tags,
        repo_digests: summary.repo_digests,
        parent: image.parent().map_or_else(String::new, ToString::to_string),
        comment: config.history.last().map_or_else(String::new, |h| h.comment.clone()),
        created: config.created.clone().unwrap_or_default(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: image.run_config().map(container_config),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size: signed(image.size()),
        graph_driver: graph_driver(store, image),
        root_fs: docker::RootFs {
            kind: "layers".into(),
            layers: (!layers.is_empty()).then_some(layers),
        },
        metadata: docker::ImageMetadata { last_tag_time: docker::rfc3339(image.touched()) },
        descriptor: Some(descriptor(image)),
        manifests: None,
    }
}

fn graph_driver(store: &ImageStore, image: &Image) -> docker::GraphDriver {
    let lowers = store.lowers(image);
    let text = |path: &std::path::PathBuf| path.display().to_string();
    let mut data = Map::new();
    if let Some((top, below)) = lowers.split_first() {
        data.insert("UpperDir".into(), text(top));
        if !below.is_empty() {
            data.insert("LowerDir".into(), below.iter().map(text).collect::<Vec<_>>().join(":"));
        }
    }
    docker::GraphDriver { data: Some(data), name: "overlay2".into() }
}

/// The two types write the same keys, the API's with all zero values.
fn container_config(run: &wharf_spec::image::RunConfig) -> docker::ContainerConfig {
    let value = serde_json::to_value(run).unwrap_or_default();
    serde_json::from_value(value).unwrap_or_default()
}

fn descriptor(image: &Image) -> Value {
    let manifest = image.manifest();
    json!({ "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size })
}

/// What the CLI's tree view shows of an image: here always one manifest, for the platform that is stored.
fn manifest(image: &Image, users: &[ImageUser]) -> Value {
    let content: u64 = image.layers().iter().map(|l| l.blob_size).sum();
    let used: Vec<&str> =
        users.iter().filter(|u| u.image == *image.id()).map(|u| u.container.as_str()).collect();
    json!({
        "ID": image.manifest().digest,
        "Descriptor": descriptor(image),
        "Available": true,
        "Size": { "Content": content, "Total": content + image.size() },
        "Kind": "image",
        "ImageData": {
            "Platform": image.platform(),
            "Containers": used,
            "Size": { "Unpacked": image.size() },
        },
    })
}

fn labels(image: &Image) -> Map<String> {
    image.run_config().and_then(|c| c.labels.clone()).unwrap_or_default()
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn invalid(e: FilterError) -> EngineError {
    EngineError::invalid(e.to_string())
}
