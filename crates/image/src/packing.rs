//! How whoever wants layers asks for their packing: `compression`, `compression-level`, `force-compression`.

use crate::{Packing, Repack};

const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// An option of a packing that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={value}: {why}")]
pub struct PackingError {
    /// Its name.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it, and what to do.
    pub why: String,
    /// It is a packing that others know and wharf does not make.
    pub is_unsupported: bool,
}

impl Repack {
    /// The names of its options.
    pub const OPTIONS: [&'static str; 3] =
        ["compression", "compression-level", "force-compression"];

    /// Reads it from options. `None` leaves layers as they are: new ones are bare tars.
    pub fn read<'a>(
        option: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Option<Repack>, PackingError> {
        let text = |key: &str| option(key).unwrap_or_default();
        let wrong = |key: &'static str, why: String| PackingError {
            key,
            value: text(key).to_owned(),
            why,
            is_unsupported: false,
        };
        let force = match text("force-compression") {
            "" => false,
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(wrong("force-compression", "not a boolean: use true or false".into())),
        };
        let whole = |_| wrong("compression-level", "not a whole number".into());
        let level: Option<i32> = match text("compression-level") {
            "" => None,
            value => Some(value.parse().map_err(whole)?),
        };
        let within = |least: i32, most: i32| match level {
            Some(n) if n < least || n > most => {
                Err(wrong("compression-level", format!("not between {least} and {most}")))
            }
            other => Ok(other),
        };
        let packing = match text("compression") {
            // BuildKit's own choice, if there must be one.
            "" if !force && level.is_none() => return Ok(None),
            "" | "gzip" => {
                let level = within(0, 9)?.and_then(|n| u32::try_from(n).ok());
                Packing::Gzip(level.unwrap_or(GZIP_LEVEL))
            }
            "zstd" => Packing::Zstd(within(1, 22)?.unwrap_or(ZSTD_LEVEL)),
            "uncompressed" => Packing::Plain,
            "estargz" => {
                let why = "wharf does not make such layers: use compression=gzip or zstd";
                let error = wrong("compression", why.into());
                return Err(PackingError { is_unsupported: true, ..error });
            }
            _ => return Err(wrong("compression", "use uncompressed, gzip or zstd".into())),
        };
        Ok(Some(Repack { packing, force }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[(&str, &'static str)]) -> Result<Option<Repack>, String> {
        let find = |key: &str| options.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        Repack::read(find).map_err(|e| e.to_string())
    }

    #[test]
    fn packings_are_read() {
        let made = |packing, force| Ok(Some(Repack { packing, force }));
        assert_eq!(of(&[("name", "x")]), Ok(None));
        assert_eq!(of(&[("compression", "gzip")]), made(Packing::Gzip(6), false));
        assert_eq!(of(&[("force-compression", "true")]), made(Packing::Gzip(6), true));
        let zstd = [("compression", "zstd"), ("compression-level", "22")];
        assert_eq!(of(&zstd), made(Packing::Zstd(22), false));
        assert_eq!(of(&[("compression", "uncompressed")]), made(Packing::Plain, false));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (options, says) in [
            (&[("compression", "estargz")][..], "use compression=gzip or zstd"),
            (&[("compression", "lzma")], "use uncompressed, gzip or zstd"),
            (&[("compression-level", "10")], "not between 0 and 9"),
            (&[("compression", "zstd"), ("compression-level", "0")], "not between 1 and 22"),
            (&[("compression", "gzip"), ("compression-level", "x")], "not a whole number"),
            (&[("force-compression", "maybe")], "not a boolean"),
        ] {
            let error = of(options).unwrap_err();
            assert!(error.contains(says), "{options:?}: {error}");
        }
    }
}
