//! From texts to a project: every stage in its order.

pub(super) mod canonical;
mod defaults;
pub(super) mod dotenv;
mod extends;
mod include;
pub(super) mod interpolate;
mod legacy;
mod merge;
mod normal;
pub(super) mod origin;
mod paths;
mod port;
mod schema;
mod tables;
mod unique;
pub(super) mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::fault::{ComposeError, Fault, Result, Sources};
use super::model::{self, Project};
use super::node::{Map, Node, Path, Value};
use super::yaml;

pub(super) use normal::CONTENT;

/// Variables by name.
pub type Env = BTreeMap<String, String>;

/// What Compose files refer to; given by the caller, so that loading itself touches nothing.
pub trait Files {
    /// The text of a file.
    fn read(&self, path: &str) -> std::io::Result<String>;
    /// Whether there is a file, not a directory.
    fn is_file(&self, path: &str) -> bool;
}

/// One Compose file as text.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its absolute path, or `-`.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// How far the project is resolved. The default resolves everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolution {
    /// Leaves variables as they are written.
    pub keep_variables: bool,
    /// Leaves relative paths as they are written.
    pub keep_paths: bool,
    /// Leaves out implicit defaults such as the network `default`.
    pub keep_form: bool,
    /// Accepts contradictions.
    pub unchecked: bool,
    /// Does not read `env_file`.
    pub keep_env_files: bool,
}

/// What to load.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The files, each merged over those before it.
    pub files: Vec<Text>,
    /// The project's directory, absolute.
    pub dir: String,
    /// The variables: the shell's and those of env files.
    pub env: Env,
    /// The name that was asked for by flag or variable.
    pub name: Option<String>,
    /// The active profiles.
    pub profiles: Vec<String>,
    /// How far to go.
    pub resolution: Resolution,
}

/// A project, and what was noticed on the way.
#[derive(Debug)]
pub struct Loaded {
    /// The project.
    pub project: Project,
    /// The merged tree that it was read from.
    pub tree: Node,
    /// Remarks for the user.
    pub warnings: Vec<String>,
    sources: Sources,
    used: interpolate::Used,
    /// The env file of each variable, by service and name.
    from_files: origin::FromFiles,
}

/// Loads a project.
pub fn load(request: &Request, files: &dyn Files) -> std::result::Result<Loaded, ComposeError> {
    let mut loader = Loader {
        files,
        sources: Sources::default(),
        warnings: BTreeSet::new(),
        resolution: request.resolution,
        legacy: false,
        used: interpolate::Used::new(),
        from_files: origin::FromFiles::new(),
    };
    let result = loader.project(request);
    let Loader { sources, warnings, used, from_files, .. } = loader;
    match result {
        Ok((project, tree)) => {
            let warnings = warnings.into_iter().collect();
            Ok(Loaded { project, tree, warnings, sources, used, from_files })
        }
        Err(fault) => Err(sources.error(fault)),
    }
}

/// A name in the form that projects have: lower case letters, digits, `-` and `_`.
pub fn normal_name(name: &str) -> String {
    let kept = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c);
    let name: String = name.to_lowercase().chars().filter(kept).collect();
    name.trim_start_matches(['_', '-']).to_owned()
}

struct Loader<'a> {
    files: &'a dyn Files,
    sources: Sources,
    warnings: BTreeSet<String>,
    resolution: Resolution,
    /// Whether a file of the format of 2015 was among them.
    legacy: bool,
    used: interpolate::Used,
    from_files: origin::FromFiles,
}

/// What one set of merged files has in common.
#[derive(Clone)]
struct Scope {
    /// What relative paths start from.
    dir: String,
    env: Rc<Env>,
    /// The files that led here, for include cycles.
    included: Vec<String>,
}

