//! The verbs of Compose for those who develop: following files, looking at a project from outside.

use crate::cmdline::Kind::*;
use crate::cmdline::{Args, Verb, flag};
use crate::verbs::compose;

/// The verbs.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        paths: &["compose outdated"],
        aliases: &[],
        usage: &["[OPTIONS] [SERVICE...]"],
        about: "List images that are newer in their registry",
        args: Args::Any,
        interspersed: true,
        flags: &[&[
            flag(Bool, "", "exit-code", "Exit with 1 when an image is outdated or missing"),
            flag(Str, "", "format", "Format the output. Values: [table | json]"),
            flag(Bool, "q", "quiet", "Only display the services whose image is outdated"),
        ]],
        run: |call| Box::pin(compose::outdated::outdated(call)),
    },
    Verb {
        paths: &["compose viz", "compose alpha viz"],
        aliases: &[],
        usage: &["[OPTIONS]"],
        about: "EXPERIMENTAL - Generate a graphviz graph from your compose file",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(Bool, "", "image", "Include service's image name in output graph"),
            flag(
                Int,
                "",
                "indentation-size",
                "Number of tabs or spaces to use for indentation (default 1)",
            ),
            flag(Bool, "", "networks", "Include service's attached networks in output graph"),
            flag(Bool, "", "ports", "Include service's exposed ports in output graph"),
            flag(
                Bool,
                "",
                "spaces",
                "If given, space character ' ' will be used to indent,\notherwise tab character '\\t' will be used",
            ),
        ]],
        run: |call| Box::pin(compose::viz::viz(call)),
    },
    Verb {
        paths: &["compose watch"],
        aliases: &[],
        usage: &["[SERVICE...]"],
        about: "Watch build context for service and rebuild/refresh containers when files are updated",
        args: Args::Any,
        interspersed: true,
        flags: &[&[
            flag(Bool, "", "no-up", "Do not build & start services before watching"),
            flag(Bool, "", "prune", "Prune dangling images on rebuild (default true)"),
            flag(Bool, "", "quiet", "hide build output"),
        ]],
        run: |call| Box::pin(compose::watch::watch(call)),
    },
];
