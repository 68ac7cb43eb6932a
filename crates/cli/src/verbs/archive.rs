//! `save`, `load`, `import` and `export`: images and file systems as tar files.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::pin::Pin;

use http::Method;
use tokio::io::AsyncRead;

use super::Outcome;
use super::images::platform_json;
use crate::api::{JsonStream, Payload, next, segment, url};
use crate::app::{Call, say};
use crate::failure::{Failure, os_text};
use crate::out::progress::{Target, show};
use crate::parse::reference;

type Input = Pin<Box<dyn AsyncRead + Send>>;

async fn open(path: &str) -> Result<Input, Failure> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|e| Failure::new(format!("open {path}: {}", os_text(&e))))?;
    Ok(Box::pin(file))
}

/// Writes an answer's body to a file, which appears only when it is complete; or to standard output.
async fn deliver(response: http::Response<hyper::body::Incoming>, output: &str) -> Outcome {
    let mut body = response.into_body();
    if output.is_empty() {
        while let Some(bytes) = next(&mut body).await? {
            say(&bytes)?;
        }
        return Ok(());
    }
    let target = Path::new(output);
    let failed =
        |e: std::io::Error| Failure::new(format!("cannot write {output}: {}", os_text(&e)));
    // Into /dev/null and the like there is no renaming.
    if target.exists() && !target.is_file() {
        let mut file = std::fs::File::options().write(true).open(target).map_err(failed)?;
        while let Some(bytes) = next(&mut body).await? {
            file.write_all(&bytes).map_err(failed)?;
        }
        return Ok(());
    }
    let temporary = wharf_base::fs::temp_beside(target);
    let write = async {
        let mut file = std::fs::File::create(&temporary).map_err(failed)?;
        while let Some(bytes) = next(&mut body).await? {
            file.write_all(&bytes).map_err(failed)?;
        }
        std::fs::rename(&temporary, target).map_err(failed)
    };
    let result = write.await;
    if result.is_err() {
        // What is left is a temporary file that the message need not mention.
        drop(std::fs::remove_file(&temporary));
    }
    result
}

fn check_output(output: &str, verb: &str) -> Outcome {
    if output.is_empty() && std::io::stdout().is_terminal() {
        return Err("cowardly refusing to save to a terminal. Use the -o flag or redirect".into());
    }
    let parent = Path::new(output).parent().filter(|p| !p.as_os_str().is_empty());
    match parent {
        Some(dir) if !dir.is_dir() => Err(Failure::new(format!(
            "failed to {verb}: invalid output path: directory {} does not exist",
            crate::parse::quote(&dir.display().to_string())
        ))),
        _ if Path::new(output).is_dir() => Err(Failure::new(format!(
            "failed to {verb}: invalid output path: {} must be a regular file",
            crate::parse::quote(output)
        ))),
        _ => Ok(()),
    }
}

/// `save IMAGE...`
pub async fn save(call: Call) -> Outcome {
    let output = call.given.text("output");
    check_output(output, "save image")?;
    let mut query: Vec<(&str, &str)> = call.args().iter().map(|n| ("names", n.as_str())).collect();
    let platforms: Result<Vec<String>, Failure> =
        call.given.all("platform").iter().map(|p| platform_json(p)).collect();
    let platforms = platforms?;
    query.extend(platforms.iter().map(|p| ("platform", p.as_str())));
    let path = url("/images/get", &query);
    let response = call.client()?.send(Method::GET, &path, Payload::Empty, &[]).await?;
    deliver(response, output).await
}

/// `export CONTAINER`
pub async fn export(call: Call) -> Outcome {
    let output = call.given.text("output");
    check_output(output, "export container")?;
    let path = format!("/containers/{}/export", segment(&call.args()[0]));
    let response = call.client()?.send(Method::GET, &path, Payload::Empty, &[]).await?;
    deliver(response, output).await
}

/// `load`
pub async fn load(call: Call) -> Outcome {
    let given = &call.given;
    let input: Input = match given.text("input") {
        "" if std::io::stdin().is_terminal() => {
            return Err("requested load from stdin, but stdin is empty".into());
        }
        "" => Box::pin(tokio::io::stdin()),
        path => open(path).await?,
    };
    let quiet = given.on("quiet") || !std::io::stdout().is_terminal();
    let platforms: Result<Vec<String>, Failure> =
        given.all("platform").iter().map(|p| platform_json(p)).collect();
    let platforms = platforms?;
    let mut query = vec![("quiet", if quiet { "1" } else { "0" })];
    query.extend(platforms.iter().map(|p| ("platform", p.as_str())));
    let path = url("/images/load", &query);
    let payload = Payload::Stream(input, "application/x-tar");
    let response = call.client()?.send(Method::POST, &path, payload, &[]).await?;
    show(JsonStream::new(response), Target::Stdout, |_| ()).await
}

/// `import file|URL|- [REPOSITORY[:TAG]]`
pub async fn import(call: Call) -> Outcome {
    let given = &call.given;
    let source = call.args()[0].as_str();
    let remote = source.starts_with("http://") || source.starts_with("https://");
    let mut query = vec![
        ("fromSrc", if remote { source } else { "-" }.to_owned()),
        ("message", given.text("message").to_owned()),
        ("platform", given.text("platform").to_owned()),
    ];
    if let Some(name) = call.args().get(1) {
        let name = reference::parse(name)?;
        query.push(("repo", name.familiar_name()));
        query.push(("tag", name.tag.unwrap_or_default()));
    }
    query.extend(given.all("change").iter().map(|c| ("changes", c.clone())));
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let payload = match source {
        _ if remote => Payload::Empty,
        "-" => Payload::Stream(Box::pin(tokio::io::stdin()), "text/plain"),
        path => Payload::Stream(open(path).await?, "text/plain"),
    };
    let response =
        call.client()?.send(Method::POST, &url("/images/create", &query), payload, &[]).await?;
    show(JsonStream::new(response), Target::Stdout, |_| ()).await
}
