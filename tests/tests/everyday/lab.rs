//! wharf and Debian's docker.io side by side, building the same things.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wharf_test::host::Engine;
use wharf_test::{Host, Output, image, tools};

/// By which way a build is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// `wharf build`
    Own,
    /// `docker build` without buildx.
    Classic,
    /// `docker buildx build`
    Buildx,
}

/// Two engines with the same base image.
pub(crate) struct Lab {
    pub(crate) wharf: Host,
    docker: Host,
    context: PathBuf,
    /// Where files are allowed to differ in content.
    volatile: &'static [&'static str],
    /// Debian's docker can build it without BuildKit.
    classic: bool,
}

/// What a build left.
#[derive(Debug)]
struct Left {
    files: BTreeMap<String, String>,
    config: Value,
    history: Vec<String>,
}

impl Lab {
    /// Both engines, with the root file system `tools/ROOT` as image `name`.
    pub(crate) fn start(root: &str, name: &str, changes: &[&str]) -> Lab {
        let up = |engine| {
            let mut host = Host::bare(engine);
            host.start_daemon();
            let plugins = tools::path("cli-plugins");
            tools::path("cli-plugins/docker-buildx");
            let config = format!(r#"{{"cliPluginsExtraDirs":[{plugins:?}]}}"#);
            host.write("home/.docker/config.json", config.as_bytes());
            host
        };
        let (wharf, docker) = (up(Engine::Wharf), up(Engine::Dockerd));
        let tar = wharf.write("base.tar", &image::folder_layer(&tools::path(root)));
        for host in [&wharf, &docker] {
            let mut args = vec!["import"];
            changes.iter().for_each(|c| args.extend(["--change", c]));
            args.extend([tar.to_str().unwrap(), name]);
            host.docker(args).exits(0);
        }
        fs::remove_file(tar).unwrap();
        let context = wharf.dir().join("ctx");
        fs::create_dir(&context).unwrap();
        Lab { wharf, docker, context, volatile: &[], classic: true }
    }

    /// Paths below which only names, modes and owners must be equal.
    pub(crate) fn volatile(mut self, below: &'static [&'static str]) -> Lab {
        self.volatile = below;
        self
    }

