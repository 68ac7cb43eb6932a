//! Platforms: `os/architecture/variant`, their normal form, and which one suits a machine best.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …: Go's names.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Windows builds; empty otherwise.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows features; empty otherwise.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Fields that wharf does not know, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Why a text is not a platform. Clients match the beginnings, which are those of containerd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A part of it is no word.
    #[error(
        "{part:?} is an invalid {what} of {text:?}: expected os[/architecture[/variant]], such as linux/arm64"
    )]
    Part {
        /// The part.
        part: String,
        /// Which part.
        what: &'static str,
        /// The whole text.
        text: String,
    },
    /// A single word that names neither.
    #[error(
        "{0:?}: unknown operating system or architecture: expected os[/architecture[/variant]], such as linux/arm64"
    )]
    Unknown(String),
    /// More than three parts.
    #[error(
        "{0:?}: cannot parse platform specifier: expected os[/architecture[/variant]], such as linux/arm64"
    )]
    Form(String),
}

impl Platform {
    /// A platform from its parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalise(architecture, variant);
        Self { architecture, os, variant, ..Self::default() }
    }

    /// The machine this program was built for.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// How well an image for `offered` runs where `self` is wanted: 0 is exact, larger is
    /// further, `None` is not at all. An arm core runs older variants; amd64 runs amd64/v1 … up to
    /// the variant asked for.
    pub fn distance(&self, offered: &Self) -> Option<u32> {
        let offered = Self::new(&offered.os, &offered.architecture, &offered.variant);
        let wanted = Self::new(&self.os, &self.architecture, &self.variant);
        if offered.os != wanted.os {
            return None;
        }
        match (wanted.architecture.as_str(), offered.architecture.as_str()) {
            ("arm" | "amd64" | "arm64", _) if wanted.architecture == offered.architecture => {
                wanted.level().checked_sub(offered.level())
            }
            ("arm64", "arm") => 108_u32.checked_sub(offered.level()),
            (want, have) if want == have => (wanted.variant == offered.variant).then_some(0),
            _ => None,
        }
    }

    /// The variant as a number, with the architecture's default for none.
    fn level(&self) -> u32 {
        let default = match self.architecture.as_str() {
            "arm" => 7,
            "arm64" => 8,
            _ => 1,
        };
        self.variant.strip_prefix('v').and_then(|v| v.parse().ok()).unwrap_or(default)
    }
}

/// Go's names for an architecture, whatever the name it comes by. Default variants
/// are dropped, except that arm keeps `v7` as Docker shows it.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le", v) => ("ppc64le", v),
        (other, v) => (other, v),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `linux`, `arm64`, `linux/arm/v7`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |p: &str| {
            !p.is_empty()
                && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if let Some(at) = parts.iter().position(|p| !word(p)) {
            let what = if at == 0 { "OS component" } else { "component" };
            return Err(PlatformError::Part { part: parts[at].into(), what, text: text.into() });
        }
        match parts[..] {
            [one] if is_os(one) => Ok(Self::new(one, std::env::consts::ARCH, "")),
            [one] if is_architecture(one) => Ok(Self::new("linux", one, "")),
            [os, arch] => Ok(Self::new(os, arch, "")),
            [os, arch, variant] => Ok(Self::new(os, arch, variant)),
            [one] => Err(PlatformError::Unknown(one.into())),
            _ => Err(PlatformError::Form(text.into())),
        }
    }
}

fn is_os(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "solaris"
    )
}

fn is_architecture(text: &str) -> bool {
    let (name, _) = normalise(text, "");
    matches!(
        name.as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "mips64le"
            | "loong64"
    )
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_meet_in_one_form() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(parse(text).to_string(), normal, "{text}");
        }
        for bad in ["", "a/b/c/d", "linux/", "/amd64", "what", "li nux/amd64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn older_variants_run_and_newer_do_not() {
        let v7 = parse("linux/arm/v7");
        assert_eq!(v7.distance(&parse("linux/arm/v7")), Some(0));
        assert_eq!(v7.distance(&parse("linux/arm/v6")), Some(1));
        assert_eq!(parse("linux/arm/v6").distance(&v7), None);
        assert_eq!(parse("linux/amd64").distance(&parse("linux/amd64/v3")), None);
        assert_eq!(parse("linux/amd64/v3").distance(&parse("linux/amd64")), Some(2));
        assert_eq!(parse("linux/amd64").distance(&parse("linux/386")), None);
        assert_eq!(parse("linux/amd64").distance(&parse("windows/amd64")), None);
        let arm64 = parse("linux/arm64");
        assert!(arm64.distance(&arm64) < arm64.distance(&v7));
    }
}
