//! `wharf image copy` and `wharf manifest`: images between registries, without an engine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{FromArgMatches as _, Subcommand as _};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use wharf_cli::app::{say_line, warn};
use wharf_cli::conf::{Config, auth};
use wharf_image::{Fetched, ProxySettings, Registries, RegistrySettings, Upstream};
use wharf_spec::digest::Digest;
use wharf_spec::dockerconfig::AuthConfig;
use wharf_spec::image::{Descriptor, Document, ImageConfig, media_type};
use wharf_spec::platform::Platform;
use wharf_spec::reference::Reference;

/// Indexes within indexes that are followed.
const DEPTH: usize = 4;
/// Times that a broken download is taken up again.
const ATTEMPTS: u32 = 5;

#[derive(clap::Subcommand)]
enum Verb {
    /// Copy an image from one registry to another
    Copy {
        /// Copy only what is for this platform, os/arch[/variant] (default: everything)
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<Platform>,
        /// Registry that may be spoken to without TLS (repeatable; loopback always may)
        #[arg(long, value_name = "HOST")]
        insecure: Vec<String>,
        /// NAME[:TAG|@DIGEST]
        source: String,
        /// NAME[:TAG]; without a tag the source's
        target: String,
    },
    /// Display a manifest or a list of manifests of a registry
    Inspect {
        /// Also the descriptor and platform of each manifest
        #[arg(short, long)]
        verbose: bool,
        /// The registry may be spoken to without TLS
        #[arg(long)]
        insecure: bool,
        /// [MANIFEST_LIST] MANIFEST
        #[arg(required = true, num_args = 1..=2)]
        names: Vec<String>,
    },
    /// Make a local list of manifests, to be annotated and pushed
    Create {
        /// Add to an existing list
        #[arg(short, long)]
        amend: bool,
        /// The registries may be spoken to without TLS
        #[arg(long)]
        insecure: bool,
        /// MANIFEST_LIST
        list: String,
        /// MANIFEST...
        #[arg(required = true)]
        manifests: Vec<String>,
    },
    /// Say what a manifest of a local list is for
    Annotate {
        /// Architecture
        #[arg(long)]
        arch: Option<String>,
        /// Operating system
        #[arg(long)]
        os: Option<String>,
        /// Variant of the architecture
        #[arg(long)]
        variant: Option<String>,
        /// Version of the operating system
        #[arg(long)]
        os_version: Option<String>,
        /// MANIFEST_LIST
        list: String,
        /// MANIFEST
        manifest: String,
    },
    /// Push a local list, and what it lists where that is missing
    Push {
        /// The registries may be spoken to without TLS
        #[arg(long)]
        insecure: bool,
        /// Remove the local list afterwards
        #[arg(short, long)]
        purge: bool,
        /// MANIFEST_LIST
        list: String,
    },
    /// Remove local lists
    Rm {
        /// MANIFEST_LIST...
        #[arg(required = true)]
        lists: Vec<String>,
    },
}

/// A list of manifests that is not pushed yet.
#[derive(Default, Serialize, Deserialize)]
struct Draft {
    /// By the name that each was given by.
    manifests: BTreeMap<String, Descriptor>,
}

/// The `manifest` command with its verbs.
pub(crate) fn command() -> clap::Command {
    let manifest = clap::Command::new("manifest")
        .about("Inspect images in registries, and make one of several")
        .subcommand_required(true);
    Verb::augment_subcommands(manifest).mut_subcommand("copy", |c| c.hide(true))
}

