//! `build`: the images that a project makes itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use wharf_compose::apply::{Event, Progress, Status};
use wharf_compose::labels;
use wharf_spec::compose::model::{Build, Service};
use wharf_spec::compose::{Project, Selection};

use super::display::Screen;
use super::load;
use crate::app::{Call, say_line};
use crate::cmdline::{parse, tree};
use crate::failure::{Failure, os_text};
use crate::verbs::Outcome;
use crate::verbs::build::OF_COMPOSE;

/// `compose build [SERVICE...]`
pub async fn build(call: Call) -> Outcome {
    let reach = match call.given.on("with-dependencies") {
        true => Selection::WithDependencies,
        false => Selection::Alone,
    };
    let builder = given_or(&call, "builder", "BUILDX_BUILDER");
    if !matches!(builder.as_str(), "" | "default") {
        return Err(Failure::new(format!("no builder {builder:?} found: wharf has one, default")));
    }
    let project = load(&call, call.args(), reach)?;
    let buildable = project.services.iter().filter(|(_, s)| s.build.is_some());
    let names: Vec<String> = buildable.map(|(n, _)| n.clone()).collect();
    if names.is_empty() {
        super::remark("No services to build");
        return Ok(());
    }
    if call.given.on("print") {
        let file = super::bake::file(&call, &project, &names);
        let text = serde_json::to_string_pretty(&file).map_err(|e| Failure::new(e.to_string()))?;
        return say_line(text);
    }
    let screen = super::screen(&call)?;
    build_services(&call, &screen, &project, &names).await?;
    match call.given.on("push") {
        true => Failure::join(super::one::push_all(&call, &project).await),
        false => Ok(()),
    }
}

/// A flag's value, else a variable's.
fn given_or(call: &Call, flag: &str, variable: &str) -> String {
    match call.given.text(flag) {
        "" => std::env::var(variable).unwrap_or_default(),
        text => text.to_owned(),
    }
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
        let Some(build) = &service.build else { continue };
        let result = Job { call, project, name, service, build, image: &image }.run().await;
        match &result {
            Ok(()) => tell(Status::Done, "Built"),
            Err(_) => tell(Status::Failed, "Failed"),
        }
        result.map_err(|f| Failure::new(format!("failed to build {name}: {}", f.text)))?;
    }
    Ok(())
}

/// One image to build.
struct Job<'a> {
    call: &'a Call,
    project: &'a Project,
    name: &'a str,
    service: &'a Service,
    build: &'a Build,
    image: &'a str,
}

