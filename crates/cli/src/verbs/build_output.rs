//! What becomes of the result of `build`: an image, its names in registries, files, archives.

use std::io::Write as _;
use std::path::Path;

use http::Method;
use serde_json::{Map, Value, json};

use super::build_cache::PACKING;
use super::unpack::{Place, unpack};
use super::{Outcome, text};
use crate::api::{Client, Payload, next, segment, url};
use crate::app::{Call, say};
use crate::failure::{Failure, os_text};
use crate::out::progress::Target;
use crate::parse::csv;

/// Where the result goes besides the image store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    Image,
    Local(String),
    Tar(String),
    Archive(String),
    /// An OCI layout as a directory.
    Layout(String),
    /// The names of the image, at their registries.
    Push,
}

/// What `--output` and `--push` ask for.
pub(super) fn outputs(call: &Call) -> Result<Vec<Output>, Failure> {
    let mut out = Vec::new();
    for text in call.given.all("output") {
        out.push(output(text)?);
    }
    if call.given.on("push") {
        out.push(Output::Push);
    }
    if out.contains(&Output::Push) && call.given.all("tag").is_empty() {
        return Err("--push: the image needs a name with its registry: give one with -t".into());
    }
    if out.is_empty() {
        out.push(Output::Image);
    }
    Ok(out)
}

fn output(text: &str) -> Result<Output, Failure> {
    if text == "-" {
        return Ok(Output::Tar("-".into()));
    }
    if !text.contains('=') {
        return Ok(Output::Local(text.to_owned()));
    }
    let fields = csv(text)?;
    let pairs = || fields.iter().filter_map(|f| f.split_once('='));
    let field = |key: &str| pairs().find(|(k, _)| *k == key).map(|(_, v)| v.to_owned());
    let mut known: Vec<&str> = match field("type").as_deref() {
        Some("oci" | "docker") => vec!["type", "dest", "tar"],
        Some("image") => vec!["type", "push"],
        _ => vec!["type", "dest"],
    };
    if is_of_image(&fields) {
        known.extend(PACKING);
    }
    // What the engine does anyway may be asked for.
    let ours = |k: &str, v: &str| (k, v) == ("oci-mediatypes", "true");
    if let Some((key, _)) = pairs().find(|(k, v)| !known.contains(k) && !ours(k, v)) {
        return Err(Failure::new(format!(
            "--output {text}: {key} is not supported by wharf: leave it out; known are {}",
            known.join(", ")
        )));
    }
    let is = |key: &str, value: &str| field(key).as_deref() == Some(value);
    let dest = || {
        field("dest").ok_or_else(|| Failure::new(format!("dest is required in --output {text}")))
    };
    match field("type").as_deref() {
        Some("local") => dest().map(Output::Local),
        Some("tar") => dest().map(Output::Tar),
        Some("docker") if field("dest").is_none() => Ok(Output::Image),
        Some("docker" | "oci") if is("tar", "false") => dest().map(Output::Layout),
        Some("docker" | "oci") => dest().map(Output::Archive),
        Some("image") if is("push", "true") => Ok(Output::Push),
        Some("image" | "cacheonly") => Ok(Output::Image),
        Some("registry") => Ok(Output::Push),
        other => Err(Failure::new(format!(
            "unknown output type {:?}: use local, tar, oci, docker or image",
            other.unwrap_or_default()
        ))),
    }
}

/// Whether the fields of an output are of one that has layers.
fn is_of_image(fields: &[String]) -> bool {
    let kinds = ["type=oci", "type=docker", "type=image", "type=registry"];
    fields.iter().any(|f| kinds.contains(&f.as_str()))
}

/// How the outputs want the layers of the image packed: there is one image for all of them.
pub(super) fn packing(call: &Call) -> Result<Map<String, Value>, Failure> {
    let mut wanted = Vec::new();
    for text in call.given.all("output") {
        let fields = csv(text)?;
        let options: Map<String, Value> = fields
            .iter()
            .filter_map(|f| f.split_once('='))
            .filter(|(k, _)| PACKING.contains(k))
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect();
        if is_of_image(&fields) {
            wanted.push(options);
        }
    }
    if call.given.on("push") {
        wanted.push(Map::new());
    }
    let first = wanted.first().cloned().unwrap_or_default();
    match wanted.iter().all(|w| *w == first) {
        true => Ok(first),
        false => Err("--output: the layers of an image are packed in one way: give every output the same compression (--push is type=registry), or build once for each".into()),
    }
}

/// Gives the result to everybody who asked for it.
pub(super) async fn deliver(call: &Call, client: &Client, id: &str, outputs: &[Output]) -> Outcome {
    let write = |path: &str, content: &[u8]| {
        std::fs::File::create(path)
            .and_then(|mut f| f.write_all(content))
            .map_err(|e| Failure::new(format!("cannot write {path}: {}", os_text(&e))))
    };
    if call.given.changed("iidfile") {
        write(call.given.text("iidfile"), id.as_bytes())?;
    }
    if call.given.changed("metadata-file") {
        let image = client.get(&format!("/images/{}/json", segment(id))).await?;
        let facts = json!({
            "containerimage.config.digest": id,
            "containerimage.digest": image["Descriptor"]["digest"],
            "containerimage.descriptor": image["Descriptor"],
            "image.name": call.given.all("tag").join(","),
        });
        let facts = serde_json::to_vec_pretty(&facts).unwrap_or_default();
        write(call.given.text("metadata-file"), &facts)?;
    }
    // An archive has the names that were given.
    let tags = call.given.all("tag");
    let names: Vec<(&str, &str)> = match tags {
        [] => vec![("names", id)],
        tags => tags.iter().map(|tag| ("names", tag.as_str())).collect(),
    };
    for output in outputs {
        match output {
            Output::Image => {}
            Output::Archive(dest) => save(client, &url("/images/get", &names), dest).await?,
            Output::Layout(dest) => fill(client, &url("/images/get", &names), dest).await?,
            Output::Push => {
                for tag in tags {
                    let name = crate::parse::reference::parse(tag)?.with_default_tag();
                    super::push::send(call, &name, "", Target::Nowhere).await?;
                }
            }
            Output::Tar(dest) => files(client, id, dest, false).await?,
            Output::Local(dest) => files(client, id, dest, true).await?,
        }
    }
    let kept = outputs.contains(&Output::Image) || !call.given.all("tag").is_empty();
    if !kept {
        discard(client, id).await;
    }
    Ok(())
}

