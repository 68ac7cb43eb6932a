//! One run of the Dockerfile frontend: from options to results that can be exported.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tonic::Status;
use wharf_base::Id;
use wharf_build::{
    Built, CacheList, Context, ErrorKind, Event, GitAddress, Inputs, Named, Request,
};
use wharf_spec::platform::Platform;

use crate::attest::{self, Facts, Said};
use crate::builds::Build;
use crate::cache::{self, Export};
use crate::content::Directory;
use crate::definition::{self, Place};
use crate::kit::BuildKit;
use crate::options::Options;
use crate::proto::pb;
use crate::remote::{Remote, SessionContext, broken};
use crate::session::Session;
use crate::upload::{self, Upload};
use crate::{export, fault, graph, questions, syntax};

/// What a client asks the frontend for.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    pub(crate) frontend: String,
    pub(crate) options: HashMap<String, String>,
    pub(crate) inputs: HashMap<String, pb::Definition>,
}

/// What it gets.
#[derive(Debug, Default)]
pub(crate) struct Solved {
    /// Results by platform; without one if it asked for none.
    pub(crate) outcomes: Vec<(Option<String>, Arc<Outcome>)>,
    pub(crate) metadata: HashMap<String, Bytes>,
}

/// One result.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How the client names it.
    pub(crate) id: String,
    pub(crate) built: Arc<Built>,
    /// What is said of how it was made.
    pub(crate) provenance: Option<Said>,
}

/// Carries out what a client asks for.
pub(crate) async fn solve(kit: &BuildKit, build: &Arc<Build>, ask: Ask) -> Result<Solved, Status> {
    build.ran(&ask.frontend, &ask.options);
    if !["dockerfile.v0", "gateway.v0"].contains(&ask.frontend.as_str()) {
        return Err(Status::unknown(format!("frontend {} not found", ask.frontend)));
    }
    let mut options = Options::read(&ask.options, &build.request.entitlements)?;
    if let Some(wanted) = &options.syntax {
        syntax::check(wanted)?;
    }
    let session = kit.sessions().find(&build.request.session).await?;
    let upload = upload::load(kit, build, &session, &mut options).await?;
    let (frontend, asked) = (ask.frontend.as_str(), &ask.options);
    let run = Run { kit, build, session, upload, inputs: ask.inputs, frontend, asked };
    let file = run.definition(&mut options).await?;
    if let Some(question) = &options.question {
        let metadata = match question.as_str() {
            questions::LINT => run.lint(&options, &file).await?,
            question => questions::answer(question, &options, &file)?,
        };
        return Ok(Solved { metadata, ..Solved::default() });
    }
    for text in &options.unread_caches {
        let skipped = Err::<(), _>(Status::unimplemented("skipped"));
        drop(run.build.journal.task(text.clone()).end(skipped));
    }
    run.platforms(&options, &file).await
}

/// What one run works with.
struct Run<'a> {
    kit: &'a BuildKit,
    build: &'a Arc<Build>,
    session: Arc<Session>,
    /// A build context that is no directory of the client.
    upload: Option<Upload>,
    inputs: HashMap<String, pb::Definition>,
    /// The frontend and its options as the client wrote them.
    frontend: &'a str,
    asked: &'a HashMap<String, String>,
}