/// Runs with the verb as first argument.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from("manifest")).chain(args);
    let args: Vec<OsString> = args.collect();
    let group = match args.get(1).is_some_and(|verb| verb == "copy") {
        true => "wharf image",
        false => "wharf manifest",
    };
    let matches = match command().bin_name(group).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            // Nothing can be said if the terminal is gone.
            drop(e.print());
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1));
        }
    };
    let done = Verb::from_arg_matches(&matches).map_err(Into::into).and_then(|verb| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("start")?.block_on(run(verb))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            warn(format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> Result<()> {
    let config = Config::load(None);
    match verb {
        Verb::Copy { platform, insecure, source, target } => {
            let desk = Desk::new(config, insecure);
            desk.copy(&source, &target, platform.as_ref()).await
        }
        Verb::Inspect { verbose, insecure, names } => {
            let [.., name] = names.as_slice() else { bail!("a manifest must be named") };
            let desk = Desk::new(config, insecure_hosts(insecure, &names)?);
            desk.inspect(name, verbose).await
        }
        Verb::Create { amend, insecure, list, manifests } => {
            let desk = Desk::new(config, insecure_hosts(insecure, &manifests)?);
            desk.create(&list, &manifests, amend).await
        }
        Verb::Annotate { arch, os, variant, os_version, list, manifest } => {
            let desk = Desk::new(config, Vec::new());
            let mut draft = desk.draft(&list)?;
            let descriptor = draft.manifests.get_mut(&full(&manifest)?);
            let descriptor = descriptor.with_context(|| format!("{manifest} is not in {list}"))?;
            let mut platform =
                descriptor.platform.take().unwrap_or_else(|| Platform::new("", "", ""));
            let change = |field: &mut String, to: Option<String>| {
                if let Some(to) = to {
                    *field = to;
                }
            };
            change(&mut platform.os, os);
            change(&mut platform.architecture, arch);
            change(&mut platform.variant, variant);
            change(&mut platform.os_version, os_version);
            descriptor.platform = Some(platform);
            desk.keep(&list, &draft)
        }
        Verb::Push { insecure, purge, list } => {
            let names: Vec<String> = {
                let desk = Desk::new(Config::load(None), Vec::new());
                desk.draft(&list)?.manifests.into_keys().chain([list.clone()]).collect()
            };
            let desk = Desk::new(config, insecure_hosts(insecure, &names)?);
            desk.push(&list).await?;
            if purge { desk.remove(&list) } else { Ok(()) }
        }
        Verb::Rm { lists } => {
            let desk = Desk::new(config, Vec::new());
            lists.iter().try_for_each(|list| desk.remove(list))
        }
    }
}

fn insecure_hosts(insecure: bool, names: &[String]) -> Result<Vec<String>> {
    match insecure {
        true => names.iter().map(|name| Ok(parse(name)?.domain().to_owned())).collect(),
        false => Ok(Vec::new()),
    }
}

fn parse(name: &str) -> Result<Reference> {
    Ok(Reference::parse(name).with_context(|| format!("{name:?}"))?.or_latest())
}

fn full(name: &str) -> Result<String> {
    Ok(parse(name)?.to_string())
}

/// The tag or digest of a name.
fn what(name: &Reference) -> String {
    match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or_default().to_owned(),
    }
}

/// Registries, and the user's credentials for them.
struct Desk {
    registries: Registries,
    config: Config,
}

impl Desk {
    fn new(config: Config, insecure: Vec<String>) -> Self {
        let registries = RegistrySettings {
            insecure,
            proxy: ProxySettings::from_env(),
            ..RegistrySettings::default()
        };
        let settings = wharf_image::Settings { registries, ..wharf_image::Settings::default() };
        Self { registries: Registries::new(&settings), config }
    }

    async fn open(&self, name: &Reference) -> Result<Upstream> {
        let found =
            auth::lookup(&self.config, name.domain()).map_err(|e| anyhow::anyhow!(e.text))?;
        let auth: AuthConfig = serde_json::from_value(found).context("read the credentials")?;
        Ok(self.registries.repository(name, &auth).await?)
    }

    async fn fetch(&self, name: &Reference) -> Result<(Upstream, Fetched)> {
        let upstream = self.open(name).await?;
        let fetched = upstream.manifest(&what(name)).await;
        let fetched = fetched.with_context(|| format!("no such manifest: {}", name.familiar()))?;
        Ok((upstream, fetched))
    }

    async fn copy(&self, source: &str, target: &str, platform: Option<&Platform>) -> Result<()> {
        let from_name = parse(source)?;
        let to_name = Reference::parse(target).with_context(|| format!("{target:?}"))?;
        ensure!(to_name.digest().is_none(), "a copy has the digest of its source; name a tag");
        let to_name = match (to_name.tag(), from_name.tag()) {
            (None, Some(tag)) => to_name.with_tag(tag)?,
            _ => to_name.or_latest(),
        };
        let (from, mut fetched) = self.fetch(&from_name).await?;
        if let (Some(platform), Document::Index(index)) = (platform, read(&fetched)?) {
            let best = index
                .manifests
                .iter()
                .filter_map(|d| Some((platform.distance(d.platform.as_ref()?)?, d)))
                .min_by_key(|(distance, _)| *distance);
            let (_, chosen) =
                best.with_context(|| format!("{source} has nothing for {platform}"))?;
            fetched = from.manifest(&chosen.digest.to_string()).await?;
        }
        let to = self.open(&to_name).await?;
        let digest = fetched.digest.clone();
        transfer(&from, &to, fetched, &what(&to_name), DEPTH).await?;
        say(format!("{}@{digest}", to_name.familiar()))
    }

    async fn inspect(&self, name: &str, verbose: bool) -> Result<()> {
        if let Ok(draft) = self.draft(name) {
            return say_json(&index_of(&draft));
        }
        let name = parse(name)?;
        let (upstream, fetched) = self.fetch(&name).await?;
        let raw: Value = serde_json::from_slice(&fetched.bytes).context("read the manifest")?;
        if !verbose {
            return say_json(&raw);
        }
        let all = match read(&fetched)? {
            Document::Manifest(_) => vec![(fetched, None)],
            Document::Index(index) => {
                let mut all = Vec::new();
                for descriptor in index.manifests {
                    let child = upstream.manifest(&descriptor.digest.to_string()).await?;
                    all.push((child, descriptor.platform));
                }
                all
            }
        };
        let mut shown = Vec::new();
        for (fetched, platform) in all {
            shown.push(describe(&upstream, &name, fetched, platform).await?);
        }
        match shown.len() {
            1 => say_json(&shown[0]),
            _ => say_json(&Value::from(shown)),
        }
    }

    async fn create(&self, list: &str, manifests: &[String], amend: bool) -> Result<()> {
        let mut draft = match self.draft(list) {
            Ok(draft) if amend => draft,
            Ok(_) => bail!("{list} exists; use --amend to add to it"),
            Err(_) => Draft::default(),
        };
        for manifest in manifests {
            let name = parse(manifest)?;
            let (upstream, fetched) = self.fetch(&name).await?;
            let Document::Manifest(document) = read(&fetched)? else {
                bail!("{manifest} is a list of manifests itself");
            };
            let size = fetched.bytes.len() as u64;
            let mut descriptor = Descriptor::new(&fetched.media_type, fetched.digest, size);
            descriptor.platform = platform_of(&upstream, &document.config).await?;
            draft.manifests.insert(name.to_string(), descriptor);
        }
        self.keep(list, &draft)?;
        say(format!("Created manifest list {}", full(list)?))
    }

    async fn push(&self, list: &str) -> Result<()> {
        let draft = self.draft(list)?;
        let name = parse(list)?;
        let to = self.open(&name).await?;
        for (source, descriptor) in &draft.manifests {
            let source = parse(source)?;
            let from = self.open(&source).await?;
            let digest = descriptor.digest.to_string();
            let fetched = from.manifest(&digest).await?;
            transfer(&from, &to, fetched, &digest, DEPTH).await?;
        }
        let index = index_of(&draft);
        let bytes = serde_json::to_vec(&index).context("write the list")?;
        let digest = Digest::sha256(&bytes);
        let kind = index["mediaType"].as_str().unwrap_or_default();
        to.put_manifest(&what(&name), kind, bytes.into()).await?;
        say(digest.to_string())
    }

    fn path(&self, list: &str) -> Result<PathBuf> {
        let name = full(list)?.replace(['/', ':'], "_");
        Ok(self.config.dir.join("manifests").join(format!("{name}.json")))
    }

    fn draft(&self, list: &str) -> Result<Draft> {
        let path = self.path(list)?;
        let bytes =
            std::fs::read(&path).with_context(|| format!("no such manifest list: {list}"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))
    }

    fn keep(&self, list: &str, draft: &Draft) -> Result<()> {
        let path = self.path(list)?;
        let dir = self.config.dir.join("manifests");
        wharf_base::fs::private_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let bytes = serde_json::to_vec_pretty(draft).context("write the list")?;
        let how = wharf_base::fs::Durability::Process;
        wharf_base::fs::write_atomic(&path, &bytes, 0o600, how)
            .with_context(|| format!("write {}", path.display()))
    }

    fn remove(&self, list: &str) -> Result<()> {
        std::fs::remove_file(self.path(list)?)
            .with_context(|| format!("no such manifest list: {list}"))
    }
}

fn read(fetched: &Fetched) -> Result<Document> {
    Document::parse(&fetched.bytes, &fetched.media_type).context("read the manifest")
}

fn index_of(draft: &Draft) -> Value {
    let docker = draft.manifests.values().all(|d| d.media_type == media_type::DOCKER_MANIFEST);
    let kind = if docker { media_type::DOCKER_LIST } else { media_type::OCI_INDEX };
    let manifests: Vec<&Descriptor> = draft.manifests.values().collect();
    json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests })
}

