//! Decompression by content: what the first bytes say, not what a name or media type claims.

use std::io::{self, BufRead as _, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// What the first bytes say.
    pub(crate) fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A zstd skippable frame: zstd:chunked and pzstd may begin with one.
            [b, 0x2a, 0x4d, 0x18, ..] if b & 0xf0 == 0x50 => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// A reader of the plain bytes of `input`.
pub(crate) fn open<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, Whole(input));
    match Compression::sniff(input.fill_buf()?) {
        Compression::None => Ok(Box::new(input)),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(input))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            // 128 MiB: what `zstd --long=27` writes; more is a memory bomb.
            decoder.window_log_max(27)?;
            Ok(Box::new(decoder))
        }
        Compression::Bzip2 => Err(unsupported("bzip2")),
        Compression::Xz => Err(unsupported("xz")),
    }
}

fn unsupported(what: &str) -> io::Error {
    let text = format!("{what} compression is not supported; use gzip or zstd");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// Fills each read as far as the stream goes, so that the first buffer is long enough to sniff.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < buffer.len() {
            match self.0.read(&mut buffer[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(have)
    }
}
