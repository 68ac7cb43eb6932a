//! `COPY`, `ADD` and the directory of `WORKDIR`.

use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use wharf_image::{ImageStore, Layer, Lease};
use wharf_spec::digest::{Algorithm, Digest, Hasher};
use wharf_spec::dockerfile::expand::Quotes;
use wharf_spec::dockerfile::ignore::Ignore;
use wharf_spec::dockerfile::instruction::Copy;
use wharf_spec::dockerfile::lint::{Rule, warn};
use wharf_spec::dockerfile::{HereFile, Source};
use wharf_sys::root::{Kind, Root, Time};

use crate::base::{Files, Opened};
use crate::context::{Tree, Want};
use crate::error::BuildError;
use crate::files::{self, Attributes, Chmod, Select, Selection, Target};
use crate::inline::Remembered;
use crate::job::{Job, Place};
use crate::layers;
use crate::remote::{Kind as Fetched, Remote, is_remote};
use crate::scratch::Scratch;
use crate::state::{State, absolute};

/// Bytes at the start of a file that tell an archive.
const HEAD: usize = 512;

/// One thing to put into the destination.
enum Item {
    /// Files of a tree.
    Files { opened: Arc<Opened>, selection: Selection, unpack: bool },
    /// A here-document.
    Document { name: String, content: String },
    /// A file or a directory from the network.
    Remote { remote: Arc<Remote>, exclude: Ignore },
}

/// How a step by its key went.
pub(crate) struct Outcome {
    pub(crate) cached: bool,
    /// There is a layer.
    pub(crate) made: bool,
    /// When it was first done: what is cached has the same history as when it was made.
    pub(crate) created: String,
}

/// A step by its key.
pub(crate) struct Keyed<'a> {
    pub(crate) key: Digest,
    pub(crate) no_cache: bool,
    /// The layer does not depend on what is below it.
    pub(crate) link: bool,
    pub(crate) description: &'a str,
}

/// A copy whose sources are settled.
struct Plan {
    items: Vec<Item>,
    dest: PathBuf,
    is_dir: bool,
    attributes: Attributes,
    /// Into a layer of its own, whatever is below.
    link: bool,
}

impl Job {
    /// Carries out COPY or ADD; true if it was cached.
    pub(crate) async fn copy_step(
        self: &Arc<Self>,
        state: &mut State,
        place: &Place<'_>,
        copy: &Copy,
    ) -> Result<bool, BuildError> {
        let copy = self.expanded_copy(state, place, copy)?;
        let attributes = self.attributes(state, &copy).await?;
        let items = self.items(place, &copy).await?;
        let dest = &copy.dest;
        let trailing =
            dest.is_empty() || dest.ends_with('/') || dest == "." || dest.ends_with("/.");
        let several = copy.sources.len() > 1 || copy.parents;
        let plan = Plan {
            items,
            is_dir: trailing || several,
            dest: absolute(&state.run.working_dir, dest).into(),
            attributes,
            link: copy.link,
        };
        if several && !trailing && copy.sources.len() > 1 {
            return Err(BuildError::Invalid(format!(
                "when using {} with more than one source file, the destination must be a directory and end with a /",
                place.instruction.keyword.to_ascii_uppercase()
            )));
        }
        let description = place.instruction.text.clone();
        let done = self.put(state, place.no_cache, &description, plan).await?;
        state.log(&done.created, format!("{} # buildkit", shown(&copy)), !done.made);
        Ok(done.cached)
    }

    /// A here-document's content, its variables replaced where its delimiter was not quoted.
    pub(crate) fn document(
        &self,
        state: &State,
        place: &Place<'_>,
        document: &HereFile,
    ) -> Result<String, BuildError> {
        if !document.expand {
            return Ok(document.content.clone());
        }
        let lexer = self.lexer().quotes(Quotes::Literal);
        self.word_by(&lexer, state, place, &document.content)
    }

