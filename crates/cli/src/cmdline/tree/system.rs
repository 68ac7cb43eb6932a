//! The verbs that act on the engine, registries and objects of any kind.

use crate::cmdline::Kind::*;
use crate::cmdline::{Args, Verb, flag};
use crate::verbs;

/// The verbs that act on the engine, registries and objects of any kind.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        paths: &["version"],
        aliases: &[],
        usage: &["[OPTIONS]"],
        about: "Show the Docker version information",
        args: Args::None,
        interspersed: true,
        flags: &[&[flag(
            Str,
            "f",
            "format",
            "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
        )]],
        run: |call| Box::pin(verbs::version::version(call)),
    },
    Verb {
        paths: &["info", "system info"],
        aliases: &["system info", "info"],
        usage: &["[OPTIONS]"],
        about: "Display system-wide information",
        args: Args::None,
        interspersed: true,
        flags: &[&[flag(
            Str,
            "f",
            "format",
            "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
        )]],
        run: |call| Box::pin(verbs::info::info(call)),
    },
    Verb {
        paths: &["login"],
        aliases: &[],
        usage: &["[OPTIONS] [SERVER]"],
        about: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
        args: Args::AtMost(1),
        interspersed: true,
        flags: &[&[
            flag(Str, "p", "password", "Password or Personal Access Token (PAT)"),
            flag(
                Bool,
                "",
                "password-stdin",
                "Take the Password or Personal Access Token (PAT) from stdin",
            ),
            flag(Str, "u", "username", "Username"),
        ]],
        run: |call| Box::pin(verbs::login::login(call)),
    },
    Verb {
        paths: &["logout"],
        aliases: &[],
        usage: &["[SERVER]"],
        about: "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
        args: Args::AtMost(1),
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::login::logout(call)),
    },
    Verb {
        paths: &["events", "system events"],
        aliases: &["system events", "events"],
        usage: &["[OPTIONS]"],
        about: "Get real time events from the server",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(Filter, "f", "filter", "Filter output based on conditions provided"),
            flag(
                Str,
                "",
                "format",
                "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
            ),
            flag(Str, "", "since", "Show all events created since timestamp"),
            flag(Str, "", "until", "Stream events until this timestamp"),
        ]],
        run: |call| Box::pin(verbs::events::events(call)),
    },
    Verb {
        paths: &["system df"],
        aliases: &[],
        usage: &["[OPTIONS]"],
        about: "Show docker disk usage",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(
                Str,
                "",
                "format",
                "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
            ),
            flag(Bool, "v", "verbose", "Show detailed information on space usage"),
        ]],
        run: |call| Box::pin(verbs::df::df(call)),
    },
    Verb {
        paths: &["system prune"],
        aliases: &[],
        usage: &["[OPTIONS]"],
        about: "Remove unused data",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(Bool, "a", "all", "Remove all unused images not just dangling ones"),
            flag(Filter, "", "filter", "Provide filter values (e.g. \"label=<key>=<value>\")"),
            flag(Bool, "f", "force", "Do not prompt for confirmation"),
            flag(Bool, "", "volumes", "Prune anonymous volumes"),
        ]],
        run: |call| Box::pin(verbs::prune::system(call)),
    },
    Verb {
        paths: &["inspect"],
        aliases: &[],
        usage: &["[OPTIONS] NAME|ID [NAME|ID...]"],
        about: "Return low-level information on Docker objects",
        args: Args::AtLeast(1),
        interspersed: true,
        flags: &[&[
            flag(
                Str,
                "f",
                "format",
                "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
            ),
            flag(Bool, "s", "size", "Display total file sizes if the type is container"),
            flag(Str, "", "type", "Only inspect objects of the given type"),
        ]],
        run: |call| Box::pin(verbs::inspect::any(call)),
    },
];
