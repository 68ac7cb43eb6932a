//! What a stage starts from, or copies from: a stage, a named context, an image.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OnceCell;
use wharf_image::{Image, LayerStep, Progress, ProgressSink, PullOptions};
use wharf_spec::dockerfile::Stage;
use wharf_spec::dockerfile::lint::{Rule, warn};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;
use wharf_sys::root::Root;

use crate::context::{Context, Tree, Want};
use crate::error::BuildError;
use crate::inputs::Named;
use crate::job::Job;
use crate::layers;
use crate::progress::Event;
use crate::state::State;

/// Files to copy from or to mount.
#[derive(Clone)]
pub(crate) enum Files {
    /// Of a context.
    Context(Tree),
    /// Of a stage or an image.
    Stage(Arc<State>),
}

/// Files, open.
pub(crate) enum Opened {
    /// Of a context.
    Tree(Tree),
    /// Of a stage or an image.
    Root(Root),
}

impl Opened {
    pub(crate) fn root(&self) -> &Root {
        match self {
            Opened::Tree(tree) => tree.root(),
            Opened::Root(root) => root,
        }
    }
}

impl Job {
    /// The state that stage `index` starts from.
    pub(crate) async fn base(self: &Arc<Self>, index: usize) -> Result<State, BuildError> {
        let stage = &self.file.stages[index];
        let name = self.global_word(stage.span, &stage.base)?;
        let platform = match &stage.platform {
            None => self.platform.clone(),
            Some(text) => platform(&self.global_word(stage.span, text)?)?,
        };
        self.check_default(stage);
        if name.trim().is_empty() {
            return Err(BuildError::Invalid(format!(
                "base name ({}) should not be blank",
                stage.base
            )));
        }
        let own =
            stage.name.as_deref().and_then(|n| self.inputs.named.get(&n.to_ascii_lowercase()));
        let named = own.or_else(|| self.inputs.named.get(&name.to_ascii_lowercase()));
        match named {
            Some(Named::Image(image)) if image == "scratch" => {
                return Ok(State::scratch(&platform));
            }
            Some(Named::Image(image)) => return Ok(self.image(image, &platform).await?.child()),
            Some(Named::Built(built)) => return Ok(State::built(built)),
            Some(Named::Context(context)) => {
                return self.from_files(context.as_ref(), &platform).await;
            }
            None => {}
        }
        if name == "scratch" {
            return Ok(State::scratch(&platform));
        }
        if let Some(earlier) = self.file.stage_before(&name, index)
            // A number is the name of an image here, as it is for docker.
            && name.parse::<usize>().is_err()
        {
            return Ok(self.stage(earlier).await?.child());
        }
        Ok(self.image(&name, &platform).await?.child())
    }

