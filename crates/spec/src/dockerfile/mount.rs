//! `RUN --mount=…`.

use super::nearest::hint;

/// A mount of one `RUN`. Texts may hold variables until they are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountType,
    /// Where; `None` where the type has a default.
    pub target: Option<String>,
    /// Path in what it comes from.
    pub source: Option<String>,
    /// Stage, image or context that it comes from; `None` is the build context, or nothing for a cache.
    pub from: Option<String>,
    /// Identity of a cache, secret or agent.
    pub id: Option<String>,
    /// Variable that holds a secret.
    pub env: Option<String>,
    /// Whether it may not be written; `None` is the type's default.
    pub read_only: Option<bool>,
    /// The build fails without it.
    pub required: bool,
    /// Who else may use a cache meanwhile.
    pub sharing: Sharing,
    /// Permission bits, octal.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes of a tmpfs.
    pub size: Option<u64>,
}

/// Types of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountType {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// An ssh agent.
    Ssh,
}

/// Who else may use a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Anyone.
    #[default]
    Shared,
    /// Nobody: who comes second gets another directory.
    Private,
    /// Nobody: who comes second waits.
    Locked,
}

const KEYS: &[&str] = &[
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "id",
    "env",
    "ro",
    "readonly",
    "rw",
    "readwrite",
    "required",
    "sharing",
    "mode",
    "uid",
    "gid",
    "size",
];

impl Mount {
    /// Reads the value of `--mount`.
    pub fn parse(text: &str) -> Result<Mount, String> {
        let fields = fields(text)?;
        let kind = match fields.iter().find(|(k, _)| k == "type") {
            None => MountType::Bind,
            Some((_, value)) => kind(value.as_deref().unwrap_or_default())?,
        };
        let mut mount = Mount {
            kind,
            target: None,
            source: None,
            from: None,
            id: None,
            env: None,
            read_only: None,
            required: false,
            sharing: Sharing::Shared,
            mode: None,
            uid: None,
            gid: None,
            size: None,
        };
        for (key, value) in &fields {
            mount.set(key, value.as_deref())?;
        }
        mount.check()
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let text = || {
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("invalid field '{key}' must be a key=value pair"))
        };
        let truth = || match value.unwrap_or("true") {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(format!("invalid value for {key}: {other}")),
        };
        let wrong = |v: &str| format!("invalid value {v} for {key}");
        let unexpected =
            |what: MountType| format!("unexpected key '{key}' for mount type '{}'", what.name());
        use MountType::{Bind, Cache, Secret, Ssh, Tmpfs};
        let fits = match key {
            "source" | "src" => matches!(self.kind, Bind | Cache),
            "from" => matches!(self.kind, Bind | Cache),
            "id" => matches!(self.kind, Cache | Secret | Ssh),
            "env" => self.kind == Secret,
            "required" => matches!(self.kind, Secret | Ssh),
            "sharing" => self.kind == Cache,
            "mode" | "uid" | "gid" => matches!(self.kind, Cache | Secret | Ssh),
            "size" => self.kind == Tmpfs,
            "ro" | "readonly" | "rw" | "readwrite" => matches!(self.kind, Bind | Cache),
            _ => true,
        };
        if !fits && KEYS.contains(&key) {
            return Err(unexpected(self.kind));
        }
        let number = |v: String| v.parse::<u32>().map_err(|_| wrong(&v));
        match key {
            "type" => {}
            "target" | "dst" | "destination" => self.target = Some(text()?),
            "source" | "src" => self.source = Some(text()?),
            "from" => self.from = Some(text()?),
            "id" => self.id = Some(text()?),
            "env" => self.env = Some(text()?),
            "required" => self.required = truth()?,
            "ro" | "readonly" => self.read_only = Some(truth()?),
            "rw" | "readwrite" => self.read_only = Some(!truth()?),
            "sharing" => {
                let value = text()?;
                self.sharing = match value.as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => {
                        let hint = hint(other, ["shared", "private", "locked"]);
                        return Err(format!("unsupported sharing value {other:?}{hint}"));
                    }
                };
            }
            "mode" => {
                let value = text()?;
                let mode = u32::from_str_radix(&value, 8).ok().filter(|m| *m <= 0o7777);
                self.mode = Some(mode.ok_or_else(|| wrong(&value))?);
            }
            "uid" => self.uid = Some(number(text()?)?),
            "gid" => self.gid = Some(number(text()?)?),
            "size" => {
                let value = text()?;
                self.size = Some(bytes(&value).ok_or_else(|| wrong(&value))?);
            }
            other => {
                let hint = hint(other, KEYS.iter().copied());
                return Err(format!("unexpected key '{other}' in '--mount'{hint}"));
            }
        }
        Ok(())
    }

    fn check(self) -> Result<Mount, String> {
        let needs_target =
            matches!(self.kind, MountType::Bind | MountType::Cache | MountType::Tmpfs);
        if needs_target && self.target.as_deref().unwrap_or_default().is_empty() {
            return Err(format!("missing target for mount type '{}'", self.kind.name()));
        }
        let nameless = self.id.is_none() && self.target.is_none() && self.env.is_none();
        if self.kind == MountType::Secret && nameless {
            return Err("invalid secret mount: it needs an id, a target or an env".into());
        }
        Ok(self)
    }
}

