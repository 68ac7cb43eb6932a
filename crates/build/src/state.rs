//! What a stage has become so far: its files, its config, its variables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_image::{Image, Layer, Lease};
use wharf_spec::digest::Digest;
use wharf_spec::dockerfile::expand::{ExpandError, Expanded, Lexer};
use wharf_spec::dockerfile::instruction::Pairs;
use wharf_spec::dockerfile::{Command, Health};
use wharf_spec::image::{HealthCheck, History, ImageConfig, RunConfig};
use wharf_spec::platform::Platform;

use crate::built::Built;
use crate::inline::Remembered;

/// What BuildKit writes as the comment of each step of its own.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// Proxies: known without a declaration, in the environment of each `RUN`, and part of no cache key and no history.
pub(crate) const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// A stage in the making, or the image that it starts from.
#[derive(Clone)]
pub(crate) struct State {
    /// Base first.
    pub(crate) layers: Vec<Layer>,
    /// What keeps them.
    pub(crate) leases: Vec<Arc<Lease>>,
    /// Config without its run-time part.
    pub(crate) config: ImageConfig,
    /// The run-time part.
    pub(crate) run: RunConfig,
    /// `ARG`s in effect: name and value.
    pub(crate) args: Vec<(String, Option<String>)>,
    /// `CMD` was set by this stage: a later `ENTRYPOINT` leaves it.
    pub(crate) cmd_is_own: bool,
    /// `WORKDIR` was set by this stage.
    pub(crate) workdir_is_own: bool,
    /// The steps that made it.
    pub(crate) steps: Vec<Remembered>,
}

impl State {
    /// `FROM scratch`.
    pub(crate) fn scratch(platform: &Platform) -> State {
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        config.rootfs.kind = "layers".into();
        State {
            layers: Vec::new(),
            leases: Vec::new(),
            config,
            run: RunConfig {
                env: vec![
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                ],
                working_dir: "/".into(),
                ..RunConfig::default()
            },
            args: Vec::new(),
            cmd_is_own: false,
            workdir_is_own: false,
            steps: Vec::new(),
        }
    }

    /// From an image.
    pub(crate) fn of(image: &Image, lease: Lease) -> State {
        let mut config = image.config().clone();
        let run = config.config.take().unwrap_or_default();
        // What old builders wrote about the container that they committed.
        (config.container, config.container_config) = (String::new(), None);
        State {
            layers: image.layers().to_vec(),
            leases: vec![Arc::new(lease)],
            config,
            run,
            args: Vec::new(),
            cmd_is_own: false,
            workdir_is_own: false,
            steps: Vec::new(),
        }
    }

    /// From another build's result.
    pub(crate) fn built(built: &Built) -> State {
        let mut state = State::scratch(&built.platform());
        state.layers = built.layers.clone();
        state.leases = built.leases.clone();
        state.config = built.config.clone();
        state.run = state.config.config.take().unwrap_or_default();
        state
    }

    /// A stage that starts from this one.
    pub(crate) fn child(&self) -> State {
        State { cmd_is_own: false, workdir_is_own: false, ..self.clone() }
    }

    /// Where programs run. A base image that names no directory stays without one, as BuildKit leaves it.
    pub(crate) fn cwd(&self) -> String {
        absolute(&self.run.working_dir, "")
    }

    /// What identifies its files.
    pub(crate) fn chain(&self) -> String {
        self.layers.last().map_or_else(|| "scratch".into(), |l| l.chain_id.to_string())
    }

    /// What identifies it as an image: its files, its config, and when it was made.
    pub(crate) fn identity(&self) -> String {
        let config = &self.config;
        let all = serde_json::json!({
            "chain": self.chain(), "run": self.run, "created": config.created, "author": config.author,
            "platform": config.platform().to_string(),
        });
        Digest::sha256(all.to_string().as_bytes()).to_string()
    }