impl Run<'_> {
    /// Puts the Dockerfile and its ignore file into the request.
    async fn definition(&self, options: &mut Options) -> Result<pb::SourceInfo, Status> {
        let (file, beside) = match &self.upload {
            Some(upload) if !options.dockerfile_local => {
                definition::in_tree(&self.build.journal, &upload.whole, &options.filename)?
            }
            _ => {
                let session = self.session_of(options, &options.dockerfile_dir).await?;
                let place = self.place(&session, &options.dockerfile_dir);
                definition::dockerfile(&place, &options.filename).await?
            }
        };
        if let Some((wanted, line)) = syntax::directive(&file.data) {
            let refused = |s: Status| fault::at_lines(s.message().to_owned(), &file, line, line);
            syntax::check(&wanted).map_err(refused)?;
        }
        options.request.dockerfile_name.clone_from(&file.filename);
        options.request.dockerfile = file.data.to_vec();
        options.request.dockerignore = match beside {
            None if needs_ignore(options) && self.upload.is_none() => {
                let session = self.session_of(options, &options.context_dir).await?;
                definition::ignore_file(&self.place(&session, &options.context_dir)).await?
            }
            beside => beside,
        };
        Ok(file)
    }

    fn place<'a>(&'a self, session: &'a Session, dir: &'a str) -> Place<'a> {
        let (contexts, journal) = (self.kit.contexts(), &self.build.journal);
        Place { session, dir, contexts, journal }
    }

    /// The session that serves a directory.
    async fn session_of(&self, options: &Options, dir: &str) -> Result<Arc<Session>, Status> {
        match options.sessions.get(dir) {
            Some(id) => self.kit.sessions().find(id).await,
            None => Ok(self.session.clone()),
        }
    }

    async fn platforms(&self, options: &Options, file: &pb::SourceInfo) -> Result<Solved, Status> {
        export::check_platforms(self.build, options.platforms.len())?;
        if options.provenance.is_some() {
            export::check_provenance(self.build)?;
        }
        let sources = self.sources(options).await?;
        let platforms: Vec<Option<Platform>> = match &options.platforms[..] {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        let mut solved = Solved::default();
        for platform in platforms {
            let inputs = self.inputs(&sources, platform.as_ref());
            let request = Request { platform, ..options.request.clone() };
            let began = self.kit.clock().now();
            let built = Arc::new(self.one(request, inputs, file).await?);
            let provenance = options.provenance.as_ref().map(|wanted| {
                let facts = Facts {
                    wanted,
                    frontend: self.frontend,
                    options: self.asked,
                    file: (file.filename.as_str(), &file.data[..]),
                    reference: &self.build.request.r#ref,
                    began,
                    ended: self.kit.clock().now(),
                };
                attest::say(&facts, &built)
            });
            let outcome = Arc::new(Outcome { id: Id::random().to_string(), built, provenance });
            self.kit.builds().keep(self.build, outcome.clone());
            let name = options.by_platform.then(|| outcome.built.platform().to_string());
            solved.outcomes.push((name, outcome));
        }
        solved.metadata = metadata(&solved.outcomes)?;
        Ok(solved)
    }

    /// Builds for one platform.
    async fn one(
        &self,
        mut request: Request,
        inputs: Inputs,
        file: &pb::SourceInfo,
    ) -> Result<Built, Status> {
        request.reference.clone_from(&self.build.request.r#ref);
        request.inline_cache |= cache::exports(&self.build.request)?.contains(&Export::Inline);
        let journal = &self.build.journal;
        let (events, mut told) = mpsc::unbounded_channel();
        let cancel = self.build.cancel.clone();
        let building = self.kit.builder().build(request, inputs, events, cancel);
        let telling = async {
            while let Some(event) = told.recv().await {
                journal.event(event);
            }
        };
        let (built, ()) = tokio::join!(building, telling);
        built.map_err(|e| fault::status(&e, file, journal.failed()))
    }

    /// Looks through the Dockerfile without carrying it out. Base images are asked for: some rules need them.
    async fn lint(
        &self,
        options: &Options,
        file: &pb::SourceInfo,
    ) -> Result<HashMap<String, Bytes>, Status> {
        let platform = options.platforms.first().cloned();
        let inputs = self.inputs(&self.sources(options).await?, platform.as_ref());
        let request = Request { check: true, platform, ..options.request.clone() };
        let (events, mut told) = mpsc::unbounded_channel();
        let cancel = self.build.cancel.clone();
        let looking = self.kit.builder().build(request, inputs, events, cancel);
        let listening = async {
            let (mut found, mut steps) = (Vec::new(), HashSet::new());
            while let Some(event) = told.recv().await {
                match event {
                    // Those without a rule are about the build, not about the Dockerfile.
                    Event::Warning(warning) if !warning.rule.is_empty() => found.push(warning),
                    // No step is carried out, so none is shown.
                    Event::Announced(vertex) if vertex.step.is_some() => {
                        steps.insert(vertex.digest.clone());
                    }
                    Event::Started { vertex, .. } | Event::Done { vertex, .. }
                        if steps.contains(&vertex) => {}
                    other => self.build.journal.event(other),
                }
            }
            found
        };
        let (looked, found) = tokio::join!(looking, listening);
        match looked {
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                Err(fault::status(&error, file, None))
            }
            looked => Ok(questions::lint(found, looked.err().as_ref(), file)),
        }
    }

    /// All contexts that the client names.
    async fn sources(&self, options: &Options) -> Result<Sources, Status> {
        let mut named = Vec::new();
        for (key, value) in &options.named {
            // A name with a platform is for builds of that platform.
            let (name, platform) = key.split_once("::").unwrap_or((key, ""));
            let name = name.strip_suffix(":latest").unwrap_or(name).to_lowercase();
            named.push((name, platform.to_owned(), self.named(options, key, value).await?));
        }
        let mut caches = Vec::new();
        for (dir, digest) in &options.local_caches {
            let id = format!("local:{dir}");
            let blobs = Arc::new(Directory::new(self.session.clone(), &id)?);
            caches.push(CacheList { name: dir.clone(), digest: digest.clone(), blobs });
        }
        Ok(Sources { context: self.context(options).await?, named, caches })
    }

    /// What a build for one platform may ask for.
    fn inputs(&self, sources: &Sources, platform: Option<&Platform>) -> Inputs {
        let own = platform.cloned().unwrap_or_else(Platform::host).to_string();
        let mut named = BTreeMap::new();
        // One for the platform comes after the one for all, and takes its place.
        for (name, platform, source) in &sources.named {
            if platform.is_empty() || *platform == own {
                named.insert(name.clone(), source.clone());
            }
        }
        let remote = Remote(self.session.clone());
        Inputs {
            context: sources.context.clone(),
            named,
            secrets: Arc::new(remote.clone()),
            ssh: Arc::new(remote.clone()),
            credentials: Arc::new(remote),
            caches: sources.caches.clone(),
        }
    }

    /// The build context.
    async fn context(&self, options: &Options) -> Result<Arc<dyn Context>, Status> {
        if let Some(upload) = &self.upload {
            return Ok(Arc::new(upload.context.clone()));
        }
        if let Some(input) = self.inputs.get("context") {
            let outcome = self.kit.builds().outcome(&graph::result(input)?)?;
            return Ok(outcome.built.context());
        }
        let dir = &options.context_dir;
        let session = self.session_of(options, dir).await?;
        self.directory(session, dir, dir, None, Vec::new()).map(|c| c as Arc<dyn Context>)
    }

    /// A directory of the client, lazily: a named context, or the build context.
    fn directory(
        &self,
        session: Arc<Session>,
        dir: &str,
        hint: &str,
        name: Option<&str>,
        exclude: Vec<String>,
    ) -> Result<Arc<SessionContext>, Status> {
        let key = match session.offer().shared_key.as_str() {
            // Without a key nothing tells one client's directory from another's.
            "" => None,
            key => Some(format!("{dir}:{hint}:{key}")),
        };
        let snapshot =
            self.kit.contexts().begin(key.as_deref()).map_err(broken("make a directory"))?;
        Ok(Arc::new(SessionContext {
            session,
            dir: dir.to_owned(),
            vertex: name.map_or_else(
                || "[internal] load build context".into(),
                |name| format!("[context {name}] load from client"),
            ),
            what: name.unwrap_or("context").into(),
            exclude,
            journal: self.build.journal.clone(),
            snapshot: Arc::new(snapshot),
            state: tokio::sync::Mutex::default(),
        }))
    }

    /// What a named context is.
    async fn named(&self, options: &Options, key: &str, value: &str) -> Result<Named, Status> {
        let wrong = || Status::unknown(format!("invalid context specifier {value} for {key}"));
        let (kind, rest) = value.split_once(':').ok_or_else(wrong)?;
        match kind {
            "docker-image" => Ok(Named::Image(rest.trim_start_matches("//").to_owned())),
            "local" => {
                let session = self.session_of(options, rest).await?;
                let place = self.place(&session, rest);
                let exclude = definition::ignore_patterns(&place, key).await?;
                let hint = options.shared_keys.get(key).map_or(key, String::as_str);
                let name = Some(key);
                Ok(Named::Context(self.directory(session.clone(), rest, hint, name, exclude)?))
            }
            "input" => {
                let missing = || Status::unknown(format!("invalid input {rest} for {key}"));
                let input = self.inputs.get(rest).ok_or_else(missing)?;
                let outcome = self.kit.builds().outcome(&graph::result(input)?)?;
                Ok(Named::Built(outcome.built.clone()))
            }
            _ if GitAddress::is_one(value) => {
                let secrets = Remote(self.session.clone());
                let tree = upload::repository(self.kit, &secrets, value, false).await?;
                Ok(Named::Context(Arc::new(tree)))
            }
            "http" | "https" => {
                let tree = upload::archive(self.kit, value).await?.tree();
                Ok(Named::Context(Arc::new(tree)))
            }
            _ => Err(Status::unimplemented(format!(
                "wharf does not take {value} for the context {key}; it takes directories, docker-image://, targets, archives \
                 and repositories"
            ))),
        }
    }
}

