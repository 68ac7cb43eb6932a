//! One build: which stages it needs, in which order they come, and what each instruction does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use wharf_base::sync::Mutex;
use wharf_spec::digest::Digest;
use wharf_spec::dockerfile::expand::{Expanded, Lexer};
use wharf_spec::dockerfile::ignore::Ignore;
use wharf_spec::dockerfile::instruction::Pairs;
use wharf_spec::dockerfile::lint::{Check, Rule, warn};
use wharf_spec::dockerfile::{Dockerfile, Instruction, Kind, Source, Span, line_at, nearest};
use wharf_spec::platform::Platform;

use crate::builder::Inner;
use crate::error::{BuildError, Location};
use crate::import::Travel;
use crate::inputs::Inputs;
use crate::material::Material;
use crate::mounts::Wanted;
use crate::progress::{Event, Sender, Step, Vertex, Warning};
use crate::request::{NoCache, Request};
use crate::state::{self, State};

/// One build while it runs.
pub(crate) struct Job {
    pub(crate) builder: Arc<Inner>,
    pub(crate) request: Request,
    pub(crate) inputs: Inputs,
    pub(crate) file: Dockerfile,
    text: String,
    pub(crate) ignore: Ignore,
    check: Check,
    /// `ARG`s before the first `FROM`, and the platform's, with their values.
    globals: BTreeMap<String, String>,
    pub(crate) platform: Platform,
    /// `SOURCE_DATE_EPOCH`
    pub(crate) epoch: Option<i64>,
    tell: Sender,
    pub(crate) cancel: CancellationToken,
    /// Why the build fails: the first reason of all.
    failure: Mutex<Option<BuildError>>,
    /// By rule, message and line.
    warned: Mutex<BTreeSet<(&'static str, String, usize)>>,
    pub(crate) stages: Vec<OnceCell<Option<Arc<State>>>>,
    pub(crate) bases: Mutex<HashMap<String, Arc<OnceCell<Option<Arc<State>>>>>>,
    vertices: Vec<StageVertices>,
    pub(crate) travel: Travel,
    /// The cache mounts that steps used.
    pub(crate) mounts: Mutex<BTreeMap<String, Wanted>>,
    /// What steps used from elsewhere.
    pub(crate) materials: Mutex<BTreeSet<Material>>,
}

/// The vertices of one stage.
struct StageVertices {
    from: Arc<Vertex>,
    steps: Vec<Arc<Vertex>>,
}

impl Place<'_> {
    /// Its step by `key`.
    pub(crate) fn keyed(&self, key: Digest) -> crate::copy::Keyed<'_> {
        let description = self.instruction.text.as_str();
        crate::copy::Keyed { key, no_cache: self.no_cache, link: false, description }
    }
}

/// An instruction's surroundings.
pub(crate) struct Place<'a> {
    pub(crate) stage: usize,
    pub(crate) instruction: &'a Instruction,
    pub(crate) vertex: &'a Arc<Vertex>,
    pub(crate) no_cache: bool,
}

impl Job {
    /// Reads the Dockerfile and settles what does not depend on a base image.
    pub(crate) fn new(
        builder: Arc<Inner>,
        request: Request,
        inputs: Inputs,
        tell: Sender,
        cancel: CancellationToken,
    ) -> Result<Arc<Job>, BuildError> {
        let text = String::from_utf8(request.dockerfile.clone()).map_err(|_| {
            BuildError::Invalid(format!("{} is not UTF-8 text", request.dockerfile_name))
        })?;
        let mut file = parse(&request.dockerfile_name, &text)?;
        for instruction in file.stages.iter_mut().flat_map(|s| &mut s.instructions) {
            if instruction.keyword.eq_ignore_ascii_case("ADD") {
                // From here on the text is only shown: in progress, history, the cache's list.
                instruction.text = crate::remote::redacted(&instruction.text);
            }
        }
        refuse_foreign_syntax(&file, &request, &text)?;
        let ignore = match &request.dockerignore {
            None => Ignore::default(),
            Some(bytes) => Ignore::parse(&String::from_utf8_lossy(bytes))
                .map_err(|e| BuildError::Invalid(format!("error reading .dockerignore: {e}")))?,
        };
        let directive = request.args.get("BUILDKIT_DOCKERFILE_CHECK").or(file.check.as_ref());
        let check =
            Check::parse(directive.map_or("", String::as_str)).map_err(BuildError::Invalid)?;
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let epoch = epoch(&request)?;
        let target = target(&file, request.target.as_deref())?;
        let needed = needed(&file, target);
        let vertices = vertices(&file, &needed);
        let stages = file.stages.iter().map(|_| OnceCell::new()).collect();
        let mut job = Job {
            builder,
            request,
            inputs,
            text,
            ignore,
            check,
            globals: BTreeMap::new(),
            platform,
            epoch,
            tell,
            cancel: cancel.child_token(),
            failure: Mutex::default(),
            warned: Mutex::default(),
            stages,
            bases: Mutex::default(),
            vertices,
            travel: Travel::default(),
            mounts: Mutex::default(),
            materials: Mutex::default(),
            file,
        };
        job.globals = job.global_values(target)?;
        Ok(Arc::new(job))
    }