impl Loader<'_> {
    fn project(&mut self, request: &Request) -> Result<(Project, Node)> {
        let name = self.name(request)?;
        let mut env = request.env.clone();
        env.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
        let scope = Scope { dir: request.dir.clone(), env: Rc::new(env), included: Vec::new() };
        let mut tree = self.merged(&request.files, &scope)?;
        if tree.as_map().is_none_or(Map::is_empty) {
            return Err(Fault::new("empty compose file"));
        }
        let span = tree.span;
        if let Some(map) = tree.as_map_mut() {
            match self.resolution.keep_form {
                true => drop(map.remove("name")),
                false => {
                    let written = map.get("name").filter(|_| request.name.is_none());
                    let node = match written {
                        Some(written) => Node::text(&name, written.span),
                        None => Node::text(&name, span).implied(),
                    };
                    map.insert("name".to_owned(), node);
                }
            }
        }
        if !self.resolution.keep_form {
            normal::apply(&mut tree, &scope.env);
        }
        let mut project = model::project(&tree)?;
        project.name = name;
        project.dir = request.dir.clone();
        project.files = request.files.iter().map(|f| f.name.clone()).collect();
        project.environment = (*scope.env).clone();
        project.legacy = self.legacy;
        project.apply_profiles(&request.profiles);
        if !self.resolution.unchecked {
            super::project::check(&mut project, &tree)?;
        }
        self.env_files(&mut project);
        Ok((project, tree))
    }

    fn name(&mut self, request: &Request) -> Result<String> {
        if let Some(name) = request.name.as_ref().filter(|n| !n.is_empty()) {
            return match normal_name(name) == *name {
                true => Ok(name.clone()),
                false => Err(Fault::new(format!(
                    "invalid project name {name:?}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number"
                ))),
            };
        }
        let mut written = None;
        for file in &request.files {
            // What cannot be read is told when the file is loaded.
            let mark = self.sources.add(&file.name, &file.text);
            for document in yaml::parse(mark, &file.text).unwrap_or_default() {
                let name = document
                    .root
                    .get("name")
                    .filter(|n| n.as_text().is_some_and(|t| !t.is_empty()));
                written = name.cloned().or(written);
            }
        }
        let base = request.dir.rsplit('/').find(|p| !p.is_empty()).unwrap_or_default();
        let name = match written {
            None => normal_name(base),
            Some(mut node) => {
                if !self.resolution.keep_variables {
                    self.interpolate(&mut node, Path::ROOT.next("name"), &request.env)?;
                }
                match normal_name(node.as_text().unwrap_or_default()) {
                    name if name.is_empty() => normal_name(base),
                    name => name,
                }
            }
        };
        match name.is_empty() {
            true => Err(Fault::new("project name must not be empty")),
            false => Ok(name),
        }
    }

    fn interpolate(&mut self, node: &mut Node, path: Path<'_>, env: &Env) -> Result<()> {
        let mut variables = interpolate::Variables::new(env);
        interpolate::apply(node, path, &mut variables)?;
        for (span, names) in variables.used {
            self.used.entry(span).or_default().extend(names);
        }
        for name in variables.unset {
            let text = format!("The {name:?} variable is not set. Defaulting to a blank string.");
            self.warnings.insert(text);
        }
        Ok(())
    }

    /// Several files as one tree with defaults and absolute paths.
    fn merged(&mut self, files: &[Text], scope: &Scope) -> Result<Node> {
        let mut tree = Node::new(Value::Map(Map::new()), super::node::Span::default());
        for file in files {
            self.add(&mut tree, file, scope)?;
        }
        defaults::apply(&mut tree, Path::ROOT)?;
        defaults::check(&tree)?;
        if !self.resolution.keep_paths {
            paths::resolve(&mut tree, Path::ROOT, scope.base())?;
        }
        normal::environment(&mut tree, &scope.env);
        Ok(tree)
    }

    /// Merges one file over the tree.
    fn add(&mut self, tree: &mut Node, file: &Text, scope: &Scope) -> Result<()> {
        let mark = self.sources.add(&file.name, &file.text);
        for document in yaml::parse(mark, &file.text)? {
            let mut root = document.root;
            if legacy::is(&root) {
                self.legacy = true;
                legacy::modernize(&mut root)?;
            }
            if !self.resolution.keep_variables {
                self.interpolate(&mut root, Path::ROOT, &scope.env)?;
            }
            self.extend_all(&mut root, &file.name, scope, &document.removed)?;
            remove(tree, &mut Vec::new(), &document.removed);
            self.include_all(&mut root, file, scope)?;
            if tree.as_map().is_some_and(Map::is_empty) {
                tree.span = root.span;
            }
            merge::merge(tree, root, Path::ROOT)?;
            unique::enforce(tree, Path::ROOT)?;
            schema::validate(tree).map_err(|f| Fault {
                message: format!("validating {}: {}", file.name, f.message),
                ..f
            })?;
            if let Some(map) = tree.as_map_mut()
                && map.remove("version").is_some()
            {
                self.warnings.insert(format!(
                    "{}: the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion",
                    file.name
                ));
            }
            canonical::apply(tree, Path::ROOT, self.resolution.keep_variables)?;
            drop_empty_dns(tree);
            unique::enforce(tree, Path::ROOT)?;
        }
        Ok(())
    }

    /// `env_file` and `label_file` into `environment` and `labels`. A file that cannot be read matters only if
    /// its service turns out to be asked for.
    fn env_files(&mut self, project: &mut Project) {
        let environment = project.environment.clone();
        let all = project.services.iter_mut().chain(&mut project.disabled);
        for (name, service) in all {
            let mut resolve = || {
                if !self.resolution.keep_env_files {
                    let from = resolve_environment(service, &environment, self.files)?;
                    self.from_files.insert(name.clone(), from);
                }
                resolve_labels(service, self.files)
            };
            if let Err(fault) = resolve() {
                project.unreadable.insert(name.clone(), fault.message);
            }
        }
    }
}