    /// What `--check` finds in a copy.
    pub(crate) fn look_at_copy(
        &self,
        state: &State,
        place: &Place<'_>,
        copy: &Copy,
    ) -> Result<(), BuildError> {
        let copy = self.expanded_copy(state, place, copy)?;
        for source in copy.sources.iter().filter(|_| copy.from.is_none()) {
            if let Source::Path(path) = source {
                self.warn_ignored(place, &self.ignore, path);
            }
        }
        Ok(())
    }

    /// The instruction with its variables replaced.
    fn expanded_copy(
        &self,
        state: &State,
        place: &Place<'_>,
        copy: &Copy,
    ) -> Result<Copy, BuildError> {
        let word = |text: &String| self.word(state, place, text);
        let maybe = |text: &Option<String>| text.as_ref().map(word).transpose();
        let source = |source: &Source| {
            Ok(match source {
                Source::Path(path) => Source::Path(word(path)?),
                Source::Here(h) => {
                    Source::Here(HereFile { content: self.document(state, place, h)?, ..h.clone() })
                }
            })
        };
        Ok(Copy {
            sources: copy.sources.iter().map(source).collect::<Result<_, BuildError>>()?,
            dest: word(&copy.dest)?,
            from: maybe(&copy.from)?,
            chown: maybe(&copy.chown)?,
            chmod: maybe(&copy.chmod)?,
            exclude: copy.exclude.iter().map(word).collect::<Result<_, _>>()?,
            checksum: maybe(&copy.checksum)?,
            ..*copy
        })
    }

    async fn attributes(&self, state: &State, copy: &Copy) -> Result<Attributes, BuildError> {
        let mut out = Attributes::default();
        if let Some(text) = &copy.chmod {
            let wrong = || {
                BuildError::Invalid(format!(
                    "invalid chmod parameter: {text:?} is neither octal nor like u=rwX,go=rX"
                ))
            };
            out.mode = Some(Chmod::parse(text).ok_or_else(wrong)?);
        }
        if let Some(text) = &copy.chown {
            let text = text.clone();
            let (store, below) = (self.builder.store().clone(), state.layers.clone());
            let found = blocking(move || layers::owner(&layers::merged(&store, &below)?, &text));
            out.owner = Some(found.await?);
        }
        Ok(out)
    }

    async fn items(
        self: &Arc<Self>,
        place: &Place<'_>,
        copy: &Copy,
    ) -> Result<Vec<Item>, BuildError> {
        let remote = |p: &str| copy.is_add && is_remote(p);
        if copy.checksum.is_some()
            && !copy.sources.iter().any(|s| matches!(s, Source::Path(p) if remote(p)))
        {
            return Err(BuildError::Invalid("checksum requires HTTP(S) or Git sources".into()));
        }
        let exclude = Ignore::new(copy.exclude.iter().map(String::as_str))
            .map_err(|e| BuildError::Invalid(format!("--exclude: {e}")))?;
        let ignore = if copy.from.is_none() { self.ignore.clone() } else { Ignore::default() };
        let select = Select { ignore, exclude, parents: copy.parents };
        let opened = self.opened_source(place, copy).await?;
        let mut items = Vec::new();
        for source in &copy.sources {
            match (source, &opened) {
                (Source::Here(h), _) => {
                    items.push(Item::Document { name: h.name.clone(), content: h.content.clone() });
                }
                (Source::Path(p), _) if remote(p) => {
                    let remote = Arc::new(self.remote(p, copy, place.no_cache).await?);
                    items.push(Item::Remote { remote, exclude: select.exclude.clone() });
                }
                (Source::Path(p), Some(opened)) => {
                    self.warn_ignored(place, &select.ignore, p);
                    let unpack = copy.is_add && copy.unpack != Some(false);
                    items
                        .extend(selected(opened.clone(), p.clone(), select.clone(), unpack).await?);
                }
                (Source::Path(_), None) => {}
            }
        }
        Ok(items)
    }