    /// Builds the target.
    pub(crate) async fn run(self: &Arc<Self>) -> Result<State, BuildError> {
        let target = target(&self.file, self.request.target.as_deref())?;
        let needed = needed(&self.file, target);
        for stage in needed.iter().filter_map(|n| self.vertices.get(*n)) {
            self.tell(Event::Announced(stage.from.clone()));
            stage.steps.iter().for_each(|v| self.tell(Event::Announced(v.clone())));
        }
        for w in self.file.warnings.clone() {
            self.warn(w);
        }
        self.import().await;
        // All at once: a stage that needs another waits for it.
        let all = needed.iter().map(|n| self.stage(*n));
        let built = futures_util::future::join_all(all);
        let cancelled = self.cancel.cancelled();
        let made = tokio::select! {
            // What is complete counts although it was cancelled a moment later.
            biased;
            made = built => made,
            () = cancelled => Vec::new(),
        };
        if let Some(e) = self.failure.lock().take() {
            return Err(e);
        }
        self.unused_args();
        let at = needed.iter().position(|n| *n == target);
        let state = at.and_then(|at| made.into_iter().nth(at)).ok_or(BuildError::Cancelled)??;
        let mut state = (*state).clone();
        let labels: Vec<(String, String)> = self.request.labels.clone().into_iter().collect();
        if !labels.is_empty() {
            state.set_labels(labels);
        }
        self.checked(&state)?;
        Ok(state)
    }

    /// Whether the image is to remember its steps.
    pub(crate) fn remembers(&self) -> bool {
        let argument = self.request.args.get("BUILDKIT_INLINE_CACHE");
        self.request.inline_cache || argument.is_some_and(|v| v == "1" || v == "true")
    }

    /// A warning about the build rather than about the Dockerfile.
    pub(crate) fn notice(&self, message: String) {
        self.tell(Event::Warning(Warning {
            rule: String::new(),
            description: String::new(),
            url: String::new(),
            message,
            lines: (0, 0),
        }));
    }

    fn checked(&self, state: &State) -> Result<(), BuildError> {
        let mut broken: Vec<&str> = self.warned.lock().iter().map(|(rule, ..)| *rule).collect();
        broken.dedup();
        if self.check.error && !broken.is_empty() {
            let text = format!("lint violation found for rules: {}", broken.join(", "));
            return Err(BuildError::Invalid(text));
        }
        debug_assert!(!state.config.os.is_empty() || state.config.architecture.is_empty());
        Ok(())
    }

    pub(crate) fn sender(&self) -> Sender {
        self.tell.clone()
    }

    pub(crate) fn tell(&self, event: Event) {
        // Nobody listens any more: the build goes on until it is cancelled.
        let _gone = self.tell.send(event);
    }

    pub(crate) fn warn(&self, warning: wharf_spec::dockerfile::Warning) {
        if !self.check.tells(warning.rule) {
            return;
        }
        let seen = (warning.rule.name(), warning.message.clone(), warning.lines.0);
        if !self.warned.lock().insert(seen) {
            return;
        }
        self.tell(Event::Warning(warning.into()));
    }

