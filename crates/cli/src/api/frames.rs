//! The frames that carry standard output and standard error over one stream.

/// Which of the two a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The engine's own words about a failure.
    System,
}

/// Takes a stream apart as its bytes arrive, wherever they are cut.
#[derive(Default)]
pub struct Demux {
    header: Vec<u8>,
    current: Option<(Stream, usize)>,
}

impl Demux {
    /// The next piece of payload in `bytes`, which is moved past it; `None` when all is read.
    pub fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Option<(Stream, &'b [u8])>, String> {
        while !bytes.is_empty() {
            if let Some((stream, left)) = self.current {
                let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                *bytes = rest;
                self.current = (left > piece.len()).then(|| (stream, left - piece.len()));
                return Ok(Some((stream, piece)));
            }
            let (piece, rest) = bytes.split_at((8 - self.header.len()).min(bytes.len()));
            self.header.extend_from_slice(piece);
            *bytes = rest;
            if self.header.len() == 8 {
                self.current = self.start()?;
            }
        }
        Ok(None)
    }

    fn start(&mut self) -> Result<Option<(Stream, usize)>, String> {
        let header = std::mem::take(&mut self.header);
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let stream = match header[0] {
            0 | 1 => Stream::Stdout,
            2 => Stream::Stderr,
            3 => Stream::System,
            other => return Err(format!("unrecognized stream: {other}")),
        };
        Ok((length > 0).then_some((stream, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, text: &str) -> Vec<u8> {
        let mut out = vec![kind, 0, 0, 0];
        out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend(text.bytes());
        out
    }

    proptest::proptest! {
        #[test]
        fn cuts_do_not_matter(cut in 1usize..9) {
            let all = [frame(1, "hello"), frame(2, ""), frame(2, "err"), frame(1, "x")].concat();
            let (mut out, mut err) = (String::new(), String::new());
            let mut demux = Demux::default();
            for mut piece in all.chunks(cut) {
                while let Some((stream, bytes)) = demux.next(&mut piece).unwrap() {
                    let target = if stream == Stream::Stdout { &mut out } else { &mut err };
                    target.push_str(std::str::from_utf8(bytes).unwrap());
                }
            }
            proptest::prop_assert_eq!((out.as_str(), err.as_str()), ("hellox", "err"));
        }

        #[test]
        fn rubbish_is_refused_without_a_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)
        ) {
            let (mut rest, mut demux) = (bytes.as_slice(), Demux::default());
            while let Ok(Some(_)) = demux.next(&mut rest) {}
        }
    }
}