    /// Where the paths of the instruction are looked up; `None` if it has none.
    async fn opened_source(
        self: &Arc<Self>,
        place: &Place<'_>,
        copy: &Copy,
    ) -> Result<Option<Arc<Opened>>, BuildError> {
        let local = copy.sources.iter().filter_map(|s| match s {
            Source::Path(p) if !(copy.is_add && is_remote(p)) => Some(p.clone()),
            _ => None,
        });
        let paths: Vec<String> = local.collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let files = match &copy.from {
            Some(from) => {
                let (include, follow) = (paths.clone(), paths);
                let want = Want { include, follow, exclude: Vec::new() };
                self.source(place.stage, from, &want).await?
            }
            None => Files::Context(self.context(paths).await?),
        };
        self.opened(files).await.map(Some)
    }

    fn warn_ignored(&self, place: &Place<'_>, ignore: &Ignore, path: &str) {
        let clean = wharf_spec::dockerfile::ignore::clean(path);
        if !clean.is_empty() && ignore.ignores(&clean) {
            let text =
                format!("Attempting to Copy file {path:?} that is excluded by .dockerignore");
            self.warn(warn(Rule::CopyIgnoredFile, place.instruction.span, text));
        }
    }

    pub(crate) async fn opened(self: &Arc<Self>, files: Files) -> Result<Arc<Opened>, BuildError> {
        let job = self.clone();
        blocking(move || job.open(&files).map(Arc::new)).await
    }

    /// Puts a plan into the state; whether it was cached, and whether it made a layer.
    async fn put(
        self: &Arc<Self>,
        state: &mut State,
        no_cache: bool,
        description: &str,
        plan: Plan,
    ) -> Result<Outcome, BuildError> {
        let (plan, content) = blocking(move || {
            let digest = plan.digest()?;
            Ok((plan, digest))
        })
        .await?;
        let parent = if plan.link { "link".to_owned() } else { state.chain() };
        let key = json!({
            "copy": content, "parent": parent, "dest": plan.dest, "dir": plan.is_dir, "epoch": self.epoch,
        });
        let key = Digest::sha256(key.to_string().as_bytes());
        let link = plan.link;
        let (store, epoch) = (self.builder.store().clone(), self.epoch);
        let below = if link { Vec::new() } else { state.layers.clone() };
        let job = self.clone();
        let work = async move {
            for remote in plan.remotes() {
                job.bring(remote).await?;
            }
            blocking(move || plan.perform(&store, &below, epoch)).await
        };
        self.keyed(state, Keyed { key, no_cache, link, description }, work).await
    }

    /// What the key has in the cache, or else what `work` makes, put on top of the state; whether it was cached, and
    /// whether it is a layer at all.
    pub(crate) async fn keyed(
        self: &Arc<Self>,
        state: &mut State,
        what: Keyed<'_>,
        work: impl Future<Output = Result<Option<(Layer, Lease)>, BuildError>>,
    ) -> Result<Outcome, BuildError> {
        let Keyed { key, no_cache, link, description } = what;
        let cache = self.builder.cache().clone();
        let _held = cache.hold(&key);
        let _flight = cache.flight(&key).await;
        let own = if no_cache { None } else { cache.find(&key) };
        let was = own.is_some();
        let own = own.filter(|(entry, _)| self.permits(state, entry));
        // What the engine has and may not use this time stays as it is.
        let barred = was && own.is_none();
        let imported =
            if no_cache || own.is_some() { None } else { Box::pin(self.imported(&key)).await };
        let cached = own.is_some() || imported.is_some();
        let (layer, leases, created) = match (own, imported) {
            (Some((entry, lease)), _) => (entry.layer, vec![Arc::new(lease)], entry.created),
            (None, Some(found)) => (found.layer, found.leases, found.created),
            (None, None) => {
                let made = work.await?;
                let below = if link { Vec::new() } else { state.layers.clone() };
                let (layer, lease) = made.unzip();
                let created = match barred {
                    true => cache.now(),
                    false => cache.store(&key, &below, layer.clone(), description)?,
                };
                (layer, lease.into_iter().map(Arc::new).collect(), created)
            }
        };
        state.leases.extend(leases);
        let time = created;
        let created = self.time_of(created);
        let Some(layer) = layer else {
            state.steps.push(Remembered::new(key.hex(), state, false, time));
            return Ok(Outcome { cached, made: false, created });
        };
        let layer = if link && !state.layers.is_empty() {
            let (store, below) = (self.builder.store().clone(), state.layers.clone());
            let (again, lease) = blocking(move || Ok(store.add_again(&below, &layer)?)).await?;
            state.leases.push(Arc::new(lease));
            again
        } else {
            layer
        };
        state.layers.push(layer);
        state.steps.push(Remembered::new(key.hex(), state, true, time));
        Ok(Outcome { cached, made: true, created })
    }