    /// The state after the last instruction of a stage. Built once, whoever asks.
    pub(crate) fn stage<'a>(
        self: &'a Arc<Self>,
        index: usize,
    ) -> BoxFuture<'a, Result<Arc<State>, BuildError>> {
        async move {
            let made = self.stages[index].get_or_init(|| async move {
                match Box::pin(self.make_stage(index)).await {
                    Ok(state) => Some(Arc::new(state)),
                    Err(e) => {
                        self.fail(e);
                        None
                    }
                }
            });
            made.await.clone().ok_or(BuildError::Cancelled)
        }
        .boxed()
    }

    /// The first failure is the build's; the others follow from it.
    pub(crate) fn fail(&self, e: BuildError) {
        if !matches!(e, BuildError::Cancelled) {
            self.failure.lock().get_or_insert(e);
        }
        self.cancel.cancel();
    }

    async fn make_stage(self: &Arc<Self>, index: usize) -> Result<State, BuildError> {
        let stage = &self.file.stages[index];
        let vertices = &self.vertices[index];
        self.started(&vertices.from);
        let base = self.base(index).await.map_err(|e| self.at(stage.span, &stage.text, e));
        let mut state = self.finished(&vertices.from, base, |s| (true, s.chain()))?;
        let no_cache = self.no_cache(index);
        for trigger in std::mem::take(&mut state.run.on_build).unwrap_or_default() {
            let instruction = Dockerfile::parse_trigger(&trigger).map_err(|e| {
                BuildError::Invalid(format!(
                    "the base image's trigger {trigger:?} is wrong: {}",
                    e.message
                ))
            })?;
            let instruction = Instruction { span: stage.span, ..instruction };
            let vertex = Arc::new(Vertex {
                digest: Digest::sha256(
                    format!("{index} trigger {trigger} {}", state.chain()).as_bytes(),
                ),
                inputs: vec![vertices.from.digest.clone()],
                name: format!("[{}] ONBUILD {trigger}", stage_name(&self.file, index)),
                step: None,
            });
            self.tell(Event::Announced(vertex.clone()));
            self.instruction(
                &mut state,
                Place { stage: index, instruction: &instruction, vertex: &vertex, no_cache },
            )
            .await?;
        }
        for (instruction, vertex) in stage.instructions.iter().zip(&vertices.steps) {
            let place = Place { stage: index, instruction, vertex, no_cache };
            self.instruction(&mut state, place).await?;
        }
        Ok(state)
    }

    async fn instruction(
        self: &Arc<Self>,
        state: &mut State,
        place: Place<'_>,
    ) -> Result<(), BuildError> {
        if self.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        self.started(place.vertex);
        let done = self.act(state, &place).await;
        let done = done.map_err(|e| self.at(place.instruction.span, &place.instruction.text, e));
        self.finished(place.vertex, done, |cached| (*cached, state.chain())).map(drop)
    }

    /// Does what the instruction says; true if nothing had to be done.
    async fn act(
        self: &Arc<Self>,
        state: &mut State,
        place: &Place<'_>,
    ) -> Result<bool, BuildError> {
        if self.request.check {
            return self.look_only(state, place).map(|()| false);
        }
        match &place.instruction.kind {
            // On the heap: a step's future is large, and every stage has one.
            Kind::Run(run) => Box::pin(self.run_step(state, place, run)).await,
            Kind::Copy(copy) => Box::pin(self.copy_step(state, place, copy)).await,
            Kind::Workdir(path) => {
                let path = self.word(state, place, path)?;
                self.relative_workdir(state, place, &path);
                let absolute = state.set_workdir(&path);
                self.workdir_step(state, place, &absolute).await
            }
            _ => self.metadata_step(state, place).await,
        }
    }

    /// `--check`: words are expanded, nothing is done.
    fn look_only(&self, state: &mut State, place: &Place<'_>) -> Result<(), BuildError> {
        match &place.instruction.kind {
            Kind::Run(run) => {
                for mount in &run.mounts {
                    self.expanded(state, place, mount)?;
                }
                Ok(())
            }
            Kind::Copy(copy) => self.look_at_copy(state, place, copy),
            Kind::Workdir(path) => {
                let path = self.word(state, place, path)?;
                self.relative_workdir(state, place, &path);
                state.set_workdir(&path);
                Ok(())
            }
            _ => self.metadata(state, place).map(drop),
        }
    }

    /// Carries out what changes the config alone; true if it was done before on the same image: then it is
    /// said to be of that time, so that a build which finds everything cached gives the same image.
    async fn metadata_step(
        self: &Arc<Self>,
        state: &mut State,
        place: &Place<'_>,
    ) -> Result<bool, BuildError> {
        let before = state.identity();
        let line = self.metadata(state, place)?;
        let key = serde_json::json!({ "metadata": line, "parent": before, "epoch": self.epoch });
        let key = Digest::sha256(key.to_string().as_bytes());
        let nothing = std::future::ready(Ok(None));
        let done = self.keyed(state, place.keyed(key), nothing).await?;
        state.log(&done.created, line, true);
        Ok(done.cached)
    }

    fn relative_workdir(&self, state: &State, place: &Place<'_>, path: &str) {
        if !path.starts_with('/') && !state.workdir_is_own {
            let text = format!(
                "Relative workdir {path:?} can have unexpected results if the base image changes"
            );
            self.warn(warn(Rule::WorkdirRelativePath, place.instruction.span, text));
        }
    }

    /// Instructions that change the config alone; returns what the history says of it.
    fn metadata(&self, state: &mut State, place: &Place<'_>) -> Result<String, BuildError> {
        let shown = match &place.instruction.kind {
            Kind::Arg(list) => self.args(state, place, list)?,
            Kind::Env(pairs) => {
                let values = self.pairs(state, place, pairs)?;
                values.values().for_each(|(k, v)| state.set_env(k, v));
                state::shown_pairs(pairs, &values)
            }
            Kind::Label(pairs) => {
                let values = self.pairs(state, place, pairs)?;
                state.set_labels(values.values().cloned());
                state::shown_pairs(pairs, &values)
            }
            Kind::User(user) => {
                state.run.user = self.word(state, place, user)?;
                state.run.user.clone()
            }
            Kind::Volume(paths) => self.volumes(state, place, paths)?,
            Kind::Expose(words) => self.ports(state, place, words)?,
            Kind::StopSignal(signal) => {
                let signal = self.word(state, place, signal)?;
                wharf_engine::validate::signal(&signal)?;
                state.run.stop_signal.clone_from(&signal);
                signal
            }
            kind => verbatim(state, place, kind),
        };
        let keyword = place.instruction.keyword.to_ascii_uppercase();
        Ok(format!("{keyword} {shown}"))
    }

    fn args(
        &self,
        state: &mut State,
        place: &Place<'_>,
        list: &[wharf_spec::dockerfile::ArgDecl],
    ) -> Result<String, BuildError> {
        let mut shown = Vec::new();
        for arg in list {
            let value = self.arg_value(state, place, arg)?;
            shown.push(match &value {
                Some(value) => format!("{}={value}", arg.name),
                None => arg.name.clone(),
            });
            state.declare(&arg.name, value);
        }
        Ok(shown.join(" "))
    }

    fn volumes(
        &self,
        state: &mut State,
        place: &Place<'_>,
        paths: &[String],
    ) -> Result<String, BuildError> {
        let mut shown = Vec::new();
        for path in paths {
            let path = self.word(state, place, path)?;
            if path.trim().is_empty() {
                let text = "VOLUME specified can not be an empty string";
                return Err(BuildError::Invalid(text.into()));
            }
            let volumes = state.run.volumes.get_or_insert_default();
            volumes.insert(path.clone(), serde_json::json!({}));
            shown.push(path);
        }
        Ok(format!("[{}]", shown.join(" ")))
    }

    fn ports(
        &self,
        state: &mut State,
        place: &Place<'_>,
        words: &[String],
    ) -> Result<String, BuildError> {
        let mut shown = Vec::new();
        for word in words {
            let (split, seen) =
                self.lexer().words(word, &|n: &str| state.variable(n)).map_err(invalid)?;
            self.unset(state, place, &seen);
            for word in split {
                let port = state::expose(&word).ok_or_else(|| {
                    let text = "use 80, 53/udp or 7000-7010";
                    BuildError::Invalid(format!("invalid containerPort: {word}: {text}"))
                })?;
                for one in state::ports(&port) {
                    shown.push(one.clone());
                    let ports = state.run.exposed_ports.get_or_insert_default();
                    ports.insert(one, serde_json::json!({}));
                }
            }
        }
        Ok(shown.join(" "))
    }

    fn pairs(
        &self,
        state: &State,
        place: &Place<'_>,
        pairs: &Pairs,
    ) -> Result<BTreeMap<usize, (String, String)>, BuildError> {
        // All with the values from before the instruction.
        let one = |(n, (k, v)): (usize, &(String, String))| {
            Ok((n, (self.word(state, place, k)?, self.word(state, place, v)?)))
        };
        pairs.pairs.iter().enumerate().map(one).collect()
    }

    /// The command line's value, else the default here, else the global one.
    fn arg_value(
        &self,
        state: &State,
        place: &Place<'_>,
        arg: &wharf_spec::dockerfile::ArgDecl,
    ) -> Result<Option<String>, BuildError> {
        if let Some(value) = self.request.args.get(&arg.name) {
            return Ok(Some(value.clone()));
        }
        match &arg.default {
            Some(default) => self.word(state, place, default).map(Some),
            None => Ok(self.globals.get(&arg.name).cloned()),
        }
    }

    pub(crate) fn lexer(&self) -> Lexer {
        Lexer::new(self.file.escape)
    }

    /// A word of an instruction, expanded; unknown variables are told.
    pub(crate) fn word(
        &self,
        state: &State,
        place: &Place<'_>,
        text: &str,
    ) -> Result<String, BuildError> {
        self.word_by(&self.lexer(), state, place, text)
    }

    /// The same, read in another way.
    pub(crate) fn word_by(
        &self,
        lexer: &Lexer,
        state: &State,
        place: &Place<'_>,
        text: &str,
    ) -> Result<String, BuildError> {
        let seen = state.expand(lexer, text).map_err(invalid)?;
        self.unset(state, place, &seen);
        Ok(seen.text)
    }

    fn unset(&self, state: &State, place: &Place<'_>, seen: &Expanded) {
        for name in
            seen.unset.iter().filter(|n| !state.knows(n) && !state::PROXIES.contains(&n.as_str()))
        {
            let names = state.names();
            let hint = nearest::nearest(name, names.iter().map(String::as_str));
            let hint = hint.map(|h| format!(" (did you mean ${h}?)")).unwrap_or_default();
            let text = format!("Usage of undefined variable '${name}'{hint}");
            self.warn(warn(Rule::UndefinedVar, place.instruction.span, text));
        }
    }

    /// A word of a `FROM`, which sees the global arguments only.
    pub(crate) fn global_word(&self, span: Span, text: &str) -> Result<String, BuildError> {
        let seen =
            self.lexer().word(text, &|n: &str| self.globals.get(n).cloned()).map_err(invalid)?;
        for name in &seen.unset {
            if self.file.globals.iter().any(|(a, _)| a.name == *name) {
                continue;
            }
            let hint = nearest::nearest(name, self.globals.keys().map(String::as_str));
            let hint = hint.map(|h| format!(" (did you mean {h}?)")).unwrap_or_default();
            self.warn(warn(
                Rule::UndefinedArgInFrom,
                span,
                format!("FROM argument '{name}' is not declared{hint}"),
            ));
        }
        Ok(seen.text)
    }

    fn global_values(&self, target: usize) -> Result<BTreeMap<String, String>, BuildError> {
        let mut values = platform_values(&self.platform);
        values.insert(
            "TARGETSTAGE".into(),
            self.request.target.clone().unwrap_or_else(|| {
                self.file.stages[target].name.clone().unwrap_or_else(|| "default".into())
            }),
        );
        self.globals_over(values, &self.request.args)
    }

    /// The values of global arguments where nobody gives others.
    pub(crate) fn default_globals(&self) -> Result<BTreeMap<String, String>, BuildError> {
        self.globals_over(platform_values(&self.platform), &BTreeMap::new())
    }

    fn globals_over(
        &self,
        mut values: BTreeMap<String, String>,
        given: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, BuildError> {
        for (arg, span) in &self.file.globals {
            let value = match (given.get(&arg.name), &arg.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let seen = self.lexer().word(default, &|n: &str| values.get(n).cloned());
                    Some(seen.map_err(|e| self.at(*span, "ARG", invalid(e)))?.text)
                }
                (None, None) => values.get(&arg.name).cloned(),
            };
            if let Some(value) = value {
                values.insert(arg.name.clone(), value);
            }
        }
        Ok(values)
    }

    /// `--build-arg` that no `ARG` declares.
    fn unused_args(&self) {
        let mut known: BTreeSet<&str> =
            self.file.globals.iter().map(|(a, _)| a.name.as_str()).collect();
        for instruction in self.file.stages.iter().flat_map(|s| &s.instructions) {
            if let Kind::Arg(list) = &instruction.kind {
                known.extend(list.iter().map(|a| a.name.as_str()));
            }
        }
        let reserved = |n: &str| {
            state::PROXIES.contains(&n)
                || n.starts_with("BUILDKIT_")
                || n == "SOURCE_DATE_EPOCH"
                || platform_values(&self.platform).contains_key(n)
        };
        let unused: Vec<&str> = self
            .request
            .args
            .keys()
            .map(String::as_str)
            .filter(|n| !known.contains(n) && !reserved(n))
            .collect();
        if !unused.is_empty() {
            self.notice(format!("[Warning] One or more build-args {unused:?} were not consumed"));
        }
    }

    fn no_cache(&self, stage: usize) -> bool {
        match &self.request.no_cache {
            NoCache::Nothing => false,
            NoCache::All => true,
            NoCache::Stages(names) => {
                let own = self.file.stages[stage].name.as_deref().unwrap_or_default();
                names.iter().any(|n| n.eq_ignore_ascii_case(own) || *n == stage.to_string())
            }
        }
    }

    /// The time that history says of a step first done at `nanos`.
    pub(crate) fn time_of(&self, nanos: i64) -> String {
        let time = match self.epoch {
            Some(seconds) => jiff::Timestamp::from_second(seconds),
            None => jiff::Timestamp::from_nanosecond(nanos.into()),
        };
        time.unwrap_or_default().to_string()
    }

    /// The time that images and history say of what changes no file: that of the last step that could, so
    /// that a build which finds everything cached gives the same image.
    pub(crate) fn created(&self, state: &State) -> String {
        match (&state.config.created, self.epoch) {
            (Some(time), None) => time.clone(),
            _ => self.time_of(self.builder.cache().now()),
        }
    }

    fn started(&self, vertex: &Vertex) {
        self.tell(Event::Started { vertex: vertex.digest.clone(), at: SystemTime::now() });
    }

    /// Tells the end; `facts` gives whether it was cached and what came of it.
    fn finished<T>(
        &self,
        vertex: &Vertex,
        done: Result<T, BuildError>,
        facts: impl FnOnce(&T) -> (bool, String),
    ) -> Result<T, BuildError> {
        let (cached, result, error) = match &done {
            Ok(value) => {
                let (cached, chain) = facts(value);
                (
                    cached,
                    Some(chain.parse().unwrap_or_else(|_| Digest::sha256(chain.as_bytes()))),
                    None,
                )
            }
            Err(e) => {
                let told = match e {
                    BuildError::Step { source, .. } => {
                        wharf_base::error::chain(&**source).to_string()
                    }
                    e => wharf_base::error::chain(e).to_string(),
                };
                (false, None, Some(told))
            }
        };
        let vertex = vertex.digest.clone();
        self.tell(Event::Done { vertex, at: SystemTime::now(), cached, result, error });
        done
    }

    /// An error with its place.
    fn at(&self, span: Span, instruction: &str, e: BuildError) -> BuildError {
        match e {
            e @ (BuildError::Cancelled | BuildError::Step { .. }) => e,
            e => BuildError::Step {
                at: Box::new(Location {
                    file: self.request.dockerfile_name.clone(),
                    line: span.start.line,
                    column: span.start.column,
                    last_line: span.last_line,
                    text: crate::remote::redacted(line_at(&self.text, span.start)),
                }),
                instruction: instruction.to_owned(),
                source: Box::new(e),
            },
        }
    }
}

