//! The verbs that act on volumes.

use crate::cmdline::Kind::*;
use crate::cmdline::{Args, Item, Verb, alias, flag};
use crate::verbs;

/// The verbs that act on volumes.
pub(super) const VERBS: &[Verb] = &[
    Verb {
        paths: &["volume create"],
        aliases: &[],
        usage: &["[OPTIONS] [VOLUME]"],
        about: "Create a volume",
        args: Args::AtMost(1),
        interspersed: true,
        flags: &[&[
            flag(
                Str,
                "",
                "availability",
                "Cluster Volume availability (\"active\", \"pause\", \"drain\") (default \"active\")",
            ),
            flag(Str, "d", "driver", "Specify volume driver name (default \"local\")"),
            flag(Str, "", "group", "Cluster Volume group (cluster volumes)"),
            flag(ListOf(Item::Label), "", "label", "Set metadata for a volume"),
            flag(Bytes, "", "limit-bytes", "Minimum size of the Cluster Volume in bytes"),
            alias(Str, "name", "name"),
            flag(Map, "o", "opt", "Set driver specific options (default map[])"),
            flag(Bytes, "", "required-bytes", "Maximum size of the Cluster Volume in bytes"),
            flag(
                Str,
                "",
                "scope",
                "Cluster Volume access scope (\"single\", \"multi\") (default \"single\")",
            ),
            flag(Map, "", "secret", "Cluster Volume secrets (default map[])"),
            flag(
                Str,
                "",
                "sharing",
                "Cluster Volume access sharing (\"none\", \"readonly\", \"onewriter\", \"all\") (default \"none\")",
            ),
            flag(
                List,
                "",
                "topology-preferred",
                "A topology that the Cluster Volume would be preferred in",
            ),
            flag(
                List,
                "",
                "topology-required",
                "A topology that the Cluster Volume must be accessible from",
            ),
            flag(
                Str,
                "",
                "type",
                "Cluster Volume access type (\"mount\", \"block\") (default \"block\")",
            ),
        ]],
        run: |call| Box::pin(verbs::volume::create(call)),
    },
    Verb {
        paths: &["volume inspect"],
        aliases: &[],
        usage: &["[OPTIONS] VOLUME [VOLUME...]"],
        about: "Display detailed information on one or more volumes",
        args: Args::AtLeast(1),
        interspersed: true,
        flags: &[&[flag(
            Str,
            "f",
            "format",
            "Format output using a custom template:\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
        )]],
        run: |call| Box::pin(verbs::inspect::volume(call)),
    },
    Verb {
        paths: &["volume ls", "volume list"],
        aliases: &["volume ls", "volume list"],
        usage: &["[OPTIONS]"],
        about: "List volumes",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(
                Bool,
                "",
                "cluster",
                "Display only cluster volumes, and use cluster volume list formatting",
            ),
            flag(Filter, "f", "filter", "Provide filter values (e.g. \"dangling=true\")"),
            flag(
                Str,
                "",
                "format",
                "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates",
            ),
            flag(Bool, "q", "quiet", "Only display volume names"),
        ]],
        run: |call| Box::pin(verbs::volume::ls(call)),
    },
    Verb {
        paths: &["volume prune"],
        aliases: &[],
        usage: &["[OPTIONS]"],
        about: "Remove unused local volumes",
        args: Args::None,
        interspersed: true,
        flags: &[&[
            flag(Bool, "a", "all", "Remove all unused volumes, not just anonymous ones"),
            flag(Filter, "", "filter", "Provide filter values (e.g. \"label=<label>\")"),
            flag(Bool, "f", "force", "Do not prompt for confirmation"),
        ]],
        run: |call| Box::pin(verbs::prune::volumes(call)),
    },
    Verb {
        paths: &["volume rm", "volume remove"],
        aliases: &["volume rm", "volume remove"],
        usage: &["[OPTIONS] VOLUME [VOLUME...]"],
        about: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        args: Args::AtLeast(1),
        interspersed: true,
        flags: &[&[flag(Bool, "f", "force", "Force the removal of one or more volumes")]],
        run: |call| Box::pin(verbs::volume::rm(call)),
    },
    Verb {
        paths: &["volume update"],
        aliases: &[],
        usage: &["[OPTIONS] [VOLUME]"],
        about: "Update a volume (cluster volumes only)",
        args: Args::Exactly(1),
        interspersed: true,
        flags: &[&[flag(
            Str,
            "",
            "availability",
            "Cluster Volume availability (\"active\", \"pause\", \"drain\") (default \"active\")",
        )]],
        run: |call| Box::pin(verbs::volume::update(call)),
    },
];
