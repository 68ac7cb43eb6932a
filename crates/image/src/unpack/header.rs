//! Tar headers: ustar, GNU and pax, read strictly and written.

use std::ops::Range;

/// Size of a header and unit of padding.
pub(crate) const BLOCK: usize = 512;

/// The fields of one 512-byte header.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
}

impl Header {
    /// Reads a header; the error says what is wrong with it.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        check_sum(block)?;
        let field = |range: Range<usize>| until_nul(&block[range]);
        let number = |range: Range<usize>| number(&block[range]);
        let unsigned = |range: Range<usize>| -> Result<u64, &'static str> {
            u64::try_from(number(range)?).map_err(|_| "negative number")
        };
        let mut name = field(0..100).to_vec();
        // GNU's magic is "ustar  \0" and uses the prefix field for other things.
        if &block[257..263] == b"ustar\0" && block[345] != 0 {
            let mut whole = field(345..500).to_vec();
            whole.push(b'/');
            whole.append(&mut name);
            name = whole;
        }
        let kind = block[156];
        let is_device = matches!(kind, b'3' | b'4');
        let device_number = |range| -> Result<u32, &'static str> {
            if !is_device {
                return Ok(0);
            }
            u32::try_from(unsigned(range)?).map_err(|_| "device number out of range")
        };
        Ok(Self {
            name,
            link: field(157..257).to_vec(),
            kind,
            mode: u32::try_from(unsigned(100..108)? & 0o7777).unwrap_or_default(),
            uid: unsigned(108..116)?,
            gid: unsigned(116..124)?,
            size: unsigned(124..136)?,
            mtime: number(136..148)?,
            device: (device_number(329..337)?, device_number(337..345)?),
        })
    }
}

/// The sparse map of an old GNU header: offset and length of each piece of data, the real size, and
/// whether more map blocks follow.
pub(crate) fn gnu_sparse(
    block: &[u8; BLOCK],
) -> Result<(Vec<(u64, u64)>, u64, bool), &'static str> {
    let real = u64::try_from(number(&block[483..495])?).map_err(|_| "negative size")?;
    Ok((sparse_pairs(&block[386..482])?, real, block[482] != 0))
}

/// One further block of an old GNU sparse map, and whether more follow.
pub(crate) fn gnu_sparse_more(
    block: &[u8; BLOCK],
) -> Result<(Vec<(u64, u64)>, bool), &'static str> {
    Ok((sparse_pairs(&block[..504])?, block[504] != 0))
}

fn sparse_pairs(bytes: &[u8]) -> Result<Vec<(u64, u64)>, &'static str> {
    let mut pairs = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 && pair[12] == 0 {
            break;
        }
        let part = |b: &[u8]| u64::try_from(number(b)?).map_err(|_| "negative number");
        pairs.push((part(&pair[..12])?, part(&pair[12..])?));
    }
    Ok(pairs)
}

/// The records of a pax header, in order.
pub(crate) fn pax_records(mut text: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, &'static str> {
    const WRONG: &str = "malformed pax record";
    let mut records = Vec::new();
    while !text.is_empty() {
        let space = text.iter().take(20).position(|b| *b == b' ').ok_or(WRONG)?;
        let length = decimal(&text[..space]).ok_or(WRONG)?;
        let length = usize::try_from(length).map_err(|_| WRONG)?;
        let record = text.get(space + 1..length).ok_or(WRONG)?;
        let record = record.strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or(WRONG)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = &text[length..];
    }
    Ok(records)
}

/// A decimal number without sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The bytes before the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal, or big-endian binary when the first bit is set (GNU, for what does not fit).
fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = if i == 0 && !negative { byte & 0x7f } else { *byte };
            value = value.checked_mul(256).ok_or("number out of range")? | i64::from(byte);
        }
        return Ok(value);
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0_i64, |value, byte| match byte {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|v| v.checked_add(i64::from(byte - b'0')))
            .ok_or("number out of range"),
        _ => Err("number is not octal"),
    })
}

/// Some old programs summed signed bytes; both are accepted, as everywhere.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let written = number(&block[148..156])?;
    let byte = |(i, b): (usize, &u8)| if (148..156).contains(&i) { b' ' } else { *b };
    let unsigned: i64 = block.iter().enumerate().map(byte).map(i64::from).sum();
    let signed: i64 = block.iter().enumerate().map(byte).map(|b| i64::from(b.cast_signed())).sum();
    if written == unsigned || written == signed { Ok(()) } else { Err("checksum does not match") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_octal_and_binary() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Ok(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Ok(256));
        assert_eq!(number(&[0xff; 12]), Ok(-1));
        assert_eq!(number(b"0000894\0"), Err("number is not octal"));
        assert!(number(&[0xbf; 12]).is_err());
    }

    #[test]
    fn pax_records_are_split_by_their_lengths() {
        let records = pax_records(b"12 path=a\nb\n11 size=10\n").unwrap();
        assert_eq!(records[0], (b"path".to_vec(), b"a\nb".to_vec()));
        assert_eq!(records[1], (b"size".to_vec(), b"10".to_vec()));
        for bad in ["5 a=b", "99 a=b\n", "x a=b\n", "4 ab\n", "0 a=b\n", "3 \n", "6 a=b\n\n"] {
            assert!(pax_records(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