/// Reads a Dockerfile; an error has its place and line.
pub(crate) fn parse(name: &str, text: &str) -> Result<Dockerfile, BuildError> {
    Dockerfile::parse(text).map_err(|e| BuildError::Dockerfile {
        at: Box::new(Location {
            file: name.to_owned(),
            line: e.at.line,
            column: e.at.column,
            last_line: e.last_line,
            text: line_at(text, e.at).to_owned(),
        }),
        message: e.message,
    })
}

/// wharf reads Dockerfiles itself; other frontends are programs that it does not run.
fn refuse_foreign_syntax(
    file: &Dockerfile,
    request: &Request,
    text: &str,
) -> Result<(), BuildError> {
    let own = |name: &str| {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.split(['@', ':']).next().unwrap_or_default();
        matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
    };
    let (name, line) = match (request.args.get("BUILDKIT_SYNTAX"), &file.syntax) {
        (Some(name), _) => (name.clone(), 1),
        (None, Some((name, line))) => (name.clone(), *line),
        (None, None) => return Ok(()),
    };
    let image = name.split_whitespace().next().unwrap_or_default();
    if own(image) {
        return Ok(());
    }
    let start = wharf_spec::dockerfile::Place { line, column: 1 };
    Err(BuildError::Dockerfile {
        at: Box::new(Location {
            file: request.dockerfile_name.clone(),
            line,
            column: 1,
            last_line: line,
            text: line_at(text, start).to_owned(),
        }),
        message: format!(
            "frontend {image} is not supported: wharf reads the Dockerfile syntax of docker/dockerfile itself and runs no other frontend: take the line out, or build what it makes with docker/dockerfile"
        ),
    })
}

