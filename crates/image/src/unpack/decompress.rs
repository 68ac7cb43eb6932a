//! Decompression by content: what the first bytes say, not what a name or media type claims.

use std::io::{self, BufRead as _, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use wharf_spec::image::media_type;

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
    /// How many bytes tell all of them apart.
    pub(crate) const MARK: usize = 6;

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

    /// The media type of a layer that is packed so, in OCI's terms.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => media_type::OCI_LAYER_GZIP,
            Self::Zstd => media_type::OCI_LAYER_ZSTD,
            _ => media_type::OCI_LAYER,
        }
    }
}

/// The most memory that an xz stream may ask for, in KiB: twice the dictionary of `xz -9`.
const XZ_MEMORY: u32 = 128 << 10;

/// A reader of the plain bytes of `input`: plain, gzip, zstd, bzip2 or xz.
pub fn open<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
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
        Compression::Bzip2 => Ok(Box::new(MultiBzDecoder::new(input))),
        Compression::Xz => Ok(Box::new(XzReader::new_mem_limit(input, true, XZ_MEMORY))),
    }
}

/// `input` as it is, unless its compression is one that layers of an image cannot have: then its plain bytes.
pub(crate) fn for_a_layer<'a>(
    input: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(128 << 10, Whole(input));
    match Compression::sniff(input.fill_buf()?) {
        Compression::Bzip2 | Compression::Xz => open(input),
        _ => Ok(Box::new(input)),
    }
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