    /// WORKDIR: a layer only if the directory is not there.
    pub(crate) async fn workdir_step(
        self: &Arc<Self>,
        state: &mut State,
        place: &Place<'_>,
        path: &str,
    ) -> Result<bool, BuildError> {
        let key = json!({ "workdir": path, "parent": state.chain(), "epoch": self.epoch });
        let key = Digest::sha256(key.to_string().as_bytes());
        let (store, below, epoch, dir) =
            (self.builder.store().clone(), state.layers.clone(), self.epoch, PathBuf::from(path));
        let work = move || {
            if layers::merged(&store, &below)?.stat(&dir).is_ok_and(|m| m.kind == Kind::Dir) {
                return Ok(None);
            }
            let scratch = Scratch::new(&store)?;
            files::make_dirs(&scratch.mount(&store, &below)?, &dir, (0, 0))?;
            Ok(store.add_upper(&below, scratch.upper(), epoch)?)
        };
        let done = self.keyed(state, place.keyed(key), blocking(work)).await?;
        state.log(&done.created, format!("WORKDIR {path}"), !done.made);
        Ok(done.cached)
    }

    /// All files of a tree as a layer, for `FROM` a context.
    pub(crate) async fn add_tree(
        self: &Arc<Self>,
        state: &mut State,
        tree: Tree,
    ) -> Result<(), BuildError> {
        let opened = Arc::new(Opened::Tree(tree));
        let from = opened.clone();
        let found = blocking(move || files::select(from.root(), ".", &Select::default())).await?;
        let item = |selection| Item::Files { opened: opened.clone(), selection, unpack: false };
        let plan = Plan {
            items: found.into_iter().map(item).collect(),
            dest: "/".into(),
            is_dir: true,
            attributes: Attributes { owner: Some((0, 0)), mode: None },
            link: false,
        };
        self.put(state, false, "FROM a context", plan).await.map(drop)
    }
}