impl Scope {
    fn base(&self) -> paths::Base<'_> {
        paths::Base { dir: &self.dir, home: self.env.get("HOME").map(String::as_str) }
    }
}

/// Clears what a later document resets or overrides.
fn remove(node: &mut Node, path: &mut Vec<String>, removed: &[Vec<String>]) {
    if removed.is_empty() {
        return;
    }
    if let Value::Map(map) = &mut node.value {
        map.retain(|name, child| {
            path.push(name.clone());
            let gone = removed.contains(path);
            if !gone {
                remove(child, path, removed);
            }
            path.pop();
            !gone
        });
    }
}

/// An empty entry in `dns` comes from an unset variable and means nothing.
fn drop_empty_dns(tree: &mut Node) {
    let services = tree.as_map_mut().and_then(|m| m.get_mut("services")?.as_map_mut());
    for service in services.into_iter().flat_map(|m| m.values_mut()) {
        let dns = service.as_map_mut().and_then(|m| m.get_mut("dns"));
        if let Some(Value::List(list)) = dns.map(|d| &mut d.value) {
            list.retain(|n| !n.is_null() && n.as_text() != Some(""));
        }
    }
}

fn read_file(files: &dyn Files, path: &str, what: &str) -> Result<String> {
    files.read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Fault::new(format!("{what} {path} not found")),
        _ => Fault::new(format!("{what} {path} cannot be read: {e}")),
    })
}

/// Completes a service's environment; returns the variables that env files gave it, with the file.
fn resolve_environment(
    service: &mut model::Service,
    environment: &Env,
    files: &dyn Files,
) -> Result<Env> {
    let mut from = Env::new();
    for (name, value) in &mut service.environment.0 {
        if value.is_none() {
            *value = environment.get(name).cloned();
        }
    }
    // The project's variables win when an env file is interpolated, then the service's own.
    let mut outer = Env::new();
    let mut found = Env::new();
    for (name, value) in &service.environment.0 {
        if let Some(value) = value {
            outer.insert(name.clone(), value.clone());
            found.insert(name.clone(), value.clone());
        }
    }
    outer.extend(environment.iter().map(|(k, v)| (k.clone(), v.clone())));
    for file in std::mem::take(&mut service.env_file) {
        if !files.is_file(&file.path) && !file.required {
            continue;
        }
        let text = read_file(files, &file.path, "env file")?;
        let before = found.clone();
        match file.format.as_str() {
            "" => dotenv::parse(&text, &outer, &mut found)
                .map_err(|why| Fault::new(format!("failed to read {}: {why}", file.path)))?,
            "raw" => dotenv::parse_raw(&text, &mut found),
            format => {
                return Err(Fault::new(format!("unsupported env_file format {format:?}")));
            }
        }
        let new = found.iter().filter(|(name, value)| before.get(*name) != Some(value));
        from.extend(new.map(|(name, _)| (name.clone(), file.path.clone())));
    }
    from.retain(|name, _| !service.environment.0.contains_key(name));
    for (name, value) in found {
        service.environment.0.entry(name).or_insert(Some(value));
    }
    Ok(from)
}

fn resolve_labels(service: &mut model::Service, files: &dyn Files) -> Result<()> {
    let mut found = Env::new();
    for file in std::mem::take(&mut service.label_file) {
        let text = read_file(files, &file, "label file")?;
        let outer = found.clone();
        dotenv::parse(&text, &outer, &mut found)
            .map_err(|why| Fault::new(format!("failed to read {file}: {why}")))?;
    }
    for (name, value) in found {
        service.labels.0.entry(name).or_insert(value);
    }
    Ok(())
}