fn epoch(request: &Request) -> Result<Option<i64>, BuildError> {
    let Some(text) = request.args.get("SOURCE_DATE_EPOCH").filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        BuildError::Invalid(format!("invalid SOURCE_DATE_EPOCH {text:?}: use seconds since 1970"))
    })
}

fn target(file: &Dockerfile, wanted: Option<&str>) -> Result<usize, BuildError> {
    let Some(name) = wanted.filter(|n| !n.is_empty()) else { return Ok(file.stages.len() - 1) };
    file.stage_before(name, file.stages.len()).ok_or_else(|| {
        let names = file.stages.iter().filter_map(|s| s.name.as_deref());
        let hint = nearest::nearest(name, names).map(|n| format!(" (did you mean {n}?)"));
        BuildError::NotFound(format!(
            "target stage {name:?} could not be found{}",
            hint.unwrap_or_default()
        ))
    })
}

/// The stages that `target` needs, itself last; as far as reading alone tells.
fn needed(file: &Dockerfile, target: usize) -> Vec<usize> {
    let mut all = BTreeSet::new();
    let mut todo = vec![target];
    while let Some(n) = todo.pop() {
        if !all.insert(n) {
            continue;
        }
        let stage = &file.stages[n];
        todo.extend(file.stage_before(&stage.base, n));
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Copy(c) => {
                    todo.extend(c.from.as_deref().and_then(|f| file.stage_before(f, n)))
                }
                Kind::Run(r) => todo.extend(
                    r.mounts
                        .iter()
                        .filter_map(|m| m.from.as_deref())
                        .filter_map(|f| file.stage_before(f, n)),
                ),
                _ => {}
            }
        }
    }
    all.into_iter().collect()
}