/// Where files come from, for every platform.
struct Sources {
    context: Arc<dyn Context>,
    /// Name in lower case, platform or nothing, and what it is; as the client's keys are ordered.
    named: Vec<(String, String, Named)>,
    /// Of directories of the client.
    caches: Vec<CacheList>,
}

/// Whether what is asked for depends on the context's ignore file.
fn needs_ignore(options: &Options) -> bool {
    options.question.as_deref().is_none_or(|question| question == questions::LINT)
}

/// What clients and exporters read about results.
fn metadata(outcomes: &[(Option<String>, Arc<Outcome>)]) -> Result<HashMap<String, Bytes>, Status> {
    let mut metadata = HashMap::new();
    let mut platforms = Vec::new();
    for (name, outcome) in outcomes {
        let config = serde_json::to_vec(outcome.built.config())
            .map_err(|e| Status::internal(e.to_string()))?;
        let key = match name {
            None => "containerimage.config".to_owned(),
            Some(name) => format!("containerimage.config/{name}"),
        };
        metadata.insert(key, Bytes::from(config));
        if let Some(name) = name {
            platforms.push(json!({ "ID": name, "Platform": outcome.built.platform() }));
        }
    }
    if !platforms.is_empty() {
        let platforms = json!({ "Platforms": platforms });
        metadata.insert("refs.platforms".to_owned(), Bytes::from(platforms.to_string()));
    }
    Ok(metadata)
}
