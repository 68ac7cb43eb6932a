//! `buildx ls`, `inspect`, `use` and `version`: the engine is the one builder there is, named as its context is.

use super::{Outcome, text};
use crate::app::{Call, say, say_line};
use crate::conf::context::current;
use crate::failure::Failure;
use crate::out::table::align;

/// What `buildx` would tell of the builder.
struct Builder {
    name: String,
    version: String,
    platform: String,
}

impl Builder {
    async fn of(call: &Call) -> Result<Builder, Failure> {
        let version = call.client()?.get("/version").await?;
        Ok(Builder {
            name: current(&call.session),
            version: text(&version, "Version").to_owned(),
            platform: format!("{}/{}", text(&version, "Os"), text(&version, "Arch")),
        })
    }
}

/// Refuses the name of a builder that is not there. Stock buildx's text.
fn known(call: &Call) -> Outcome {
    let name = current(&call.session);
    match call.args().first() {
        Some(wanted) if *wanted != name && wanted != "default" => Err(format!(
            "no builder {wanted:?} found; the engine is its own builder, named {name:?}"
        )
        .into()),
        _ => Ok(()),
    }
}

/// `buildx ls`
pub async fn ls(call: Call) -> Outcome {
    let Builder { name, version, platform } = Builder::of(&call).await?;
    let text = format!(
        "NAME/NODE\tDRIVER/ENDPOINT\tSTATUS\tBUILDKIT\tPLATFORMS\n{name}*\tdocker\t\t\t\n \\_ {name}\t \\_ {name}\trunning\t{version}\t{platform}\n"
    );
    say(align(&text, 10, 3))
}

/// `buildx inspect [NAME]`. `--bootstrap` has nothing to start.
pub async fn inspect(call: Call) -> Outcome {
    known(&call)?;
    let Builder { name, version, platform } = Builder::of(&call).await?;
    let text = format!(
        "Name:\t{name}\nDriver:\tdocker\n\nNodes:\nName:\t{name}\nEndpoint:\t{name}\nStatus:\trunning\nBuildKit version:\t{version}\nPlatforms:\t{platform}\n"
    );
    say(align(&text, 0, 1))
}

/// `buildx use NAME`: there is nothing to choose between, but the name must be right.
pub async fn select(call: Call) -> Outcome {
    known(&call)
}

/// `buildx version`
pub async fn version(_: Call) -> Outcome {
    say_line(concat!("wharf ", env!("CARGO_PKG_VERSION")))
}
