//! The `local` format: Docker's protobuf `LogEntry` between two copies of its big-endian length.
//!
//! Fields: 1 stream name, 2 nanoseconds since 1970, 3 text without its line end, 4 whether this is a piece of a
//! longer line, 5 { 1 whether it is the last piece, 2 id of the line, 3 number of the piece }. The length behind
//! the entry lets a reader walk backwards.

use crate::log::Stream;

/// Bytes of a length.
pub(crate) const LENGTH: usize = 4;
/// The most that a record adds to its text.
pub(crate) const OVERHEAD: usize = 96;
/// No entry is longer; what claims to be is damage.
const LONGEST: usize = 1 << 20;

/// A piece of a line that is too long for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The same for all pieces of a line.
    pub(crate) line: i64,
    /// Counted from 1.
    pub(crate) number: u32,
    /// It ends the line.
    pub(crate) last: bool,
}

/// Appends one record.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    stream: Stream,
    at: i64,
    text: &[u8],
    piece: Option<Piece>,
) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    field_bytes(out, 1, stream.name().as_bytes());
    out.push(2 << 3);
    varint(out, at.cast_unsigned());
    field_bytes(out, 3, text);
    if let Some(piece) = piece {
        out.extend_from_slice(&[4 << 3, 1]);
        let mut inner = Vec::with_capacity(32);
        if piece.last {
            inner.extend_from_slice(&[1 << 3, 1]);
        }
        field_bytes(&mut inner, 2, format!("{:016x}", piece.line).as_bytes());
        inner.push(3 << 3);
        varint(&mut inner, piece.number.into());
        field_bytes(out, 5, &inner);
    }
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX).to_be_bytes();
    out[start..start + LENGTH].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

fn field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[allow(clippy::cast_possible_truncation, reason = "takes the low seven bits")]
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// One record, borrowed from where it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) stream: Stream,
    pub(crate) at: i64,
    pub(crate) text: &'a [u8],
    /// A line ends with this record.
    pub(crate) ends: bool,
}

/// What the start of a buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A record; the second value is its length with both lengths around it.
    Whole(&'a [u8], usize),
    /// The beginning of one.
    Partial,
    /// None.
    Damaged,
}

/// Finds the record at the start of `buffer`.
pub(crate) fn frame(buffer: &[u8]) -> Frame<'_> {
    let Some(len) = length_at(buffer, 0) else { return Frame::Partial };
    if len > LONGEST || len == 0 {
        return Frame::Damaged;
    }
    match length_at(buffer, LENGTH + len) {
        None => Frame::Partial,
        Some(again) if again == len => {
            Frame::Whole(&buffer[LENGTH..LENGTH + len], len + 2 * LENGTH)
        }
        Some(_) => Frame::Damaged,
    }
}

/// The length field at `at`, if `buffer` has all of it.
pub(crate) fn length_at(buffer: &[u8], at: usize) -> Option<usize> {
    let bytes = buffer.get(at..at + LENGTH)?;
    usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

/// Reads the inside of a record. Unknown fields are skipped.
pub(crate) fn decode(mut entry: &[u8]) -> Option<Entry<'_>> {
    let mut found = Entry { stream: Stream::Stdout, at: 0, text: b"", ends: true };
    while !entry.is_empty() {
        let (field, value) = next_field(&mut entry)?;
        match (field, value) {
            (1, Value::Bytes(b"stdout")) => found.stream = Stream::Stdout,
            (1, Value::Bytes(b"stderr")) => found.stream = Stream::Stderr,
            (2, Value::Number(n)) => found.at = n.cast_signed(),
            (3, Value::Bytes(text)) => found.text = text,
            (4, Value::Number(1)) => found.ends = false,
            (5, Value::Bytes(inner)) => found.ends = piece_is_last(inner)?,
            _ => {}
        }
    }
    Some(found)
}

fn piece_is_last(mut inner: &[u8]) -> Option<bool> {
    let mut last = false;
    while !inner.is_empty() {
        if let (1, Value::Number(n)) = next_field(&mut inner)? {
            last = n != 0;
        }
    }
    Some(last)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn next_field<'a>(from: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = next_varint(from)?;
    let value = match key & 7 {
        0 => Value::Number(next_varint(from)?),
        1 => Value::Bytes(take(from, 8)?),
        2 => {
            let len = usize::try_from(next_varint(from)?).ok()?;
            Value::Bytes(take(from, len)?)
        }
        5 => Value::Bytes(take(from, 4)?),
        _ => return None,
    };
    Some((key >> 3, value))
}

fn next_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_docker() {
        let mut out = Vec::new();
        encode(&mut out, Stream::Stdout, 1, b"hi", None);
        assert_eq!(out, b"\0\0\0\x0e\x0a\x06stdout\x10\x01\x1a\x02hi\0\0\0\x0e");
    }

    #[test]
    fn pieces_end_a_line_only_at_the_last() {
        for (last, number) in [(false, 1), (true, 2)] {
            let mut out = Vec::new();
            let piece = Some(Piece { line: 7, number, last });
            encode(&mut out, Stream::Stderr, -3, b"x", piece);
            let Frame::Whole(entry, len) = frame(&out) else { panic!() };
            assert_eq!(len, out.len());
            let want = Entry { stream: Stream::Stderr, at: -3, text: b"x", ends: last };
            assert_eq!(decode(entry), Some(want));
        }
    }

    #[test]
    fn torn_and_damaged_frames_are_told_apart() {
        let mut out = Vec::new();
        encode(&mut out, Stream::Stdout, 1, b"text", None);
        for cut in 0..out.len() {
            assert_eq!(frame(&out[..cut]), Frame::Partial);
        }
        let end = out.len() - 1;
        out[end] ^= 1;
        assert_eq!(frame(&out), Frame::Damaged);
        assert_eq!(frame(&[0; 12]), Frame::Damaged);
        assert_eq!(frame(&[0xff; 12]), Frame::Damaged);
    }

    proptest::proptest! {
        #[test]
        fn records_come_back(text: Vec<u8>, at: i64) {
            let mut out = Vec::new();
            encode(&mut out, Stream::Stdout, at, &text, None);
            proptest::prop_assert!(out.len() <= text.len() + OVERHEAD);
            let Frame::Whole(entry, _) = frame(&out) else { panic!() };
            let entry = decode(entry).unwrap();
            proptest::prop_assert_eq!((entry.at, entry.text), (at, &text[..]));
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            frame(&bytes);
            decode(&bytes);
        }
    }
}