impl MountType {
    /// Its name in a Dockerfile.
    pub fn name(self) -> &'static str {
        match self {
            MountType::Bind => "bind",
            MountType::Cache => "cache",
            MountType::Tmpfs => "tmpfs",
            MountType::Secret => "secret",
            MountType::Ssh => "ssh",
        }
    }
}

fn kind(name: &str) -> Result<MountType, String> {
    let all =
        [MountType::Bind, MountType::Cache, MountType::Tmpfs, MountType::Secret, MountType::Ssh];
    all.into_iter().find(|k| k.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        format!("unsupported mount type {name:?}{}", hint(name, all.map(MountType::name)))
    })
}

/// Keys in lower case, with their values.
type Fields = Vec<(String, Option<String>)>;

/// Comma-separated `key=value`, one line of CSV: a field may be quoted as a whole.
fn fields(text: &str) -> Result<Fields, String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err("failed to parse mount: a quote is not closed".into());
    }
    out.push(field);
    let pair = |f: String| match f.split_once('=') {
        Some((k, v)) => (k.trim().to_ascii_lowercase(), Some(v.to_owned())),
        None => (f.trim().to_ascii_lowercase(), None),
    };
    Ok(out.into_iter().map(pair).collect())
}

/// `64m` and the like, in bytes.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let unit: u64 = match lower[digits..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    lower[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads() {
        let m =
            Mount::parse("type=cache,target=/c,id=x,sharing=locked,mode=0700,uid=5,ro").unwrap();
        assert_eq!((m.kind, m.sharing, m.mode), (MountType::Cache, Sharing::Locked, Some(0o700)));
        assert_eq!((m.uid, m.read_only), (Some(5), Some(true)));
        let m = Mount::parse("target=/x,from=base,source=/y,rw=true").unwrap();
        assert_eq!(
            (m.kind, m.read_only, m.from.as_deref()),
            (MountType::Bind, Some(false), Some("base"))
        );
        assert_eq!(Mount::parse("type=tmpfs,dst=/t,size=1m").unwrap().size, Some(1 << 20));
        assert!(Mount::parse("type=secret,id=a,env=B,required").unwrap().required);
        assert_eq!(Mount::parse("type=ssh").unwrap().kind, MountType::Ssh);
    }

    #[test]
    fn errors_name_the_word_and_its_neighbour() {
        let e = |t: &str| Mount::parse(t).unwrap_err();
        assert_eq!(
            e("type=chache,target=/x"),
            "unsupported mount type \"chache\" (did you mean cache?)"
        );
        assert_eq!(
            e("type=cache,tagret=/x"),
            "unexpected key 'tagret' in '--mount' (did you mean target?)"
        );
        assert_eq!(e("type=tmpfs,target=/x,id=1"), "unexpected key 'id' for mount type 'tmpfs'");
        assert_eq!(e("type=bind"), "missing target for mount type 'bind'");
        assert!(e("type=cache,target=/x,mode=9").contains("mode"));
    }
}