impl Plan {
    /// The content of everything that is copied.
    fn digest(&self) -> Result<String, BuildError> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(format!("{:?}", self.attributes).as_bytes());
        for item in &self.items {
            match item {
                Item::Files { opened, selection, unpack } => {
                    hasher.update(&[1, u8::from(*unpack)]);
                    let owner = self.owner_of(opened);
                    let attributes = Attributes { owner, ..self.attributes.clone() };
                    files::digest(opened.root(), selection, &attributes, &mut hasher)?;
                }
                Item::Document { name, content } => {
                    hasher.update(json!([2, name, content]).to_string().as_bytes());
                }
                Item::Remote { remote, exclude } => {
                    let how = match &remote.kind {
                        Fetched::File { name, unpack, .. } => json!([name, unpack]),
                        Fetched::Directory { .. } => {
                            json!(exclude.patterns().collect::<Vec<_>>())
                        }
                    };
                    hasher.update(json!([3, remote.identity, how]).to_string().as_bytes());
                }
            }
        }
        Ok(hasher.finish().to_string())
    }

    /// Files of a context are root's, those of a stage keep their owner.
    fn owner_of(&self, opened: &Opened) -> Option<(u32, u32)> {
        match opened {
            _ if self.attributes.owner.is_some() => self.attributes.owner,
            Opened::Tree(_) => Some((0, 0)),
            Opened::Root(_) => None,
        }
    }

    /// Blocks.
    fn perform(
        self,
        store: &ImageStore,
        below: &[Layer],
        epoch: Option<i64>,
    ) -> Result<Option<(Layer, Lease)>, BuildError> {
        let scratch = Scratch::new(store)?;
        let bare = || Root::open(scratch.upper()).map_err(BuildError::io("open a new layer"));
        let root = match self.link || below.is_empty() {
            true => bare()?,
            false => {
                let merged = scratch.mount(store, below)?;
                match self.makes_dest(&merged)? {
                    // Nothing of what is below shows there, so the layer itself will do, which is faster.
                    true => {
                        drop(merged);
                        bare()?
                    }
                    false => merged,
                }
            }
        };
        for item in &self.items {
            self.place(item, &root)?;
        }
        drop(root);
        Ok(store.add_upper(below, scratch.upper(), epoch)?)
    }

    /// Makes the destination if it is a directory that is not there yet, and is not reached through a link; and if
    /// everything that is copied stays in it.
    fn makes_dest(&self, root: &Root) -> Result<bool, BuildError> {
        let inside = |item: &Item| match item {
            Item::Files { selection, unpack, .. } => {
                !unpack && (self.is_dir || !selection.single_file)
            }
            Item::Document { .. } | Item::Remote { .. } => false,
        };
        if !self.items.iter().all(inside) || root.lstat(&self.dest).is_ok() {
            return Ok(false);
        }
        files::make_dirs(root, &self.dest, self.attributes.owner.unwrap_or((0, 0)))?;
        Ok(root.dir_without_symlinks(&self.dest).is_ok())
    }

    fn place(&self, item: &Item, root: &Root) -> Result<(), BuildError> {
        let owner = self.attributes.owner.unwrap_or((0, 0));
        match item {
            Item::Files { opened, selection, unpack } => {
                let attributes =
                    Attributes { owner: self.owner_of(opened), ..self.attributes.clone() };
                if *unpack
                    && selection.single_file
                    && self.unpacked(opened.root(), selection, root)?
                {
                    return Ok(());
                }
                let target = Target { root, dest: self.dest.clone(), is_dir: self.is_dir };
                files::copy(opened.root(), selection, &target, &attributes)
            }
            Item::Document { name, content } => {
                let at = self.file_at(root, name);
                files::make_dirs(root, at.parent().unwrap_or(Path::new("/")), owner)?;
                files::write(root, &at, content.as_bytes(), owner, self.mode(0o644))
            }
            Item::Remote { remote, exclude } => self.place_remote(remote, exclude, root),
        }
    }

    fn place_remote(
        &self,
        remote: &Remote,
        exclude: &Ignore,
        root: &Root,
    ) -> Result<(), BuildError> {
        let owner = self.attributes.owner.unwrap_or((0, 0));
        let (name, unpack, modified) = match &remote.kind {
            Fetched::File { name, unpack, modified, .. } => (name, *unpack, modified.get()),
            Fetched::Directory { address, .. } => {
                let from = crate::git::directory(remote.here()?, address)?;
                let select = Select { exclude: exclude.clone(), ..Select::default() };
                let attributes = Attributes { owner: Some(owner), ..self.attributes.clone() };
                let target = Target { root, dest: self.dest.clone(), is_dir: true };
                for selection in files::select(&from, ".", &select)? {
                    files::copy(&from, &selection, &target, &attributes)?;
                }
                return Ok(());
            }
        };
        if unpack {
            let file = std::fs::File::open(remote.here()?.file());
            return self.unpack_into(root, file.map_err(BuildError::io("read a fetched file"))?);
        }
        let dir = self.is_dir || root.stat(&self.dest).is_ok_and(|m| m.kind == Kind::Dir);
        let Some(name) = name.as_deref().or((!dir).then_some("")) else {
            return Err(BuildError::Invalid("cannot determine a file name for the source: its address has none; name the file in the destination".into()));
        };
        let at = self.file_at(root, name);
        let content = crate::remote::read(remote.here()?)?;
        files::make_dirs(root, at.parent().unwrap_or(Path::new("/")), owner)?;
        files::write(root, &at, &content, owner, self.mode(0o600))?;
        if let Some(seconds) = modified
            && let (Some(parent), Some(name)) = (at.parent(), at.file_name())
        {
            let time = Time { seconds: *seconds, nanos: 0 };
            let set = root.dir(parent).and_then(|d| d.set_times(name, time));
            set.map_err(BuildError::io(format!("set the time of {}", at.display())))?;
        }
        Ok(())
    }

    fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.items.iter().filter_map(|item| match item {
            Item::Remote { remote, .. } => Some(remote),
            _ => None,
        })
    }

    fn mode(&self, default: u32) -> u32 {
        self.attributes.mode.as_ref().map_or(default, |m| m.for_file(default))
    }

    fn file_at(&self, root: &Root, name: &str) -> PathBuf {
        let dir = self.is_dir || root.stat(&self.dest).is_ok_and(|m| m.kind == Kind::Dir);
        if dir { self.dest.join(name) } else { self.dest.clone() }
    }

    /// Unpacks an archive; false if the file is none.
    fn unpacked(
        &self,
        from: &Root,
        selection: &Selection,
        root: &Root,
    ) -> Result<bool, BuildError> {
        let Some(entry) = selection.entries.first().filter(|e| e.kind == Kind::File) else {
            return Ok(false);
        };
        let failed = || BuildError::io(format!("read {}", entry.from.display()));
        let mut file = from.read(&entry.from).map_err(failed())?;
        let mut head = Vec::new();
        (&mut file).take(HEAD as u64).read_to_end(&mut head).map_err(failed())?;
        if !is_archive(&head) {
            return Ok(false);
        }
        file.rewind().map_err(failed())?;
        self.unpack_into(root, file).map(|()| true)
    }

    fn unpack_into(&self, root: &Root, archive: std::fs::File) -> Result<(), BuildError> {
        files::make_dirs(root, &self.dest, self.attributes.owner.unwrap_or((0, 0)))?;
        Ok(wharf_engine::tar_in::unpack(root, &self.dest, self.attributes.owner, archive)?)
    }
}