    /// Warns of a base that is none unless arguments are given.
    fn check_default(&self, stage: &Stage) {
        // A default that insists on a value of the client's says so itself.
        let Ok(defaults) = self.default_globals() else { return };
        let word = self.lexer().word(&stage.base, &|n: &str| defaults.get(n).cloned());
        let named = word.is_ok_and(|w| Reference::parse(&w.text).is_ok());
        if !named && stage.base.contains('$') {
            let text = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base
            );
            self.warn(warn(Rule::InvalidDefaultArgInFrom, stage.span, text));
        }
    }

    /// What `--from=` names, in stage `index`.
    pub(crate) async fn source(
        self: &Arc<Self>,
        index: usize,
        from: &str,
        want: &Want,
    ) -> Result<Files, BuildError> {
        match self.inputs.named.get(&from.to_ascii_lowercase()) {
            Some(Named::Image(image)) => {
                return Ok(Files::Stage(self.image(image, &self.platform).await?));
            }
            Some(Named::Built(built)) => return Ok(Files::Stage(Arc::new(State::built(built)))),
            Some(Named::Context(context)) => {
                return Ok(Files::Context(context.fetch(want).await?));
            }
            None => {}
        }
        if let Some(earlier) = self.file.stage_before(from, index) {
            return Ok(Files::Stage(self.stage(earlier).await?));
        }
        if self.file.stage_before(from, self.file.stages.len()).is_some_and(|n| n == index) {
            return Err(BuildError::Invalid(format!(
                "circular dependency: {from:?} is this stage itself"
            )));
        }
        if from.parse::<usize>().is_ok() {
            return Err(BuildError::NotFound(format!(
                "invalid from flag value {from}: there is no such stage before this one"
            )));
        }
        if from.eq_ignore_ascii_case("scratch") {
            return Ok(Files::Stage(Arc::new(State::scratch(&self.platform))));
        }
        Ok(Files::Stage(self.image(from, &self.platform).await?))
    }

    /// The build context's files.
    pub(crate) async fn context(&self, include: Vec<String>) -> Result<Tree, BuildError> {
        let want = Want {
            follow: include.clone(),
            include,
            exclude: self.ignore.patterns().map(str::to_owned).collect(),
        };
        Ok(self.inputs.context.fetch(&want).await?)
    }

    /// Opens files. Blocks.
    pub(crate) fn open(&self, files: &Files) -> Result<Opened, BuildError> {
        Ok(match files {
            Files::Context(tree) => Opened::Tree(tree.clone()),
            Files::Stage(state) => {
                Opened::Root(layers::merged(self.builder.store(), &state.layers)?)
            }
        })
    }

    /// An image by reference, found or pulled once per build.
    pub(crate) async fn image(
        self: &Arc<Self>,
        name: &str,
        platform: &Platform,
    ) -> Result<Arc<State>, BuildError> {
        let state = self.any_image(name, platform).await?;
        self.uses_image(name, platform);
        Ok(state)
    }

    /// The same for an image that is no part of the result.
    pub(crate) async fn any_image(
        self: &Arc<Self>,
        name: &str,
        platform: &Platform,
    ) -> Result<Arc<State>, BuildError> {
        let key = format!("{name} {platform}");
        let cell: Arc<OnceCell<Option<Arc<State>>>> =
            self.bases.lock().entry(key).or_default().clone();
        let mut failure = None;
        let found = cell.get_or_try_init(|| async {
            match self.find_image(name, platform).await {
                Ok(state) => Ok(Some(Arc::new(state))),
                Err(e) => {
                    failure = Some(e);
                    Err(())
                }
            }
        });
        match found.await {
            Ok(Some(state)) => Ok(state.clone()),
            _ => Err(failure.unwrap_or(BuildError::Cancelled)),
        }
    }

    async fn find_image(&self, name: &str, platform: &Platform) -> Result<State, BuildError> {
        let store = self.builder.store();
        let fits = |image: &Image| platform.distance(&image.platform()).is_some();
        let by_id = name.starts_with("sha256:");
        if !self.request.pull || by_id {
            match store.resolve(name) {
                Ok(image) if fits(&image) => {
                    let lease = store.lease(&image)?;
                    return Ok(State::of(&image, lease));
                }
                Ok(image) if by_id => {
                    return Err(BuildError::Invalid(format!(
                        "image {name} is for {}, not for {platform}",
                        image.platform()
                    )));
                }
                Err(e) if e.kind() != wharf_image::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        let reference = Reference::parse(name)
            .map_err(|e| BuildError::Invalid(format!("failed to parse stage name {name:?}: {e}")))?
            .or_latest();
        let auth = self.inputs.credentials.auth(reference.domain()).await;
        let auth = auth.map_err(BuildError::Client)?;
        let options =
            PullOptions { platform: Some(platform.clone()), auth, progress: self.pull_sink(name) };
        let pulled = store.pull(&reference, options).await;
        let pulled = match pulled {
            Ok(pulled) => pulled,
            // An image that only this host has, with --pull: there is nothing newer to be had.
            Err(e) => match store.resolve(name) {
                Ok(image)
                    if fits(&image)
                        && !matches!(e, wharf_image::PullError::Denied { .. })
                        && self.request.pull =>
                {
                    let lease = store.lease(&image)?;
                    return Ok(State::of(&image, lease));
                }
                _ => return Err(BuildError::Pull { name: reference.familiar(), source: e }),
            },
        };
        self.builder.images().tell(
            "pull",
            &pulled.name.familiar(),
            &pulled.name.familiar_name(),
            Some(&pulled.image),
        );
        let lease = store.lease(&pulled.image)?;
        Ok(State::of(&pulled.image, lease))
    }

    /// Tells a pull as parts of a vertex of its own.
    fn pull_sink(&self, name: &str) -> ProgressSink {
        let vertex = crate::progress::Vertex {
            digest: wharf_spec::digest::Digest::sha256(format!("pull {name}").as_bytes()),
            inputs: Vec::new(),
            name: format!("[internal] load metadata for {name}"),
            step: None,
        };
        let (digest, tell) = (vertex.digest.clone(), self.sender());
        self.tell(Event::Announced(Arc::new(vertex)));
        self.tell(Event::Started { vertex: digest.clone(), at: SystemTime::now() });
        let over = Over { tell: tell.clone(), digest: digest.clone() };
        Arc::new(move |step| {
            let _until_the_end = &over;
            let Progress::Layer { id, step } = step else { return };
            let (name, current, total, done) = match step {
                LayerStep::Downloading { current, total } => ("downloading", current, total, false),
                LayerStep::Extracting { current, total } => ("extracting", current, total, false),
                LayerStep::Complete => ("done", 0, 0, true),
                LayerStep::Exists => ("exists", 0, 0, true),
                _ => return,
            };
            let event = Event::Status {
                vertex: digest.clone(),
                id,
                name: name.into(),
                current,
                total,
                done,
                at: SystemTime::now(),
            };
            // Nobody listens any more: the pull is cancelled with the build.
            let _gone = tell.send(event);
        })
    }

    /// `FROM` a context: its files are a layer of an image without a config.
    async fn from_files(
        self: &Arc<Self>,
        context: &dyn Context,
        platform: &Platform,
    ) -> Result<State, BuildError> {
        let tree = context.fetch(&Want::default()).await?;
        let mut state = State::scratch(platform);
        self.add_tree(&mut state, tree).await?;
        Ok(state)
    }
}

/// Ends the vertex of a pull when the last clone of its sink goes.
struct Over {
    tell: crate::progress::Sender,
    digest: wharf_spec::digest::Digest,
}

impl Drop for Over {
    fn drop(&mut self) {
        let vertex = self.digest.clone();
        let done =
            Event::Done { vertex, at: SystemTime::now(), cached: false, result: None, error: None };
        // Nobody listens any more.
        let _gone = self.tell.send(done);
    }
}

/// Reads a platform; errors are the request's.
pub(crate) fn platform(text: &str) -> Result<Platform, BuildError> {
    text.parse()
        .map_err(|e: wharf_spec::platform::PlatformError| BuildError::Invalid(e.to_string()))
}