/// Removes an image whose files were all that was asked for, unless it is an older one that has a name. The cache keeps
/// its layers.
async fn discard(client: &Client, id: &str) {
    let path = format!("/images/{}", segment(id));
    let Ok(image) = client.get(&format!("{path}/json")).await else { return };
    if image["RepoTags"].as_array().is_none_or(Vec::is_empty) {
        // What is left is an image without a name, which a prune removes.
        drop(client.delete(&format!("{path}?noprune=1")).await);
    }
}

/// Whether the results for several platforms can go where they are asked for.
pub(super) fn takes_several(call: &Call, outputs: &[Output]) -> Outcome {
    for flag in ["tag", "iidfile", "metadata-file", "cache-to", "check"] {
        if call.given.changed(flag) {
            return Err(Failure::new(format!(
                "--{flag} is for one --platform: the engine keeps images of one platform under a name; build each under a name of its own and join them with wharf manifest create"
            )));
        }
    }
    let fine = |o: &Output| matches!(o, Output::Archive(_) | Output::Layout(_) | Output::Local(_));
    match outputs.iter().all(fine) {
        true => Ok(()),
        false => Err("several platforms need --output type=oci or type=local".into()),
    }
}

/// Gives the results for several platforms: an archive lists all, a directory has one for each.
pub(super) async fn deliver_several(
    client: &Client,
    made: &[(String, String)],
    outputs: &[Output],
) -> Outcome {
    let names: Vec<(&str, &str)> = made.iter().map(|(_, id)| ("names", id.as_str())).collect();
    for output in outputs {
        match output {
            Output::Archive(dest) => save(client, &url("/images/get", &names), dest).await?,
            Output::Layout(dest) => fill(client, &url("/images/get", &names), dest).await?,
            Output::Local(dest) => {
                for (platform, id) in made {
                    let below = Path::new(dest).join(platform.replace('/', "_"));
                    files(client, id, &below.display().to_string(), true).await?;
                }
            }
            Output::Image | Output::Push | Output::Tar(_) => {}
        }
    }
    for (_, id) in made {
        discard(client, id).await;
    }
    Ok(())
}

/// The image's files, by way of a container that never runs.
async fn files(client: &Client, id: &str, dest: &str, unpacked: bool) -> Outcome {
    let body = json!({ "Image": id, "Cmd": ["none"], "Entrypoint": [] });
    let made = client.post("/containers/create", Payload::Json(body)).await?;
    let container = text(&made, "Id").to_owned();
    let path = format!("/containers/{}/export", segment(&container));
    let done = match unpacked {
        false => save(client, &path, dest).await,
        true => fill(client, &path, dest).await,
    };
    client.delete(&format!("/containers/{}", segment(&container))).await?;
    done
}

/// Unpacks what the engine sends into a directory.
pub(super) async fn fill(client: &Client, path: &str, dest: &str) -> Outcome {
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {dest}: {}", os_text(&e)));
    std::fs::create_dir_all(dest).map_err(failed)?;
    let temporary = wharf_base::fs::temp_beside(Path::new(dest));
    let name = temporary.display().to_string();
    let saved = save(client, path, &name).await;
    let place = Place { directory: dest.into(), rename: None, keep_owner: false };
    let done = saved.and_then(|()| {
        let file = std::fs::File::open(&temporary).map_err(failed)?;
        unpack(std::io::BufReader::new(file), &place).map(drop)
    });
    // What is left is a temporary file that the message need not mention.
    drop(std::fs::remove_file(&temporary));
    done
}

async fn save(client: &Client, path: &str, dest: &str) -> Outcome {
    let mut body = client.send(Method::GET, path, Payload::Empty, &[]).await?.into_body();
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {dest}: {}", os_text(&e)));
    let mut file = match dest {
        "-" => None,
        dest => Some(std::fs::File::create(dest).map_err(failed)?),
    };
    while let Some(bytes) = next(&mut body).await? {
        match &mut file {
            None => say(&bytes)?,
            Some(file) => file.write_all(&bytes).map_err(failed)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_have_dockers_forms() {
        assert_eq!(output("out").unwrap(), Output::Local("out".into()));
        assert_eq!(output("-").unwrap(), Output::Tar("-".into()));
        assert_eq!(output("type=tar,dest=x.tar").unwrap(), Output::Tar("x.tar".into()));
        assert_eq!(output("type=oci,dest=x").unwrap(), Output::Archive("x".into()));
        assert!(output("type=local").is_err() && output("type=zip,dest=x").is_err());
        assert_eq!(output("type=oci,dest=x,tar=false").unwrap(), Output::Layout("x".into()));
        assert_eq!(output("type=image,push=true").unwrap(), Output::Push);
        assert_eq!(
            output("type=oci,dest=x,compression=zstd").unwrap(),
            Output::Archive("x".into())
        );
        let refused = output("type=tar,dest=x,compression=zstd").unwrap_err().text;
        assert!(refused.contains("compression is not supported by wharf: leave it out"));
    }
}