/// As the history shows it: with BuildKit's choice of flags.
fn shown(copy: &Copy) -> String {
    let mut out = if copy.is_add { "ADD" } else { "COPY" }.to_owned();
    out.push_str(if copy.parents { " --parents" } else { "" });
    for (flag, value) in [("chown", &copy.chown), ("chmod", &copy.chmod)] {
        out.extend(value.iter().map(|v| format!(" --{flag}={v}")));
    }
    let source = |s: &Source| match s {
        Source::Path(path) => format!(" {}", wharf_image::without_password(path)),
        Source::Here(document) => format!(" <<{}", document.name),
    };
    out.extend(copy.sources.iter().map(source));
    format!("{out} {}", copy.dest)
}

/// What one path or pattern selects.
async fn selected(
    opened: Arc<Opened>,
    source: String,
    select: Select,
    unpack: bool,
) -> Result<Vec<Item>, BuildError> {
    blocking(move || {
        let found = files::select(opened.root(), &source, &select)?;
        let item = |selection| Item::Files { opened: opened.clone(), selection, unpack };
        Ok(found.into_iter().map(item).collect())
    })
    .await
}

/// By content: gzip, bzip2, xz, zstd, or a tar header.
pub(crate) fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    compressed.iter().any(|magic| head.starts_with(magic))
        || head.get(257..262).is_some_and(|m| m == b"ustar")
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(BuildError::Invalid("a task of the build died".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_looks() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar) && is_archive(b"\x1f\x8b\x08") && !is_archive(b"PK"));
    }
}