fn vertices(file: &Dockerfile, needed: &[usize]) -> Vec<StageVertices> {
    let own = |n: usize| needed.contains(&n);
    let total = needed.iter().map(|n| file.stages[*n].instructions.len() + 1).sum();
    let mut index = 0;
    let mut next = |used: bool, text: &str, changes_files: bool| {
        let step = used.then(|| Step { index, total, text: text.to_owned(), changes_files });
        index += usize::from(used);
        step
    };
    let mut all: Vec<StageVertices> = Vec::new();
    for (n, stage) in file.stages.iter().enumerate() {
        let name = stage_name(file, n);
        let files =
            |i: &Instruction| matches!(i.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_));
        let of = 1 + stage.instructions.iter().filter(|i| files(i)).count();
        let digest = |text: &str, k: usize| Digest::sha256(format!("{n} {k} {text}").as_bytes());
        let base = file.stage_before(&stage.base, n).and_then(|b| all.get(b));
        let inputs = base.map(|b| b.steps.last().unwrap_or(&b.from).digest.clone());
        let from = Arc::new(Vertex {
            digest: digest(&stage.text, 0),
            inputs: inputs.into_iter().collect(),
            name: format!("[{name} 1/{of}] {}", stage.text),
            step: next(own(n), &stage.text, true),
        });
        let (mut steps, mut nth, mut before) = (Vec::new(), 1, from.digest.clone());
        for (k, instruction) in stage.instructions.iter().enumerate() {
            let changes = files(instruction);
            nth += usize::from(changes);
            let shown = shown(instruction);
            let mut inputs = vec![before.clone()];
            if let Kind::Copy(c) = &instruction.kind {
                let from = c
                    .from
                    .as_deref()
                    .and_then(|f| file.stage_before(f, n))
                    .and_then(|b| all.get(b));
                inputs.extend(from.map(|b| b.steps.last().unwrap_or(&b.from).digest.clone()));
            }
            let vertex = Arc::new(Vertex {
                digest: digest(&instruction.text, k + 1),
                inputs,
                name: if changes {
                    format!("[{name} {nth}/{of}] {shown}")
                } else {
                    format!("[{name}] {shown}")
                },
                step: next(own(n), &instruction.text, changes),
            });
            before = vertex.digest.clone();
            steps.push(vertex);
        }
        all.push(StageVertices { from, steps });
    }
    all
}

