//! The options of the Dockerfile frontend, as text from the client and as what they mean.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use wharf_build::request::Allow;
use wharf_build::{NetworkMode, NoCache, Request};
use wharf_spec::digest::Digest;
use wharf_spec::docker::Ulimit;
use wharf_spec::platform::Platform;

use crate::attest;

/// What a client asks of the frontend, read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// What goes to the builder as it is; the Dockerfile and the platform are still missing.
    pub(crate) request: Request,
    /// The Dockerfile's path in its directory.
    pub(crate) filename: String,
    /// The session's name for the directory of the Dockerfile.
    pub(crate) dockerfile_dir: String,
    /// The Dockerfile comes from its own directory even if the context is remote.
    pub(crate) dockerfile_local: bool,
    /// The session's name for the context's directory.
    pub(crate) context_dir: String,
    /// A context that is no directory of the client: a URL.
    pub(crate) context: Option<String>,
    /// A directory in a remote context that is the context.
    pub(crate) subdir: Option<String>,
    /// Named contexts as written, by name.
    pub(crate) named: BTreeMap<String, String>,
    /// Sessions that serve a directory in place of the build's own, by directory.
    pub(crate) sessions: HashMap<String, String>,
    /// The cache keys of directories, by the name of their context.
    pub(crate) shared_keys: HashMap<String, String>,
    /// Platforms; none is the host's.
    pub(crate) platforms: Vec<Platform>,
    /// The result is a set by platform, even of one.
    pub(crate) by_platform: bool,
    /// A question about the Dockerfile, in place of a build.
    pub(crate) question: Option<String>,
    /// A frontend that the client names.
    pub(crate) syntax: Option<String>,
    /// What is to be said of how the results were made.
    pub(crate) provenance: Option<attest::Wanted>,
    /// Caches in directories of the client: the path, and the digest of a list there.
    pub(crate) local_caches: Vec<(String, Digest)>,
    /// Caches that cannot be read, in words.
    pub(crate) unread_caches: Vec<String>,
}

/// An option that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    /// Its value is wrong.
    #[error("invalid value {value:?} for {key}: {why}")]
    Value {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// wharf does not do that.
    #[error("{0}")]
    Unsupported(String),
}

/// What frontends say they can when a client asks with `frontend.caps`.
const CAPS: &[&str] = &[
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
];

/// Options that say nothing new: where the client's sources came from, and configs of results, which are known here.
const PASSED: &[&str] = &["vcs:", "input:", "input-metadata:"];

impl Options {
    /// Reads all options, and what the client permits.
    pub(crate) fn read(
        options: &HashMap<String, String>,
        entitlements: &[String],
    ) -> Result<Options, OptionError> {
        let mut read = Options {
            filename: "Dockerfile".into(),
            dockerfile_dir: "dockerfile".into(),
            context_dir: "context".into(),
            ..Options::default()
        };
        read.request.allow = allow(entitlements)?;
        // In order, so that equal requests give equal answers.
        for (key, value) in options.iter().collect::<BTreeMap<_, _>>() {
            match key.split_once(':') {
                Some((family, name)) => read.family(family, name, key, value)?,
                None => read.single(key, value)?,
            }
        }
        read.by_platform |= read.platforms.len() > 1;
        Ok(read)
    }