async fn platform_of(upstream: &Upstream, config: &Descriptor) -> Result<Option<Platform>> {
    if !media_type::is_config(&config.media_type) {
        return Ok(None);
    }
    let bytes = upstream.small_blob(&config.digest, config.size).await?;
    let config: ImageConfig = serde_json::from_slice(&bytes).context("read the config")?;
    Ok(Some(config.platform()))
}

async fn describe(
    upstream: &Upstream,
    name: &Reference,
    fetched: Fetched,
    platform: Option<Platform>,
) -> Result<Value> {
    let Document::Manifest(document) = read(&fetched)? else { bail!("a list within a list") };
    let platform = match platform {
        Some(platform) => Some(platform),
        None => platform_of(upstream, &document.config).await?,
    };
    let raw: Value = serde_json::from_slice(&fetched.bytes).context("read the manifest")?;
    let key = match media_type::DOCKER_MANIFEST == fetched.media_type {
        true => "SchemaV2Manifest",
        false => "OCIManifest",
    };
    Ok(json!({
        "Ref": format!("{}@{}", name.name(), fetched.digest),
        "Descriptor": {
            "mediaType": fetched.media_type, "digest": fetched.digest, "size": fetched.bytes.len(),
            "platform": platform
        },
        key: raw,
    }))
}