/// As BuildKit shows it: a single stage without a name has none.
fn stage_name(file: &Dockerfile, n: usize) -> String {
    match &file.stages[n].name {
        Some(name) => name.clone(),
        None => format!("stage-{n}"),
    }
}

fn shown(instruction: &Instruction) -> String {
    let document = match &instruction.kind {
        Kind::Run(r) => r.heredocs.first().map(|h| h.content.as_str()),
        Kind::Copy(c) => c.sources.iter().find_map(|s| match s {
            Source::Here(h) => Some(h.content.as_str()),
            Source::Path(_) => None,
        }),
        _ => None,
    };
    match document.and_then(|d| d.lines().next()) {
        Some(first) => format!("{} ({first}...)", instruction.text),
        None => instruction.text.clone(),
    }
}

fn platform_values(target: &Platform) -> BTreeMap<String, String> {
    let host = Platform::host();
    let of = |prefix: &str, p: &Platform| {
        [
            (format!("{prefix}PLATFORM"), p.to_string()),
            (format!("{prefix}OS"), p.os.clone()),
            (format!("{prefix}ARCH"), p.architecture.clone()),
            (format!("{prefix}VARIANT"), p.variant.clone()),
        ]
    };
    of("TARGET", target).into_iter().chain(of("BUILD", &host)).collect()
}

/// Instructions whose words are taken as they are; returns what the history shows.
fn verbatim(state: &mut State, place: &Place<'_>, kind: &Kind) -> String {
    match kind {
        Kind::Maintainer(who) => state.config.author.clone_from(who),
        Kind::Cmd(command) => {
            state.set_cmd(command);
            return quoted(state.run.cmd.as_deref().unwrap_or_default());
        }
        Kind::Entrypoint(command) => {
            state.set_entrypoint(command);
            return quoted(state.run.entrypoint.as_deref().unwrap_or_default());
        }
        Kind::Shell(words) => state.run.shell = Some(words.clone()),
        Kind::Healthcheck(health) => state.set_health(health),
        Kind::Onbuild(trigger) => {
            state.run.on_build.get_or_insert_default().push(trigger.clone());
        }
        _ => {}
    }
    let text = place.instruction.text.split_once(char::is_whitespace);
    text.map_or("", |(_, rest)| rest.trim()).to_owned()
}

fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn invalid(e: wharf_spec::dockerfile::expand::ExpandError) -> BuildError {
    BuildError::Invalid(format!("failed to process: {e}"))
}
