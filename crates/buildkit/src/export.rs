//! What becomes of a result: an image of the store, or files and archives that go back to the client.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use tonic::Status;
use wharf_base::error::chain;
use wharf_build::Built;
use wharf_image::{Attached, ByteStream, Image, Passing, Repack, Several};
use wharf_spec::image::Descriptor;
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::annotations::Annotations;
use crate::attest;
use crate::builds::Build;
use crate::content::Directory;
use crate::deliver;
use crate::journal::{Part, Task};
use crate::kit::BuildKit;
use crate::options::boolean;
use crate::proto::moby::buildkit::v1::Exporter;
use crate::session::Session;
use crate::solve::Outcome;

type Answer = HashMap<String, String>;
type Outcomes = [(Option<String>, Arc<Outcome>)];

/// Exports results in every way that was asked for.
pub(crate) async fn export(
    kit: &BuildKit,
    build: &Arc<Build>,
    outcomes: &Outcomes,
) -> Result<Answer, Status> {
    let mut answer = Answer::new();
    for (which, exporter) in exporters(build).iter().enumerate() {
        let output = Output { kit, build, which, attrs: &exporter.attrs };
        answer.extend(match exporter.r#type.as_str() {
            "moby" | "image" => output.image(outcomes).await?,
            "oci" | "docker" => output.archive(&exporter.r#type, outcomes).await?,
            "local" => output.files(outcomes).await?,
            "tar" => output.tar(outcomes).await?,
            other => {
                return Err(Status::unimplemented(format!(
                    "exporter {other:?} could not be found: use image, oci, docker, local or tar"
                )));
            }
        });
    }
    Ok(answer)
}

/// Refuses outputs that cannot be of so many platforms, before anything is built.
pub(crate) fn check_platforms(build: &Build, platforms: usize) -> Result<(), Status> {
    let kept = |e: &Exporter| {
        let pushed = e.attrs.get("push").and_then(|v| boolean(v)) == Some(true);
        matches!(e.r#type.as_str(), "moby" | "image") && !pushed
    };
    match platforms > 1 && exporters(build).iter().any(kept) {
        true => Err(several()),
        false => Ok(()),
    }
}

/// Refuses outputs that have no place for provenance, before anything is built.
pub(crate) fn check_provenance(build: &Build) -> Result<(), Status> {
    let takes = |e: &Exporter| {
        let pushed = e.attrs.get("push").and_then(|v| boolean(v)) == Some(true);
        e.r#type == "oci" || pushed && matches!(e.r#type.as_str(), "moby" | "image")
    };
    match exporters(build).iter().find(|e| !takes(e)) {
        None => Ok(()),
        Some(other) => Err(Status::unimplemented(format!(
            "wharf has no place for provenance in the output {}: push the image with --push, use --output type=oci, or build with --provenance=false",
            other.r#type
        ))),
    }
}

/// Whether the outcomes make an index of images.
fn is_index(outcomes: &Outcomes) -> bool {
    let alone = matches!(outcomes, [(None, _)]);
    !alone || outcomes.iter().any(|(_, o)| o.provenance.is_some())
}

/// Refuses outputs that cannot be, before anything is built.
pub(crate) fn check(build: &Build) -> Result<(), Status> {
    for exporter in exporters(build) {
        let known: &[&str] = match exporter.r#type.as_str() {
            "moby" | "image" => {
                &["name", "push", "unpack", "store", "name-canonical", "dangling-name-prefix"]
            }
            "oci" | "docker" => &["name", "tar", "context", "dest"],
            "local" => &["platform-split", "dest", "mode"],
            "tar" => &["platform-split", "dest"],
            _ => continue,
        };
        if let Some(tar) = exporter.attrs.get("tar").filter(|v| boolean(v).is_none()) {
            let text = format!("non-bool value specified for tar: {tar:?}: use true or false");
            return Err(Status::unknown(text));
        }
        let images = ["moby", "image", "oci", "docker"].contains(&exporter.r#type.as_str());
        if images {
            Annotations::read(&exporter.attrs)?;
            packing(&exporter.attrs, "--output")?;
        }
        for (key, value) in &exporter.attrs {
            let read =
                images && (Annotations::is_one(key) || Repack::OPTIONS.contains(&key.as_str()));
            if !read && !known.contains(&key.as_str()) && !is_ours(key, value) {
                let kind = &exporter.r#type;
                return Err(Status::unimplemented(format!(
                    "the option {key}={value} of the {kind} output is not supported by wharf: leave it out{}",
                    instead(key)
                )));
            }
        }
    }
    Ok(())
}

/// What does what a refused option would do, if anything does.
fn instead(key: &str) -> &'static str {
    match key {
        "oci-mediatypes" => ", images are OCI's",
        "rewrite-timestamp" => ", files are never later than SOURCE_DATE_EPOCH",
        "push-by-digest" => ", and push under a name",
        "registry.insecure" => ", and name the registry in insecure-registries of daemon.json",
        key if Repack::OPTIONS.contains(&key) => ", files and tars of them are not compressed",
        _ => "",
    }
}