impl Job<'_> {
    async fn run(&self) -> Outcome {
        if self.build.privileged {
            return Err(Failure::new(
                "build.privileged is not supported: ask for what a step needs by entitlements and RUN --security",
            ));
        }
        let mut words = Words::default();
        self.variables(&mut words);
        self.sources(&mut words)?;
        self.options(&mut words);
        words.list.extend(["--".to_owned(), self.build.context.clone()]);
        let verb = tree::verb("build").ok_or("there is no verb build")?;
        let given = parse::parse(verb, &words.list).map_err(Failure::new)?;
        // The output of `run` is that of its command.
        let path = if self.call.path == "compose run" { "build" } else { OF_COMPOSE };
        let other = Call { verb, path: path.to_owned(), given, ..self.call.clone() };
        let quiet = self.call.given.on("quiet") || self.call.given.on("quiet-build");
        crate::verbs::build::image(&other, quiet).await
    }

    /// Arguments and labels.
    fn variables(&self, words: &mut Words) {
        let mut args: BTreeMap<String, Option<String>> = self.build.args.0.clone();
        for pair in self.call.given.all("build-arg") {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (pair.as_str(), self.project.environment.get(pair).cloned()),
            };
            args.insert(key.to_owned(), value);
        }
        for (key, value) in &args {
            let text = value.as_ref().map_or(key.clone(), |v| format!("{key}={v}"));
            words.add("build-arg", &text);
        }
        let mut own = self.build.labels.0.clone();
        own.insert(labels::PROJECT.to_owned(), self.project.name.clone());
        own.insert(labels::SERVICE.to_owned(), self.name.to_owned());
        own.insert(labels::VERSION.to_owned(), labels::COMPOSE_VERSION.to_owned());
        own.iter().for_each(|(key, value)| words.add("label", &format!("{key}={value}")));
    }

    /// The Dockerfile, secrets, further contexts and agents.
    fn sources(&self, words: &mut Words) -> Outcome {
        let build = self.build;
        if !build.dockerfile_inline.is_empty() {
            let path = words.file(build.dockerfile_inline.as_bytes())?;
            words.add("file", &path);
        } else if is_remote(&build.context) {
            words.add("file", &build.dockerfile);
        } else {
            let path = Path::new(&build.context).join(&build.dockerfile);
            words.add("file", &crate::parse::clean_path(&path.to_string_lossy()));
        }
        for secret in &build.secrets {
            let id = if secret.target.is_empty() { &secret.source } else { &secret.target };
            let Some(found) = self.project.secrets.get(&secret.source) else { continue };
            let path = match (found.file.as_str(), found.environment.as_str()) {
                ("", "") => {
                    return Err(Failure::new(format!(
                        "build.secrets: {} has neither a file nor a variable",
                        secret.source
                    )));
                }
                ("", _) => words.file(found.content.as_bytes())?,
                (file, _) => file.to_owned(),
            };
            words.add("secret", &format!("id={id},src={path}"));
        }
        for (key, value) in &build.additional_contexts.0 {
            let image = value.strip_prefix("service:").map(|other| self.image_of(other));
            let value = image.map_or(value.clone(), |image| format!("docker-image://{image}"));
            words.add("build-context", &format!("{key}={value}"));
        }
        for (id, path) in &build.ssh.0 {
            words.add("ssh", &path.as_ref().map_or(id.clone(), |p| format!("{id}={p}")));
        }
        for agent in self.call.given.all("ssh") {
            words.add("ssh", if agent.is_empty() { "default" } else { agent });
        }
        Ok(())
    }

    fn image_of(&self, service: &str) -> String {
        let all = self.project.services.get(service);
        let found = all.or_else(|| self.project.disabled.get(service));
        let image = found.map(|s| s.image_or_default(&self.project.name, service));
        image.unwrap_or_else(|| service.to_owned())
    }

    /// Everything that is one flag.
    fn options(&self, words: &mut Words) {
        let (build, given) = (self.build, &self.call.given);
        let progress = match (self.call.group.text("progress"), given.text("progress")) {
            ("json", _) | ("", "json") => "rawjson",
            ("none", _) | ("", "none") => "quiet",
            ("", mode) | (mode, _) => mode,
        };
        let chosen = |flag: &str, written: &str| match given.text(flag) {
            "" => written.to_owned(),
            text => text.to_owned(),
        };
        let platforms = match build.platforms.is_empty() {
            true => self.service.platform.clone(),
            false => build.platforms.join(","),
        };
        for (flag, value) in [
            ("target", &build.target),
            ("network", &build.network),
            ("platform", &platforms),
            ("progress", &progress.to_owned()),
            ("provenance", &chosen("provenance", &build.provenance)),
            ("sbom", &chosen("sbom", &build.sbom)),
        ] {
            if !value.is_empty() {
                words.add(flag, value);
            }
        }
        build.extra_hosts.lines(":").iter().for_each(|host| words.add("add-host", host));
        build.cache_from.iter().for_each(|from| words.add("cache-from", from));
        build.cache_to.iter().for_each(|to| words.add("cache-to", to));
        build.entitlements.iter().for_each(|entitlement| words.add("allow", entitlement));
        for (name, limit) in &build.ulimits {
            let or = |n: i64| if n == 0 { limit.single } else { n };
            words.add("ulimit", &format!("{name}={}:{}", or(limit.soft), or(limit.hard)));
        }
        for (flag, bytes) in [("shm-size", build.shm_size.0), ("memory", given.bytes("memory"))] {
            if bytes > 0 {
                words.add(flag, &bytes.to_string());
            }
        }
        for (flag, on) in [
            ("no-cache", build.no_cache || given.on("no-cache")),
            ("pull", build.pull || given.on("pull")),
            ("check", given.on("check")),
        ] {
            if on {
                words.add(flag, "true");
            }
        }
        words.add("tag", self.image);
        build.tags.iter().for_each(|tag| words.add("tag", tag));
    }
}

/// A command line of `build`, and files for it that go when it is over.
#[derive(Default)]
struct Words {
    list: Vec<String>,
    files: Vec<PathBuf>,
}

impl Words {
    fn add(&mut self, flag: &str, value: &str) {
        self.list.push(format!("--{flag}={value}"));
    }

    /// A file with this content that only its owner reads.
    fn file(&mut self, content: &[u8]) -> Result<String, Failure> {
        let path = wharf_base::fs::temp_beside(&std::env::temp_dir().join("wharf-compose"));
        let shown = path.display().to_string();
        let failed = |e: std::io::Error| Failure::new(format!("open {shown}: {}", os_text(&e)));
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        self.files.push(path);
        file.write_all(content).map_err(failed)?;
        Ok(shown)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        for path in &self.files {
            // Nothing can be done about one that has gone already.
            drop(std::fs::remove_file(path));
        }
    }
}

fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}