    fn family(
        &mut self,
        family: &str,
        name: &str,
        key: &str,
        value: &str,
    ) -> Result<(), OptionError> {
        let (name_owned, text) = (name.to_owned(), value.to_owned());
        match family {
            "build-arg" => self.argument(name, value)?,
            "label" => drop(self.request.labels.insert(name_owned, text)),
            "context" => drop(self.named.insert(name_owned, text)),
            "local-sessionid" => drop(self.sessions.insert(name_owned, text)),
            "sharedkey" => {
                let name = name.strip_prefix("localdir:").unwrap_or(name);
                self.shared_keys.insert(name.to_owned(), text);
            }
            "attest" => self.provenance = attest::read(name, value)?,
            _ if PASSED.iter().any(|p| key.starts_with(p)) => (),
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// Arguments that are options to BuildKit are arguments to the Dockerfile all the same.
    fn argument(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let wrong = |why: String| invalid(&format!("build-arg:{name}"), value, why);
        match name {
            "BUILDKIT_SYNTAX" if !value.is_empty() => self.syntax = Some(value.to_owned()),
            "BUILDKIT_MULTI_PLATFORM" => {
                self.by_platform = boolean(value).ok_or_else(|| wrong("not a boolean".into()))?;
            }
            "BUILDKIT_SANDBOX_HOSTNAME" => value.clone_into(&mut self.request.hostname),
            "BUILDKIT_ATTEST_PROVENANCE" => self.provenance = attest::read("provenance", value)?,
            "BUILDKIT_ATTEST_SBOM" => drop(attest::read("sbom", value)?),
            "BUILDKIT_CACHE_MOUNT_NS" => value.clone_into(&mut self.request.cache_namespace),
            "BUILDKIT_INLINE_CACHE" => {
                self.request.inline_cache |=
                    boolean(value).ok_or_else(|| wrong("not a boolean".into()))?;
            }
            _ => (),
        }
        self.request.args.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn single(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        let text = value.to_owned();
        let request = &mut self.request;
        match key {
            "filename" => self.filename = text,
            "dockerfilekey" => {
                self.dockerfile_dir = text;
                self.dockerfile_local = true;
            }
            "contextkey" => self.context_dir = text,
            "context" => self.context = Some(text),
            "contextsubdir" => self.subdir = Some(text),
            "target" => request.target = Some(text).filter(|t| !t.is_empty()),
            "platform" => self.platforms = platforms(value)?,
            "multi-platform" => {
                let by = boolean(value).ok_or_else(|| invalid(key, value, "not a boolean"))?;
                self.by_platform = by;
            }
            "no-cache" if value.is_empty() => request.no_cache = NoCache::All,
            "no-cache" => {
                let stages = value.split(',').map(str::to_owned).collect();
                request.no_cache = NoCache::Stages(stages);
            }
            "image-resolve-mode" => {
                request.pull = match value {
                    "" | "default" | "local" => false,
                    "pull" => true,
                    _ => return Err(invalid(key, value, "use default, local or pull")),
                }
            }
            "add-hosts" => request.extra_hosts = hosts(value)?,
            "force-network-mode" => {
                request.network = match value {
                    "" | "default" | "sandbox" => NetworkMode::Default,
                    "none" => NetworkMode::None,
                    "host" => NetworkMode::Host,
                    _ => return Err(invalid(key, value, "use default, none or host")),
                }
            }
            "hostname" => request.hostname = text,
            "shm-size" => request.shm_size = number(key, value)?,
            "cache-imports" => self.caches(value)?,
            "cache-from" => {
                request
                    .cache_from
                    .extend(value.split(',').filter(|v| !v.is_empty()).map(str::to_owned));
            }
            "requestid" => self.question = Some(text),
            "source" => self.syntax = Some(text),
            "frontend.caps" => return caps(value),
            "cmdline" => (),
            _ => return self.limit(key, value),
        }
        Ok(())
    }

    fn limit(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        let resources = &mut self.request.resources;
        match key {
            "ulimit" => resources.ulimits = Some(ulimits(value)?),
            "cgroup-parent" => value.clone_into(&mut resources.cgroup_parent),
            "memory" => resources.memory = number(key, value)?,
            "memswap" => resources.memory_swap = number(key, value)?,
            "cpushares" => resources.cpu_shares = number(key, value)?,
            "cpuperiod" => resources.cpu_period = number(key, value)?,
            "cpuquota" => resources.cpu_quota = number(key, value)?,
            "cpusetcpus" => value.clone_into(&mut resources.cpuset_cpus),
            "cpusetmems" => value.clone_into(&mut resources.cpuset_mems),
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// Like BuildKit, a build goes on without a cache that cannot be read, and says so.
    fn caches(&mut self, value: &str) -> Result<(), OptionError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Cache {
            r#type: String,
            #[serde(default)]
            attrs: HashMap<String, String>,
        }
        let caches: Vec<Cache> = serde_json::from_str(value)
            .map_err(|e| invalid("cache-imports", value, e.to_string()))?;
        for cache in caches {
            let attr = |key: &str| cache.attrs.get(key).map(String::as_str).unwrap_or_default();
            match (cache.r#type.as_str(), attr("digest").parse()) {
                ("registry", _) if !attr("ref").is_empty() => {
                    self.request.cache_from.push(attr("ref").to_owned());
                }
                ("local", Ok(digest)) => self.local_caches.push((attr("src").to_owned(), digest)),
                (other, _) => self.unread_caches.push(format!(
                    "importing cache manifest from {other}: wharf reads caches of type=registry,ref=NAME and type=local,src=DIRECTORY"
                )),
            }
        }
        Ok(())
    }
}

fn invalid(key: &str, value: &str, why: impl Into<String>) -> OptionError {
    OptionError::Value { key: key.into(), value: value.into(), why: why.into() }
}

fn unknown(key: &str) -> OptionError {
    OptionError::Unsupported(format!(
        "the frontend option {key:?} is not supported by wharf: leave it out"
    ))
}

/// Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn number(key: &str, value: &str) -> Result<i64, OptionError> {
    value.parse().map_err(|_| invalid(key, value, "not a number"))
}

fn allow(entitlements: &[String]) -> Result<Allow, OptionError> {
    let mut allow = Allow::default();
    for name in entitlements {
        match name.as_str() {
            "network.host" => allow.network_host = true,
            "security.insecure" => allow.security_insecure = true,
            other => {
                let text = format!(
                    "the entitlement {other:?} is not supported by wharf: use network.host or security.insecure"
                );
                return Err(OptionError::Unsupported(text));
            }
        }
    }
    Ok(allow)
}

fn caps(value: &str) -> Result<(), OptionError> {
    for name in value.split(',') {
        let name = name.strip_suffix("+forward").unwrap_or(name);
        if !CAPS.contains(&name) {
            let text = format!("unsupported frontend capability {name}");
            return Err(OptionError::Unsupported(text));
        }
    }
    Ok(())
}

fn platforms(value: &str) -> Result<Vec<Platform>, OptionError> {
    let parse = |text: &str| {
        // A version of the operating system, as in linux(1)/amd64, says nothing to Linux images.
        text.parse::<Platform>().map_err(|e| invalid("platform", text, e.to_string()))
    };
    let mut platforms = Vec::new();
    for text in value.split(',').filter(|v| !v.is_empty()) {
        let platform = parse(text)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn hosts(value: &str) -> Result<Vec<String>, OptionError> {
    let entry = |text: &str| {
        let (name, address) = text
            .split_once('=')
            .ok_or_else(|| invalid("add-hosts", text, "expected name=address"))?;
        Ok(format!("{name}:{address}"))
    };
    value.split(',').filter(|v| !v.is_empty()).map(entry).collect()
}

fn ulimits(value: &str) -> Result<Vec<Ulimit>, OptionError> {
    let entry = |text: &str| {
        let wrong = || invalid("ulimit", text, "expected name=soft[:hard]");
        let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let [soft, hard] = [soft, hard].map(str::parse);
        match (soft, hard) {
            (Ok(soft), Ok(hard)) => Ok(Ulimit { name: name.to_owned(), soft, hard }),
            _ => Err(wrong()),
        }
    };
    value.split(',').filter(|v| !v.is_empty()).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use wharf_spec::docker::Resources;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, OptionError> {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Options::read(&pairs.collect(), &["network.host".to_owned()])
    }

    #[test]
    fn a_plain_build_needs_no_options() {
        let options = read(&[]).unwrap();
        assert_eq!(options.filename, "Dockerfile");
        assert!(options.request.allow.network_host && !options.request.allow.security_insecure);
        assert_eq!(options.request.no_cache, NoCache::Nothing);
        assert_eq!(options.request.resources, Resources::default());
    }

    #[test]
    fn what_buildx_sends_is_understood() {
        let options = read(&[
            ("build-arg:A", "x=y"),
            ("label:org.example", "1"),
            ("filename", "sub/Dockerfile.prod"),
            ("target", "final"),
            ("platform", "linux/arm64,linux/amd64,linux/arm64/v8"),
            ("no-cache", "a,b"),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "db=10.0.0.1,v6=::1"),
            ("force-network-mode", "host"),
            ("shm-size", "1048576"),
            ("ulimit", "nofile=10:20,core=0"),
            ("context:tools", "local:tools"),
            ("sharedkey:localdir:tools", "tools:node"),
            ("local-sessionid:context", "abc"),
            ("vcs:revision", "dead"),
            (
                "cache-imports",
                r#"[{"Type":"registry","Attrs":{"ref":"r/c"}},{"Type":"gha"},{"Type":"local","Attrs":{"src":"d",
                "digest":"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"}}]"#,
            ),
            ("frontend.caps", "moby.buildkit.frontend.subrequests+forward"),
            ("requestid", "frontend.lint"),
        ])
        .unwrap();
        let request = &options.request;
        assert_eq!(request.args["A"], "x=y");
        assert_eq!(request.labels["org.example"], "1");
        assert_eq!(request.no_cache, NoCache::Stages(vec!["a".into(), "b".into()]));
        assert!(request.pull);
        assert_eq!(request.extra_hosts, ["db:10.0.0.1", "v6:::1"]);
        assert_eq!(request.network, NetworkMode::Host);
        let ulimits = request.resources.ulimits.as_ref().unwrap();
        assert_eq!((ulimits[0].soft, ulimits[0].hard, ulimits[1].hard), (10, 20, 0));
        assert_eq!(request.cache_from, ["r/c"]);
        assert_eq!(options.unread_caches.len(), 1);
        assert_eq!(options.local_caches[0].0, "d");
        assert_eq!(options.platforms.len(), 2);
        assert!(options.by_platform);
        assert_eq!(options.named["tools"], "local:tools");
        assert_eq!(options.shared_keys["tools"], "tools:node");
        assert_eq!(options.sessions["context"], "abc");
        assert_eq!(options.question.as_deref(), Some("frontend.lint"));
    }

    #[test]
    fn nothing_is_ignored() {
        for (key, value, words) in [
            ("attest:sbom", "", "build with --sbom=false"),
            ("new-option", "1", "\"new-option\" is not supported by wharf: leave it out"),
            ("new:option", "1", "\"new:option\""),
            ("shm-size", "big", "not a number"),
            ("platform", "linux/amd64/a/b", "platform"),
            ("frontend.caps", "moby.buildkit.frontend.new", "moby.buildkit.frontend.new"),
            ("ulimit", "nofile", "soft[:hard]"),
            ("force-network-mode", "mine", "default, none or host"),
            ("cache-imports", "{", "cache-imports"),
        ] {
            let error = read(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let permits = ["device".to_owned()];
        let refused = Options::read(&HashMap::new(), &permits).unwrap_err().to_string();
        assert!(refused.contains("use network.host or security.insecure"), "{refused}");
    }
}