/// How layers are to be packed, as the options `of` something say.
pub(crate) fn packing(
    options: &HashMap<String, String>,
    of: &str,
) -> Result<Option<Repack>, Status> {
    let read = Repack::read(|key| options.get(key).map(String::as_str));
    read.map_err(|e| match e.is_unsupported {
        true => Status::unimplemented(format!("{of}: {e}")),
        false => Status::invalid_argument(format!("{of}: {e}")),
    })
}

/// Whether an option asks for what wharf does anyway.
fn is_ours(key: &str, value: &str) -> bool {
    match key {
        // bollard says again what kind of output it is.
        "type" => true,
        // Compose 2.26 asks for the image in the engine's store, where it goes anyway.
        "load" => boolean(value) == Some(true),
        "oci-mediatypes" | "rewrite-timestamp" | "prefer-image-digest" => {
            boolean(value) == Some(true)
        }
        "push-by-digest" | "registry.insecure" | "oci-artifact" => boolean(value) == Some(false),
        _ => false,
    }
}

/// The exporters of a build, also of clients that know only one.
fn exporters(build: &Build) -> Vec<Exporter> {
    let request = &build.request;
    if request.exporters.is_empty() && !request.exporter.is_empty() {
        let (r#type, attrs) = (request.exporter.clone(), request.exporter_attrs.clone());
        return vec![Exporter { r#type, attrs }];
    }
    request.exporters.clone()
}

struct Output<'a> {
    kit: &'a BuildKit,
    build: &'a Arc<Build>,
    /// Its place among the client's outputs.
    which: usize,
    attrs: &'a HashMap<String, String>,
}

impl Output<'_> {
    fn names(&self) -> Result<Vec<Reference>, Status> {
        let texts = self.attrs.get("name").map_or("", String::as_str).split(',');
        let parse = |text: &str| {
            let name = Reference::parse(text)
                .map_err(|e| Status::unknown(format!("invalid image name {text:?}: {e}")))?;
            Ok(name.or_latest())
        };
        texts.filter(|t| !t.is_empty()).map(parse).collect()
    }

    /// What is to be annotated, of an image or of an `index`.
    fn annotations(&self, index: bool, outcomes: &Outcomes) -> Result<Annotations, Status> {
        let annotations = Annotations::read(self.attrs)?;
        let platforms: Vec<_> = outcomes.iter().map(|(_, o)| o.built.platform()).collect();
        annotations.check(index, &platforms)?;
        Ok(annotations)
    }

    fn packing(&self) -> Result<Option<Repack>, Status> {
        packing(self.attrs, "--output")
    }

    async fn session(&self) -> Result<Arc<Session>, Status> {
        self.kit.sessions().find(&self.build.request.session).await
    }

    fn flag(&self, key: &str) -> bool {
        self.attrs.get(key).and_then(|v| boolean(v)).unwrap_or(false)
    }

    /// An image of the store, of this host's platform if there are several; and what is pushed.
    async fn image(&self, outcomes: &Outcomes) -> Result<Answer, Status> {
        let Some(own) = own(outcomes) else { return Ok(Answer::new()) };
        let names = self.names()?;
        let push = self.flag("push");
        if outcomes.len() > 1 && !push {
            return Err(several());
        }
        let index = push && is_index(outcomes);
        let (annotations, repack) = (self.annotations(index, outcomes)?, self.packing()?);
        let task = self.build.journal.task("exporting to image");
        let stored = self.stored(own, &names, &annotations).await;
        let image = task_end(task, stored, |image, task| {
            task.part(Part::word(format!("writing image {}", image.id())));
            for name in &names {
                task.part(Part::word(format!("naming to {name}")));
            }
        })?;
        let mut answer = answer(&image, &names);
        describe(&mut answer, &described(&image, &annotations))?;
        if push {
            let index = match index {
                false => None,
                true => Some(self.sent(outcomes, &names, &annotations, repack).await?),
            };
            if let Some(sent) = &index {
                describe(&mut answer, &sent.index.describe(&sent.json()?))?;
            }
            for name in &names {
                let session = self.session().await?;
                let digest = match &index {
                    None => self.kit.push(self.build, session, name).await?,
                    Some(sent) => {
                        self.kit.push_index(self.build, session, name, &sent.index).await?
                    }
                };
                answer.insert("containerimage.digest".to_owned(), digest);
            }
        }
        Ok(answer)
    }

    /// Results as images with what is said of them.
    async fn sent(
        &self,
        outcomes: &Outcomes,
        names: &[Reference],
        annotations: &Annotations,
        repack: Option<Repack>,
    ) -> Result<Sent, Status> {
        let mut sent = Sent::of(outcomes, annotations, repack).await?;
        let store = self.kit.images().store().clone();
        let said: Vec<_> = outcomes.iter().map(|(_, o)| o.provenance.clone()).collect();
        let (images, names) = (sent.index.images.clone(), names.to_vec());
        let attach = move || {
            let pairs = images.iter().zip(said).filter_map(|(image, said)| Some((image, said?)));
            pairs.map(|(image, said)| attest::attach(&store, image, &names, &said)).collect()
        };
        sent.index.attached = blocking(attach).await?;
        Ok(sent)
    }

    /// The result as an image of the store, which people hear of.
    async fn stored(
        &self,
        outcome: &Outcome,
        names: &[Reference],
        annotations: &Annotations,
    ) -> Result<Image, Status> {
        let (built, stored) = (outcome.built.clone(), names.to_vec());
        let annotations = annotations.of(&built.platform());
        let repack = self.packing()?;
        let store = move || built.annotated(&stored, annotations, repack).map_err(failed);
        let image = blocking(store).await?;
        let id = image.id().to_string();
        for name in names {
            self.kit.images().tell("tag", &id, &name.familiar(), Some(&image));
        }
        Ok(image)
    }

    /// A tar of an image, in docker's and OCI's layout at once; of several platforms, in OCI's alone.
    async fn archive(&self, kind: &str, outcomes: &Outcomes) -> Result<Answer, Status> {
        if outcomes.is_empty() {
            return Ok(Answer::new());
        }
        if outcomes.len() > 1 && kind == "docker" {
            let text = "docker exporter does not support exporting manifest lists, use the oci exporter instead";
            return Err(Status::unimplemented(text));
        }
        let names = self.names()?;
        let task = self.build.journal.task(format!("exporting to {kind} image format"));
        let sent = self.packed(kind, outcomes, &names, &task).await;
        task.end(sent)
    }

    async fn packed(
        &self,
        kind: &str,
        outcomes: &Outcomes,
        names: &[Reference],
        task: &Task,
    ) -> Result<Answer, Status> {
        let index = kind == "oci" && is_index(outcomes);
        let (annotations, repack) = (self.annotations(index, outcomes)?, self.packing()?);
        let sent = self.sent(outcomes, names, &annotations, repack).await?;
        let one = match &sent.index.images[..] {
            [image] if !index => Some(image),
            _ => None,
        };
        let (mut answer, whole) = match one {
            Some(image) => (answer(image, names), described(image, &annotations)),
            None => (named(names), sent.index.describe(&sent.json()?)),
        };
        answer.insert("containerimage.digest".to_owned(), whole.digest.to_string());
        describe(&mut answer, &whole)?;
        let as_files = self.attrs.get("tar").is_some_and(|v| boolean(v) == Some(false));
        if as_files {
            let list = one.is_none().then_some(&whole);
            self.layout(&sent, list, task).await?;
            return Ok(answer);
        }
        let store = self.kit.images().store();
        let tar = match one {
            Some(image) => store.archive(image, names, &whole.annotations),
            None => store.archive_index(&sent.index, names),
        };
        self.send(tar.map_err(|e| failed(e.into()))?, task).await?;
        Ok(answer)
    }

    /// Blobs in a directory of the client, which writes the layout's other files by itself; `list` is the index over them.
    async fn layout(
        &self,
        sent: &Sent,
        list: Option<&Descriptor>,
        task: &Task,
    ) -> Result<(), Status> {
        let directory = Directory::new(self.session().await?, "export")?;
        let mut total = 0;
        for image in &sent.index.images {
            total += directory.put_image(self.kit.images().store(), image).await?;
        }
        for digest in sent.index.attached.iter().flat_map(Attached::blobs) {
            total += directory.put_blob(self.kit.images().store(), digest).await?;
        }
        if let Some(list) = list {
            directory.put_bytes(list, sent.json()?).await?;
        }
        let (id, name) = ("copying blobs".to_owned(), "copying blobs".to_owned());
        task.part(Part { id, name, current: total, total, done: true });
        Ok(())
    }

    /// A tar of the files.
    async fn tar(&self, outcomes: &Outcomes) -> Result<Answer, Status> {
        let outcome = match outcomes {
            [] => return Ok(Answer::new()),
            [(_, outcome)] => outcome,
            _ => {
                return Err(Status::unimplemented(
                    "wharf makes a tar of the files of one platform: give one --platform, or use --output type=local",
                ));
            }
        };
        let task = self.build.journal.task("exporting to client tarball");
        let send = async {
            let tar = outcome.built.tar().map_err(failed)?;
            self.send(tar, &task).await
        };
        let sent = send.await;
        task.end(sent).map(|()| Answer::new())
    }

    /// The files themselves, in a directory of the client; a directory each for several platforms.
    async fn files(&self, outcomes: &Outcomes) -> Result<Answer, Status> {
        let split = match self.attrs.get("platform-split").and_then(|v| boolean(v)) {
            Some(split) => split,
            None => outcomes.iter().any(|(name, _)| name.is_some()),
        };
        let task = self.build.journal.task("exporting to client directory");
        let send = async {
            for (name, outcome) in outcomes {
                let below = name.as_deref().filter(|_| split).map(|n| n.replace('/', "_"));
                self.copy(&outcome.built, below, &task).await?;
            }
            Ok(Answer::new())
        };
        let sent = send.await;
        task.end(sent)
    }

    /// Sends a stream of bytes to the client's file.
    async fn send(&self, bytes: ByteStream, task: &Task) -> Result<(), Status> {
        let session = self.session().await?;
        let total = deliver::bytes(&session, self.which, bytes).await?;
        let (id, name) = ("sending tarball".to_owned(), "sending tarball".to_owned());
        task.part(Part { id, name, current: total, total, done: true });
        Ok(())
    }

    /// Sends files to the client's directory, `below` a directory in it.
    async fn copy(&self, built: &Built, below: Option<String>, task: &Task) -> Result<(), Status> {
        let tree = built.tree().map_err(failed)?;
        let session = self.session().await?;
        let total = deliver::files(&session, self.which, tree, below).await?;
        let (id, name) = ("copying files".to_owned(), "copying files".to_owned());
        task.part(Part { id, name, current: total, total, done: true });
        Ok(())
    }
}

/// The result for this host, or the first if there is none.
fn own(outcomes: &Outcomes) -> Option<&Outcome> {
    let host = Platform::host();
    let distance = |(_, outcome): &&(Option<String>, Arc<Outcome>)| {
        host.distance(&outcome.built.platform()).unwrap_or(u32::MAX)
    };
    outcomes.iter().min_by_key(distance).map(|(_, outcome)| &**outcome)
}

/// Results as images, for as long as it takes to send them.
struct Sent {
    index: Several,
    _passing: Vec<Passing>,
}

impl Sent {
    async fn of(
        outcomes: &Outcomes,
        annotations: &Annotations,
        repack: Option<Repack>,
    ) -> Result<Sent, Status> {
        let wanted = |built: &Built| annotations.of(&built.platform());
        let parts: Vec<_> =
            outcomes.iter().map(|(_, o)| (o.built.clone(), wanted(&o.built))).collect();
        let pass = move || {
            let parts = parts.into_iter();
            let pass = |(built, annotations): (Arc<Built>, _)| built.pass(annotations, repack);
            parts.map(|part| pass(part).map_err(failed)).collect()
        };
        let passing: Vec<Passing> = blocking(pass).await?;
        let images = passing.iter().map(|p| Image::clone(p)).collect();
        let described = |(_, o): &(_, Arc<Outcome>)| annotations.of_descriptor(&o.built.platform());
        let index = Several {
            images,
            annotations: annotations.index.clone(),
            descriptors: outcomes.iter().map(described).collect(),
            descriptor: annotations.index_descriptor.clone(),
            attached: Vec::new(),
        };
        Ok(Sent { index, _passing: passing })
    }

    /// The index.
    fn json(&self) -> Result<Vec<u8>, Status> {
        self.index.to_json().map_err(|e| Status::internal(e.to_string()))
    }
}

fn several() -> Status {
    Status::unimplemented(
        "wharf keeps images of one platform: push them with --push, give one --platform, or use --output type=oci",
    )
}

/// What is said of an image where it is listed.
fn described(image: &Image, annotations: &Annotations) -> Descriptor {
    let (of, platform) = (image.manifest(), image.platform());
    let annotations = annotations.of_descriptor(&platform);
    let bare = Descriptor::new(&of.media_type, of.digest.clone(), of.size);
    Descriptor { annotations, platform: Some(platform), ..bare }
}

/// Tells clients that.
fn describe(answer: &mut Answer, descriptor: &Descriptor) -> Result<(), Status> {
    let json = serde_json::to_vec(descriptor).map_err(|e| Status::internal(e.to_string()))?;
    let text = base64::engine::general_purpose::STANDARD.encode(json);
    answer.insert("containerimage.descriptor".to_owned(), text);
    Ok(())
}

/// What clients read about an image. Without a push nothing but its id names it.
fn answer(image: &Image, names: &[Reference]) -> Answer {
    let id = image.id().to_string();
    let mut answer = named(names);
    answer.insert("containerimage.config.digest".to_owned(), id.clone());
    answer.insert("containerimage.digest".to_owned(), id);
    answer
}

fn named(names: &[Reference]) -> Answer {
    let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
    let name = || ("image.name".to_owned(), texts.join(","));
    (!names.is_empty()).then(name).into_iter().collect()
}

fn task_end<T>(
    task: Task,
    result: Result<T, Status>,
    tell: impl FnOnce(&T, &Task),
) -> Result<T, Status> {
    if let Ok(value) = &result {
        tell(value, &task);
    }
    task.end(result)
}

fn failed(error: wharf_build::BuildError) -> Status {
    Status::unknown(chain(&error).to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_change_nothing_pass() {
        for (key, value) in [
            ("oci-mediatypes", "true"),
            ("prefer-image-digest", "true"),
            ("push-by-digest", "false"),
        ] {
            assert!(is_ours(key, value), "{key}={value}");
        }
        for (key, value) in [("annotation.a", "b"), ("oci-mediatypes", "false")] {
            assert!(!is_ours(key, value), "{key}={value}");
        }
    }
}
