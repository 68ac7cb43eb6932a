//! `push`.

use http::Method;
use serde_json::{Value, json};

use super::Outcome;
use crate::api::{JsonStream, Payload, image_path, url};
use crate::app::{Call, say_line};
use crate::conf::auth;
use crate::failure::Failure;
use crate::out::progress::{Target, show};
use crate::parse::reference;

/// `push NAME[:TAG]`
pub async fn push(call: Call) -> Outcome {
    let given = &call.given;
    let (all, quiet) = (given.on("all-tags"), given.on("quiet"));
    let mut name = reference::parse(&call.args()[0])?;
    if name.digest.is_some() {
        return Err("cannot push a digest reference".into());
    }
    if all && name.tag.is_some() {
        return Err("tag can't be used with --all-tags/-a".into());
    }
    if !all {
        if name.tag.is_none() && !quiet {
            say_line("Using default tag: latest")?;
        }
        name = name.with_default_tag();
    }
    let platform = match given.text("platform") {
        "" => String::new(),
        text => platform(text)?.to_string(),
    };
    let tag = name.tag.clone().unwrap_or_default();
    let target = if quiet { Target::Nowhere } else { Target::Stdout };
    send(&call, &name, &platform, target).await?;
    match quiet {
        true if tag.is_empty() => say_line(name.full_name()),
        true => say_line(format!("{}:{tag}", name.full_name())),
        false => Ok(()),
    }
}

/// Pushes what a name names; without a tag every tag of it.
pub(super) async fn send(
    call: &Call,
    name: &reference::Name,
    platform: &str,
    target: Target,
) -> Outcome {
    let tag = name.tag.clone().unwrap_or_default();
    let query = [("tag", tag.as_str()), ("platform", platform)];
    let path = url(&format!("/images/{}/push", image_path(&name.full_name())), &query);
    let header = auth::header(call.session.config(), &name.domain)?;
    let headers = [("X-Registry-Auth", header)];
    let response = call.client()?.send(Method::POST, &path, Payload::Empty, &headers).await?;
    show(JsonStream::new(response), target, |_| ()).await
}

/// `os[/arch[/variant]]` as the API takes it.
fn platform(text: &str) -> Result<Value, Failure> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [os, arch] => Ok(json!({"os": os, "architecture": arch})),
        [os, arch, variant] => Ok(json!({"os": os, "architecture": arch, "variant": variant})),
        _ => Err(Failure::new(format!("invalid platform {text:?}: want os/arch[/variant]"))),
    }
}