/// Copies a manifest and all that it needs; what it needs comes first.
async fn transfer(
    from: &Upstream,
    to: &Upstream,
    fetched: Fetched,
    what: &str,
    depth: usize,
) -> Result<()> {
    match read(&fetched)? {
        Document::Manifest(manifest) => {
            for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
                if blob.urls.is_empty() {
                    let sent = send(from, to, &blob.digest, blob.size).await;
                    sent.with_context(|| format!("copy {}", blob.digest))?;
                }
            }
        }
        Document::Index(index) => {
            ensure!(depth > 0, "lists within lists without end");
            for child in index.manifests {
                let digest = child.digest.to_string();
                let fetched = from.manifest(&digest).await?;
                Box::pin(transfer(from, to, fetched, &digest, depth - 1)).await?;
            }
        }
    }
    Ok(to.put_manifest(what, &fetched.media_type, fetched.bytes).await?)
}

/// By way of a file without a name: the two ends break and go on independently, and memory stays small.
async fn send(from: &Upstream, to: &Upstream, digest: &Digest, size: u64) -> Result<()> {
    if to.has_blob(digest).await? || to.mount(digest, from).await? {
        return Ok(());
    }
    let file = tempfile::tempfile().context("make a temporary file")?;
    let mut out = tokio::fs::File::from_std(file.try_clone().context("use a temporary file")?);
    let (mut at, mut idle) = (0, 0);
    while at < size {
        let before = at;
        let (_, mut blocks) = from.blob(digest, at).await?;
        while let Some(Ok(block)) = blocks.next().await {
            out.write_all(&block).await.context("write a temporary file")?;
            at += block.len() as u64;
            ensure!(at <= size, "the registry sends more than its manifest says");
        }
        idle = if at > before { 0 } else { idle + 1 };
        ensure!(idle < ATTEMPTS, "the download breaks again and again");
    }
    out.flush().await.context("write a temporary file")?;
    // The target verifies the digest before it answers.
    Ok(to.send_blob(digest, size, file, &|_| ()).await?)
}

fn say(text: String) -> Result<()> {
    say_line(text).map_err(|e| anyhow::anyhow!(e.text))
}

fn say_json(value: &Value) -> Result<()> {
    say(serde_json::to_string_pretty(value).context("print")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn lists_of_docker_manifests_are_dockers() {
        let mut draft = Draft::default();
        let one = Descriptor::new(media_type::DOCKER_MANIFEST, Digest::sha256(b"1"), 1);
        draft.manifests.insert("a".into(), one);
        assert_eq!(index_of(&draft)["mediaType"], media_type::DOCKER_LIST);
        let two = Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(b"2"), 1);
        draft.manifests.insert("b".into(), two);
        assert_eq!(index_of(&draft)["mediaType"], media_type::OCI_INDEX);
        assert_eq!(index_of(&draft)["manifests"].as_array().map(Vec::len), Some(2));
    }
}