    /// Debian's docker needs BuildKit for it; wharf does not.
    pub(crate) fn needs_buildkit(mut self) -> Lab {
        self.classic = false;
        self
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Lab {
        let path = self.context.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn context(&self) -> &Path {
        &self.context
    }

    /// Builds through every door, compares everything, changes `path` of the context, and compares again what was
    /// cached. `content` gives ever new content; the last, that of 9, is what `app` has on wharf.
    pub(crate) fn compare(&self, path: &str, content: impl Fn(usize) -> String) {
        let (docker, wharf) = (&self.docker, &self.wharf);
        self.file(path, content(0));
        let reference = self.once(docker, Door::Buildx);
        let mut doors = vec![(wharf, Door::Own), (wharf, Door::Classic), (wharf, Door::Buildx)];
        if self.classic {
            doors.push((docker, Door::Classic));
        }
        for (host, door) in &doors {
            let result = self.once(host, *door);
            let who = format!("{door:?} on {:?}", host.engine());
            assert_eq!(differences(&reference.files, &result.files), "", "files by {who}");
            // Docker's two builders differ in what they make of a base image without a configuration.
            if host.engine() == Engine::Wharf {
                assert_eq!(reference.config, result.config, "configuration by {who}");
                assert_eq!(reference.history, result.history, "history by {who}");
            }
        }
        doors.insert(0, (docker, Door::Buildx));
        let before: Vec<_> = doors.iter().map(|(h, d)| self.cached(h, *d)).collect();
        // wharf's doors share one cache, so each gets a change of its own.
        let changed = |(n, (host, door)): (usize, &(&Host, Door))| {
            self.file(path, content(n + 1));
            self.cached(host, *door)
        };
        let after: Vec<_> = doors.iter().enumerate().map(changed).collect();
        for (n, (host, door)) in doors.iter().enumerate() {
            // The classic builder counts instructions that change no file; docker's own is what its stream is like.
            let like = match (door, host.engine(), self.classic) {
                (Door::Classic, Engine::Wharf, true) => doors.len() - 1,
                (Door::Classic, ..) => continue,
                _ => 0,
            };
            assert_eq!(before[n], before[like], "cached again by {door:?}");
            assert_eq!(after[n], after[like], "cached after a change by {door:?}");
            assert!(after[n].len() < before[n].len(), "{door:?}: {:?}", after[n]);
        }
        self.file(path, content(9));
        self.build(wharf, Door::Own, &[]).exits(0);
    }

    /// Builds without cache and again with it: that gives the same image.
    fn once(&self, host: &Host, door: Door) -> Left {
        self.build(host, door, &["--no-cache"]).exits(0);
        let first = host.inspect("app", "{{.Id}}");
        let result = self.look(host);
        self.build(host, door, &[]).exits(0);
        assert_eq!(host.inspect("app", "{{.Id}}"), first, "cached build by {door:?}");
        result
    }

    fn build(&self, host: &Host, door: Door, more: &[&str]) -> Output {
        let mut command = match door {
            Door::Own => host.client(tools::wharf()),
            Door::Classic | Door::Buildx => host.docker_command(),
        };
        command.env("DOCKER_BUILDKIT", if door == Door::Classic { "0" } else { "1" });
        match door {
            Door::Own => command.args(["build", "--progress", "plain"]),
            Door::Classic => command.arg("build"),
            Door::Buildx => {
                command.args(["buildx", "build", "--progress", "plain", "--provenance=false"])
            }
        };
        command.args(more).args(["-t", "app"]).arg(&self.context);
        Output::of(&mut command, b"")
    }

    /// The instructions that came from the cache.
    fn cached(&self, host: &Host, door: Door) -> Vec<String> {
        let built = self.build(host, door, &[]);
        built.exits(0);
        let mut found = match door {
            Door::Classic => classic_cached(&built.stdout),
            Door::Own | Door::Buildx => plain_cached(&built.stderr),
        };
        found.retain(|step| !step.starts_with("FROM"));
        // The beginning tells them apart; BuildKit shows the rest with its variables replaced.
        let begin = |step: &String| step.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let mut found: Vec<String> = found.iter().map(begin).collect();
        found.sort();
        found
    }

    fn look(&self, host: &Host) -> Left {
        let inspected = host.docker(["image", "inspect", "app"]).json()[0].clone();
        let mut config = serde_json::Map::new();
        for key in [
            "Cmd",
            "Entrypoint",
            "Env",
            "ExposedPorts",
            "Healthcheck",
            "Labels",
            "OnBuild",
            "Shell",
            "StopSignal",
            "User",
            "Volumes",
            "WorkingDir",
        ] {
            let value = &inspected["Config"][key];
            let empty = value.is_null()
                || value == ""
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if !empty {
                config.insert(key.into(), value.clone());
            }
        }
        for key in ["Author", "Architecture", "Os"] {
            config.insert(key.into(), inspected[key].clone());
        }
        let history = host.docker(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "app"]);
        // What the base image says of itself depends on who imported it.
        let history = history.lines().into_iter().filter(|l| l.contains("buildkit")).collect();
        Left { files: self.files(host), config: config.into(), history }
    }

    /// Every file with its kind, mode, owner and content.
    fn files(&self, host: &Host) -> BTreeMap<String, String> {
        let container = host.docker(["create", "app", "none"]).ok();
        let tar = host.dir().join("files.tar");
        host.docker(["export", "-o", tar.to_str().unwrap(), &container]).exits(0);
        host.docker(["rm", &container]).exits(0);
        let mut all = BTreeMap::new();
        let mut archive = tar::Archive::new(fs::File::open(&tar).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
            if made_by_the_engine(&path) {
                continue;
            }
            let header = entry.header();
            let mut facts = format!(
                "{:?} {:o} {} {}",
                header.entry_type(),
                header.mode().unwrap() & 0o7777,
                header.uid().unwrap(),
                header.gid().unwrap()
            );
            if let Some(to) = entry.link_name().unwrap() {
                facts += &format!(" -> {}", to.display());
            }
            if header_is_file(&entry) && !self.volatile.iter().any(|v| path.starts_with(v)) {
                let mut content = Vec::new();
                std::io::copy(&mut entry, &mut content).unwrap();
                facts += &format!(" {}", image::digest(&content));
            }
            all.insert(path, facts);
        }
        fs::remove_file(tar).unwrap();
        linked(all)
    }
}

fn header_is_file(entry: &tar::Entry<'_, fs::File>) -> bool {
    entry.header().entry_type().is_file()
}

/// Which of two hard links is the link depends on the order in which an engine finds them.
fn linked(all: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let follow =
        |facts: &String| match facts.strip_prefix("Link ").and_then(|f| f.split_once(" -> ")) {
            Some((_, to)) => all.get(to.trim_start_matches("./")).unwrap_or(facts).clone(),
            None => facts.clone(),
        };
    all.iter().map(|(path, facts)| (path.clone(), follow(facts))).collect()
}

/// What engines put into every container.
fn made_by_the_engine(path: &str) -> bool {
    ["", ".", ".dockerenv", "etc", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"]
        .contains(&path)
        || ["dev", "proc", "sys"].iter().any(|d| path == *d || path.starts_with(&format!("{d}/")))
}

fn differences(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> String {
    let paths: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = paths.into_iter().filter(|p| one.get(*p) != other.get(*p));
    differ.take(20).map(|p| format!("{p}: {:?}, not {:?}\n", other.get(p), one.get(p))).collect()
}

/// `Step 2/5 : RUN x`, and then ` ---> Using cache`.
fn classic_cached(output: &str) -> Vec<String> {
    let (mut step, mut out) = (String::new(), Vec::new());
    for line in output.lines() {
        if let Some((_, text)) = line.strip_prefix("Step ").and_then(|l| l.split_once(" : ")) {
            text.clone_into(&mut step);
        } else if line.contains("Using cache") {
            out.push(step.clone());
        }
    }
    out
}

/// `#5 [stage 2/5] RUN x`, and then `#5 CACHED`.
fn plain_cached(output: &str) -> Vec<String> {
    let (mut names, mut out) = (BTreeMap::new(), Vec::new());
    for line in output.lines() {
        let Some((number, rest)) = line.split_once(' ').filter(|(n, _)| n.starts_with('#')) else {
            continue;
        };
        if let Some((_, text)) = rest.strip_prefix('[').and_then(|r| r.split_once("] ")) {
            names.insert(number.to_owned(), text.to_owned());
        } else if rest == "CACHED" {
            out.extend(names.get(number).cloned());
        }
    }
    out
}
