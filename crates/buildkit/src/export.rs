//! What becomes of a result: an image of the store, or files and archives that go back to the client.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::Status;
use wharf_base::error::chain;
use wharf_build::Built;
use wharf_image::{ByteStream, Image, Passing, Repack, Several};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

use crate::annotations::Annotations;
use crate::builds::Build;
use crate::deliver;
use crate::journal::{Part, Task};
use crate::kit::BuildKit;
use crate::options::boolean;
use crate::packing;
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
                    "exporter {other:?} could not be found"
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
        if exporter.attrs.get("tar").is_some_and(|v| boolean(v) == Some(false)) {
            return Err(Status::unimplemented(format!(
                "--output type={},tar=false is not supported by wharf: use a tar",
                exporter.r#type
            )));
        }
        let images = ["moby", "image", "oci", "docker"].contains(&exporter.r#type.as_str());
        if images {
            Annotations::read(&exporter.attrs)?;
            packing::read(&exporter.attrs)?;
        }
        for (key, value) in &exporter.attrs {
            let read = images && (Annotations::is_one(key) || packing::is_one(key));
            if !read && !known.contains(&key.as_str()) && !is_ours(key, value) {
                return Err(Status::unimplemented(format!(
                    "the option {key}={value} of the {} output is not supported by wharf",
                    exporter.r#type
                )));
            }
        }
    }
    Ok(())
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
    fn annotations(&self, index: bool) -> Result<Annotations, Status> {
        let annotations = Annotations::read(self.attrs)?;
        if !annotations.index.is_empty() && !index {
            // BuildKit's words.
            let text = "index annotations not supported for single platform export";
            return Err(Status::unimplemented(text));
        }
        Ok(annotations)
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
        let index = push && !matches!(outcomes, [(None, _)]);
        let (annotations, repack) = (self.annotations(index)?, packing::read(self.attrs)?);
        let task = self.build.journal.task("exporting to image");
        let stored = self.stored(own, &names, &annotations).await;
        let image = task_end(task, stored, |image, task| {
            task.part(Part::word(format!("writing image {}", image.id())));
            for name in &names {
                task.part(Part::word(format!("naming to {name}")));
            }
        })?;
        let mut answer = answer(&image, &names);
        if push {
            let index = match index {
                false => None,
                true => Some(Sent::of(outcomes, &annotations, repack).await?),
            };
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

    /// The result as an image of the store, which people hear of.
    async fn stored(
        &self,
        outcome: &Outcome,
        names: &[Reference],
        annotations: &Annotations,
    ) -> Result<Image, Status> {
        let (built, stored) = (outcome.built.clone(), names.to_vec());
        let annotations = annotations.of(&built.platform());
        let repack = packing::read(self.attrs)?;
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
        let send = async {
            let store = self.kit.images().store().clone();
            let index = kind == "oci" && !matches!(outcomes, [(None, _)]);
            let (annotations, repack) = (self.annotations(index)?, packing::read(self.attrs)?);
            let sent = Sent::of(outcomes, &annotations, repack).await?;
            let (tar, answer) = match &sent.index.images[..] {
                [image] if !index => (store.archive(image, &names), answer(image, &names)),
                _ => (store.archive_index(&sent.index, &names), Answer::new()),
            };
            self.send(tar.map_err(|e| failed(e.into()))?, &task).await?;
            Ok(answer)
        };
        let sent = send.await;
        task.end(sent)
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
        let index = Several { images, annotations: annotations.index.clone() };
        Ok(Sent { index, _passing: passing })
    }
}

fn several() -> Status {
    Status::unimplemented(
        "wharf keeps images of one platform: push them with --push, give one --platform, or use --output type=oci",
    )
}

/// What clients read about an image. Without a push nothing but its id names it.
fn answer(image: &Image, names: &[Reference]) -> Answer {
    let id = image.id().to_string();
    let mut answer = Answer::from([
        ("containerimage.config.digest".to_owned(), id.clone()),
        ("containerimage.digest".to_owned(), id),
    ]);
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        answer.insert("image.name".to_owned(), names.join(","));
    }
    answer
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
