//! The verbs that act on contexts.

use crate::cmdline::Kind::*;
use crate::cmdline::{Args, Verb, flag};
use crate::verbs;

/// The verbs that act on contexts.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        paths: &["context create"],
        aliases: &[],
        usage: &["[OPTIONS] CONTEXT"],
        about: "Create a context\n\nDocker endpoint config:\n\nNAME                DESCRIPTION\nfrom                Copy named context's Docker endpoint configuration\nhost                Docker endpoint on which to connect\nca                  Trust certs signed only by this CA\ncert                Path to TLS certificate file\nkey                 Path to TLS key file\nskip-tls-verify     Skip TLS certificate validation\n\nExample:\n\n$ docker context create my-context --description \"some description\" --docker \"host=tcp://myserver:2376,ca=~/ca-file,cert=~/cert-file,key=~/key-file\"",
        args: Args::Exactly(1),
        interspersed: true,
        flags: &[&[
            flag(Str, "", "description", "Description of the context"),
            flag(StrMap, "", "docker", "set the docker endpoint (default [])"),
            flag(Str, "", "from", "create context from a named context"),
        ]],
        run: |call| Box::pin(verbs::context::create(call)),
    },
    Verb {
        paths: &["context export"],
        aliases: &[],
        usage: &["[OPTIONS] CONTEXT [FILE|-]"],
        about: "Export a context to a tar archive FILE or a tar stream on STDOUT.",
        args: Args::Range(1, 2),
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::context::export(call)),
    },
    Verb {
        paths: &["context import"],
        aliases: &[],
        usage: &["CONTEXT FILE|-"],
        about: "Import a context from a tar or zip file",
        args: Args::Exactly(2),
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::context::import(call)),
    },
    Verb {
        paths: &["context inspect"],
        aliases: &[],
        usage: &["[OPTIONS] [CONTEXT] [CONTEXT...]"],
        about: "Display detailed information on one or more contexts",
        args: Args::Any,
        interspersed: true,
        flags: &[&[flag(
            Str,
            "f",
            "format",
            "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
        )]],
        run: |call| Box::pin(verbs::context::inspect(call)),
    },
    Verb {
        paths: &["context ls", "context list"],
        aliases: &["context ls", "context list"],
        usage: &["[OPTIONS]"],
        about: "List contexts",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(
                Str,
                "",
                "format",
                "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
            ),
            flag(Bool, "q", "quiet", "Only show context names"),
        ]],
        run: |call| Box::pin(verbs::context::ls(call)),
    },
    Verb {
        paths: &["context rm", "context remove"],
        aliases: &["context rm", "context remove"],
        usage: &["CONTEXT [CONTEXT...]"],
        about: "Remove one or more contexts",
        args: Args::AtLeast(1),
        interspersed: true,
        flags: &[&[flag(Bool, "f", "force", "Force the removal of a context in use")]],
        run: |call| Box::pin(verbs::context::rm(call)),
    },
    Verb {
        paths: &["context show"],
        aliases: &[],
        usage: &[""],
        about: "Print the name of the current context",
        args: Args::None,
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::context::show(call)),
    },
    Verb {
        paths: &["context update"],
        aliases: &[],
        usage: &["[OPTIONS] CONTEXT"],
        about: "Update a context\n\nDocker endpoint config:\n\nNAME                DESCRIPTION\nfrom                Copy named context's Docker endpoint configuration\nhost                Docker endpoint on which to connect\nca                  Trust certs signed only by this CA\ncert                Path to TLS certificate file\nkey                 Path to TLS key file\nskip-tls-verify     Skip TLS certificate validation\n\nExample:\n\n$ docker context update my-context --description \"some description\" --docker \"host=tcp://myserver:2376,ca=~/ca-file,cert=~/cert-file,key=~/key-file\"",
        args: Args::Exactly(1),
        interspersed: true,
        flags: &[&[
            flag(Str, "", "description", "Description of the context"),
            flag(StrMap, "", "docker", "set the docker endpoint (default [])"),
        ]],
        run: |call| Box::pin(verbs::context::update(call)),
    },
    Verb {
        paths: &["context use"],
        aliases: &[],
        usage: &["CONTEXT"],
        about: "Set the current docker context",
        args: Args::Any,
        interspersed: true,
        flags: &[],
        run: |call| Box::pin(verbs::context::select(call)),
    },
];
