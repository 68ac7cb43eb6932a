//! Content codings of an archive that leaves: gzip or deflate where the client asks for them.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use futures_util::{StreamExt as _, stream};
use wharf_engine::options::ByteStream;

/// How a body is compressed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Not at all.
    Identity,
    /// gzip.
    Gzip,
    /// A bare deflate stream, as Go writes it.
    Deflate,
}

impl Coding {
    /// The coding that an `Accept-Encoding` header likes best.
    pub(crate) fn choose(accept: &str) -> Coding {
        let quality = |wanted: &str| {
            let found = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?;
                let q =
                    parts.find_map(|p| p.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
                q.filter(|_| name.eq_ignore_ascii_case(wanted))
            });
            found.fold(0.0, f32::max)
        };
        let (gzip, deflate) = (quality("gzip"), quality("deflate"));
        match () {
            () if gzip > 0.0 && gzip >= deflate && gzip >= quality("identity") => Coding::Gzip,
            () if deflate > 0.0 && deflate >= quality("identity") => Coding::Deflate,
            () => Coding::Identity,
        }
    }

    /// The value of `Content-Encoding`; none for identity.
    pub(crate) const fn name(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
        }
    }

    /// Compresses `blocks`.
    pub(crate) fn apply(self, blocks: ByteStream) -> ByteStream {
        match self {
            Coding::Identity => blocks,
            Coding::Gzip => squeeze(blocks, GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Deflate => {
                squeeze(blocks, DeflateEncoder::new(Vec::new(), Compression::fast()))
            }
        }
    }
}

/// An encoder over a buffer that is emptied after each block.
trait Squeeze: Write + Send + 'static {
    fn take(&mut self) -> Vec<u8>;
    fn finish(self) -> io::Result<Vec<u8>>;
}

impl Squeeze for GzEncoder<Vec<u8>> {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.get_mut())
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        GzEncoder::finish(self)
    }
}

impl Squeeze for DeflateEncoder<Vec<u8>> {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.get_mut())
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        DeflateEncoder::finish(self)
    }
}

fn squeeze(blocks: ByteStream, encoder: impl Squeeze) -> ByteStream {
    let out = stream::unfold((blocks, Some(encoder)), |(mut blocks, encoder)| async move {
        let mut encoder = encoder?;
        loop {
            let step = match blocks.next().await {
                Some(Ok(block)) => encoder.write_all(&block).map(|()| encoder.take()),
                Some(Err(e)) => Err(e),
                None => return Some((encoder.finish().map(Bytes::from), (blocks, None))),
            };
            match step {
                // The encoder keeps small blocks back.
                Ok(bytes) if bytes.is_empty() => (),
                Ok(bytes) => return Some((Ok(bytes.into()), (blocks, Some(encoder)))),
                Err(e) => return Some((Err(e), (blocks, None))),
            }
        }
    });
    Box::pin(out)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_best_liked_coding_is_chosen() {
        for (accept, expected) in [
            ("", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("deflate, gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("gzip;q=0.1, deflate;q=0.5", Coding::Deflate),
            ("gzip;q=0", Coding::Identity),
            ("gzip;q=0.5, identity", Coding::Identity),
            ("br, zstd", Coding::Identity),
        ] {
            assert_eq!(Coding::choose(accept), expected, "{accept:?}");
        }
    }

    #[tokio::test]
    async fn what_is_squeezed_comes_out_again() {
        let blocks: Vec<io::Result<Bytes>> =
            (0..50u8).map(|n| Ok(Bytes::from(vec![n; 5000]))).collect();
        let whole: Vec<u8> = (0..50u8).flat_map(|n| vec![n; 5000]).collect();
        let squeezed = Coding::Gzip.apply(Box::pin(stream::iter(blocks)));
        let squeezed: Vec<u8> = squeezed.map(Result::unwrap).collect::<Vec<_>>().await.concat();
        let mut again = Vec::new();
        flate2::read::GzDecoder::new(&squeezed[..]).read_to_end(&mut again).unwrap();
        assert_eq!(again, whole);
    }
}
