//! The tree of verbs, and finding one in it.

mod builds;
mod compose;
mod compose_more;
mod containers;
mod contexts;
mod images;
mod networks;
mod system;
mod volumes;

use super::Kind::*;
use super::{Args, Group, Verb, flag};
use crate::verbs;

pub use compose::GLOBAL as COMPOSE;

/// The flags before the verb.
pub const GLOBAL: Verb = Verb {
    paths: &[""],
    aliases: &[],
    usage: &["[OPTIONS] COMMAND"],
    about: "",
    args: Args::Any,
    interspersed: false,
    flags: &[&[
        flag(Str, "", "config", "Location of client config files (default \"~/.docker\")"),
        flag(
            Str,
            "c",
            "context",
            "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with \"context use\")",
        ),
        flag(Bool, "D", "debug", "Enable debug mode"),
        flag(List, "H", "host", "Daemon socket to connect to"),
        flag(
            Str,
            "l",
            "log-level",
            "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\") (default \"info\")",
        ),
        flag(Bool, "", "tls", "Use TLS; implied by --tlsverify"),
        flag(
            Str,
            "",
            "tlscacert",
            "Trust certs signed only by this CA (default \"~/.docker/ca.pem\")",
        ),
        flag(Str, "", "tlscert", "Path to TLS certificate file (default \"~/.docker/cert.pem\")"),
        flag(Str, "", "tlskey", "Path to TLS key file (default \"~/.docker/key.pem\")"),
        flag(Bool, "", "tlsverify", "Use TLS and verify the remote"),
        flag(Bool, "v", "version", "Print version information and quit"),
    ]],
    run: |_| Box::pin(async { Ok(()) }),
};

/// The verbs that have no counterpart in docker's help, or are hidden in it.
const OWN: &[Verb] = &[
    Verb {
        paths: &["completion"],
        aliases: &[],
        usage: &["bash|zsh|fish"],
        about: "Print the completion script of a shell",
        args: Args::Exactly(1),
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::completion::completion(call)),
    },
    Verb {
        paths: &["system dial-stdio"],
        aliases: &[],
        usage: &[""],
        about: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
        args: Args::None,
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::dial::dial_stdio(call)),
    },
];

/// The words that introduce other words.
pub const GROUPS: &[Group] = &[
    Group { name: "builder", about: "Manage builds" },
    Group { name: "buildx", about: "Manage builds, under the name of docker's plugin" },
    Group { name: "compose", about: "Define and run multi-container applications" },
    Group { name: "container", about: "Manage containers" },
    Group { name: "context", about: "Manage contexts" },
    Group { name: "image", about: "Manage images" },
    Group { name: "network", about: "Manage networks" },
    Group { name: "system", about: "Manage the engine" },
    Group { name: "volume", about: "Manage volumes" },
];

/// The verbs that the help shows first.
pub const COMMON: &[&str] = &[
    "run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version",
    "info",
];

/// What the binary can be besides a command line; a program named `docker` is only that.
pub const PARTS: &[(&str, &str)] = &[
    ("daemon", "Run the engine that containers live in"),
    ("etcd", "Run a member with etcd's API"),
    ("image copy", "Copy an image from one registry to another"),
    ("kube", "Serve the Kubernetes API"),
    ("man", "Write the manual pages into a directory"),
    ("manifest", "Inspect images in registries, and make one of several"),
    ("oci", "Run one container without an engine, with runc's command line"),
    ("registry", "Serve a registry"),
];

/// Docker's words that wharf does not have yet, and what to say about each.
const LATER: &[(&str, &str)] = &[
    ("buildx bake", "it reads bake files, which docker's own plugin does against wharf as well"),
    ("buildx create", "the engine is its own builder, and there is no other"),
    ("buildx history", "docker's own plugin shows it"),
    ("buildx imagetools", "use wharf manifest"),
    ("buildx rm", "the engine is its own builder, and stays"),
    ("buildx stop", "the engine is its own builder, and stays"),
    ("checkpoint", "checkpoints are not implemented"),
    ("compose bridge", "it turns projects into other formats, which wharf does not do"),
    ("compose publish", "publishing projects to a registry is not implemented"),
    ("config", "it belongs to Swarm, which wharf does not implement"),
    ("node", "it belongs to Swarm, which wharf does not implement"),
    ("plugin", "engine plugins are not implemented"),
    ("secret", "it belongs to Swarm, which wharf does not implement"),
    ("service", "it belongs to Swarm, which wharf does not implement"),
    ("stack", "it belongs to Swarm, which wharf does not implement"),
    ("swarm", "wharf does not implement Swarm"),
    ("trust", "Notary signatures are not implemented"),
];

/// The verbs of Compose that change something and can tell what without doing it.
pub const TRIED: &[&str] = &[
    "up", "create", "scale", "down", "start", "stop", "restart", "kill", "pause", "unpause", "rm",
];

/// The verbs of Compose that change nothing.
const LOOKING: &[&str] = &[
    "config",
    "events",
    "export",
    "images",
    "logs",
    "ls",
    "outdated",
    "port",
    "ps",
    "stats",
    "top",
    "version",
    "viz",
    "volumes",
    "alpha viz",
    "convert",
];

/// Whether `--dry-run` makes sense with a verb of Compose.
pub fn can_be_tried(path: &str) -> bool {
    let verb = path.strip_prefix("compose ").unwrap_or(path);
    TRIED.contains(&verb) || LOOKING.contains(&verb)
}

fn all() -> impl Iterator<Item = &'static Verb> {
    [
        builds::VERBS,
        containers::VERBS,
        images::VERBS,
        system::VERBS,
        volumes::VERBS,
        networks::VERBS,
        contexts::VERBS,
        compose::VERBS,
        compose_more::VERBS,
        OWN,
    ]
    .into_iter()
    .flatten()
}

/// The verb that is called like this.
pub fn verb(path: &str) -> Option<&'static Verb> {
    all().find(|v| v.paths.contains(&path))
}

/// The group of this name.
pub fn group(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|g| g.name == name)
}

/// What to say about a word of docker's that wharf does not have.
pub fn later(path: &str) -> Option<&'static str> {
    LATER.iter().find(|(name, _)| *name == path).map(|(_, why)| *why)
}

/// The verbs of a group under the name that its help shows, sorted.
pub fn verbs_of(group: &str) -> Vec<(&'static str, &'static Verb)> {
    let prefix = format!("{group} ");
    let mut list: Vec<(&'static str, &'static Verb)> = all()
        .filter(|v| !["system dial-stdio", "volume update"].contains(&v.paths[0]))
        .filter_map(|v| {
            let path = v.paths.iter().find_map(|p| p.strip_prefix(&prefix))?;
            Some((path, v))
        })
        .collect();
    list.sort_by_key(|(name, _)| *name);
    list
}

/// The verbs of one word that are not among the common ones, sorted.
pub fn top_verbs() -> Vec<&'static str> {
    let mut list: Vec<&str> =
        all().map(|v| v.paths[0]).filter(|p| !p.contains(' ') && !COMMON.contains(p)).collect();
    list.sort_unstable();
    list
}