    /// The value of a variable: `ENV` before `ARG`.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let env =
            self.run.env.iter().rev().find_map(|e| {
                e.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
            });
        env.or_else(|| self.args.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.clone()))
    }

    /// Whether the name is declared, with a value or without.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.args.iter().any(|(n, _)| n == name) || self.variable(name).is_some()
    }

    /// One word with its variables replaced.
    pub(crate) fn expand(&self, lexer: &Lexer, text: &str) -> Result<Expanded, ExpandError> {
        lexer.word(text, &|name: &str| self.variable(name))
    }

    /// Names that can be meant.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let env = self.run.env.iter().filter_map(|e| e.split_once('=')).map(|(n, _)| n.to_owned());
        env.chain(self.args.iter().map(|(n, _)| n.clone())).collect()
    }

    /// `ARG`
    pub(crate) fn declare(&mut self, name: &str, value: Option<String>) {
        self.args.retain(|(n, _)| n != name);
        self.args.push((name.to_owned(), value));
    }

    /// `ENV`
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.run.env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
            Some(old) => *old = entry,
            None => self.run.env.push(entry),
        }
    }

    /// The `ARG`s that a `RUN` sees: those with a value that no `ENV` hides.
    pub(crate) fn visible_args(&self) -> Vec<(String, String)> {
        let hidden = |n: &str| self.run.env.iter().any(|e| e.split('=').next() == Some(n));
        let pairs = self.args.iter().filter(|(n, _)| !hidden(n));
        pairs.filter_map(|(n, v)| Some((n.clone(), v.clone()?))).collect()
    }

    /// The shell of shell forms.
    pub(crate) fn shell(&self) -> Vec<String> {
        self.run.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()])
    }

    /// A command as a list of arguments.
    pub(crate) fn arguments(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut all = self.shell();
                all.push(text.clone());
                all
            }
        }
    }

    /// `CMD`
    pub(crate) fn set_cmd(&mut self, command: &Command) {
        self.run.cmd = Some(self.arguments(command));
        self.cmd_is_own = true;
    }

    /// `ENTRYPOINT`: an inherited `CMD` belonged to the old one.
    pub(crate) fn set_entrypoint(&mut self, command: &Command) {
        let empty = matches!(command, Command::Shell(text) if text.is_empty());
        self.run.entrypoint = Some(if empty { Vec::new() } else { self.arguments(command) });
        if !self.cmd_is_own {
            self.run.cmd = None;
        }
    }

    /// `WORKDIR`; returns the absolute path.
    pub(crate) fn set_workdir(&mut self, path: &str) -> String {
        let absolute = absolute(&self.run.working_dir, path);
        self.run.working_dir.clone_from(&absolute);
        self.workdir_is_own |= path.starts_with('/');
        absolute
    }

    /// `HEALTHCHECK`
    pub(crate) fn set_health(&mut self, health: &Health) {
        self.run.healthcheck = Some(match health {
            Health::None => HealthCheck { test: vec!["NONE".into()], ..HealthCheck::default() },
            Health::Check { command, interval, timeout, start_period, start_interval, retries } => {
                let test = match command {
                    Command::Exec(words) => [vec!["CMD".to_owned()], words.clone()].concat(),
                    Command::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
                };
                HealthCheck {
                    test,
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        });
    }

    /// `LABEL`
    pub(crate) fn set_labels(&mut self, labels: impl IntoIterator<Item = (String, String)>) {
        self.run.labels.get_or_insert_default().extend(labels);
    }

    /// Adds a line to the history.
    pub(crate) fn log(&mut self, created: &str, created_by: String, empty_layer: bool) {
        self.config.created = Some(created.to_owned());
        self.config.history.push(History {
            created: Some(created.to_owned()),
            created_by,
            comment: COMMENT.into(),
            empty_layer,
            ..History::default()
        });
    }

    /// The config of an image of it.
    pub(crate) fn image_config(&self) -> ImageConfig {
        let mut config = self.config.clone();
        config.config = Some(self.run.clone());
        config.rootfs.kind = "layers".into();
        config.rootfs.diff_ids = self.layers.iter().map(|l| l.diff_id.clone()).collect();
        // Of an older builder, and about another image.
        config.docker_version = String::new();
        config.other.remove("moby.buildkit.buildinfo.v1");
        config.other.remove("moby.buildkit.cache.v0");
        config.other.remove("wharf.build.cache");
        config
    }
}

/// `80`, `80-82/udp`, to `port/protocol`; `None` for what is no port.
pub(crate) fn expose(word: &str) -> Option<String> {
    // An address or a port of the host in front means nothing in an image.
    let word = word.rsplit(':').next().unwrap_or(word);
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let number = |p: &str| p.parse::<u16>().ok();
    let fine = match ports.split_once('-') {
        Some((low, high)) => matches!((number(low), number(high)), (Some(a), Some(b)) if a <= b),
        None => number(ports).is_some(),
    };
    let protocol = protocol.to_ascii_lowercase();
    (fine && matches!(protocol.as_str(), "tcp" | "udp" | "sctp"))
        .then(|| format!("{ports}/{protocol}"))
}

/// Each port of a range by itself, as an image config lists them.
pub(crate) fn ports(exposed: &str) -> Vec<String> {
    let (ports, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
    match ports.split_once('-').map(|(a, b)| (a.parse::<u16>(), b.parse::<u16>())) {
        Some((Ok(a), Ok(b))) => (a..=b).map(|p| format!("{p}/{protocol}")).collect(),
        _ => vec![exposed.to_owned()],
    }
}

/// `path` below `base`, cleaned; `..` stops at the root.
pub(crate) fn absolute(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    format!("/{}", wharf_spec::dockerfile::ignore::clean(&whole))
}

/// A list of pairs as the history shows it.
pub(crate) fn shown_pairs(pairs: &Pairs, values: &BTreeMap<usize, (String, String)>) -> String {
    (0..pairs.pairs.len())
        .filter_map(|n| values.get(&n))
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::scratch(&Platform::host())
    }

    #[test]
    fn env_hides_args() {
        let mut s = state();
        s.declare("A", Some("arg".into()));
        s.declare("B", None);
        assert_eq!(s.variable("A").as_deref(), Some("arg"));
        assert!(s.knows("B") && s.variable("B").is_none());
        s.set_env("A", "env");
        assert_eq!(s.variable("A").as_deref(), Some("env"));
        assert!(s.visible_args().is_empty());
    }

    #[test]
    fn an_entrypoint_drops_an_inherited_command_only() {
        let mut s = state();
        s.run.cmd = Some(vec!["old".into()]);
        s.set_entrypoint(&Command::Exec(vec!["e".into()]));
        assert_eq!(s.run.cmd, None);
        s.set_cmd(&Command::Shell("x".into()));
        s.set_entrypoint(&Command::Exec(vec!["f".into()]));
        assert_eq!(s.run.cmd.unwrap(), ["/bin/sh", "-c", "x"]);
    }

    #[test]
    fn working_directories_add_up() {
        let mut s = state();
        assert_eq!(s.set_workdir("a"), "/a");
        assert_eq!(s.set_workdir("b/../c"), "/a/c");
        assert_eq!(s.set_workdir("/x/"), "/x");
        assert_eq!(s.set_workdir("../../.."), "/");
    }

    #[test]
    fn ports_are_checked_and_spread() {
        assert_eq!(expose("80").as_deref(), Some("80/tcp"));
        assert_eq!(expose("127.0.0.1:80:81/UDP").as_deref(), Some("81/udp"));
        assert_eq!(ports(&expose("5-7").unwrap()), ["5/tcp", "6/tcp", "7/tcp"]);
        for bad in ["x", "70000", "7-5", "80/xyz"] {
            assert_eq!(expose(bad), None, "{bad}");
        }
    }
}
