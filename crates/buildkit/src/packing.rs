//! How an output wants its layers packed: `compression`, `compression-level`, `force-compression`.

use std::collections::HashMap;

use tonic::Status;
use wharf_image::{Packing, Repack};

use crate::options::boolean;

const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Whether an option of an output is about it.
pub(crate) fn is_one(option: &str) -> bool {
    ["compression", "compression-level", "force-compression"].contains(&option)
}

/// Reads the options of an output. `None` leaves layers as they are: new ones are bare tars.
pub(crate) fn read(options: &HashMap<String, String>) -> Result<Option<Repack>, Status> {
    let text = |key: &str| options.get(key).map_or("", String::as_str);
    let wrong = |key: &str, why: &str| {
        Status::invalid_argument(format!("{key}={} of the output: {why}", text(key)))
    };
    let force = match text("force-compression") {
        "" => false,
        value => boolean(value).ok_or_else(|| wrong("force-compression", "not a boolean"))?,
    };
    let level = match text("compression-level") {
        "" => None,
        value => Some(value.parse().map_err(|_| wrong("compression-level", "not a whole number"))?),
    };
    let within = |least: i32, most: i32| match level {
        Some(n) if n < least || n > most => {
            Err(wrong("compression-level", &format!("not between {least} and {most}")))
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
            let text = "wharf does not make layers of type estargz: use compression=gzip or zstd";
            return Err(Status::unimplemented(text));
        }
        _ => return Err(wrong("compression", "use uncompressed, gzip or zstd")),
    };
    Ok(Some(Repack { packing, force }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[(&str, &str)]) -> Result<Option<Repack>, tonic::Code> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        read(&options.iter().map(own).collect()).map_err(|e| e.code())
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
        assert_eq!(of(&[("compression", "estargz")]), Err(tonic::Code::Unimplemented));
        for options in [
            &[("compression", "lzma")][..],
            &[("compression-level", "10")],
            &[("compression", "zstd"), ("compression-level", "0")],
            &[("compression", "gzip"), ("compression-level", "x")],
            &[("force-compression", "maybe")],
        ] {
            assert_eq!(of(options), Err(tonic::Code::InvalidArgument), "{options:?}");
        }
    }
}
