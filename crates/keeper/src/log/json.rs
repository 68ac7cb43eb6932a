//! The `json-file` format: one object in each line, byte for byte as Docker writes it.
//!
//! `{"log":"text\n","stream":"stdout","attrs":{…},"time":"RFC3339Nano"}`; attrs only where there are any. A line that
//! is too long for one record goes on in the next; only the last of them ends in `\n`.

use serde::Deserialize;

use crate::log::{Stream, time};

const OPEN: &[u8] = b"{\"log\":\"";

/// The most bytes that `encode` adds for a text of `len` bytes, given the length of its `middle`.
pub(crate) fn worst(len: usize, middle: usize) -> usize {
    OPEN.len() + len * 6 + 2 + middle + time::LONGEST + 3
}

/// What stands between text and time in each record of `stream`.
pub(crate) fn middle(stream: Stream, attrs: &[(String, String)]) -> Vec<u8> {
    let mut out = b"\",\"stream\":\"".to_vec();
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",");
    if !attrs.is_empty() {
        out.extend_from_slice(b"\"attrs\":{");
        for (i, (key, value)) in attrs.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"\"" } else { b",\"" });
            escape(&mut out, key.as_bytes());
            out.extend_from_slice(b"\":\"");
            escape(&mut out, value.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b"},");
    }
    out.extend_from_slice(b"\"time\":\"");
    out
}

/// Appends one record.
pub(crate) fn encode(out: &mut Vec<u8>, text: &[u8], ends: bool, middle: &[u8], stamp: &[u8]) {
    out.extend_from_slice(OPEN);
    escape(out, text);
    if ends {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(middle);
    out.extend_from_slice(stamp);
    out.extend_from_slice(b"\"}\n");
}

/// Appends `text` as the inside of a JSON string, with the escapes of Docker's encoder: it spares HTML characters
/// and the two line separators of JavaScript, and replaces bytes that are not UTF-8 by U+FFFD.
fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let plain = plain_prefix(text);
        out.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        let Some(&byte) = text.first() else { return };
        if byte < 0x80 {
            escape_ascii(out, byte);
            text = &text[1..];
        } else {
            text = &text[escape_wide(out, text)..];
        }
    }
}

/// How many bytes at the start need no look: printable ASCII without quotes, backslash and HTML.
fn plain_prefix(text: &[u8]) -> usize {
    const WIDTH: usize = 32;
    let mut done = 0;
    // Whole blocks without an early exit, which the compiler turns into vector instructions.
    for block in text.chunks_exact(WIDTH) {
        if block.iter().fold(false, |found, &b| found | special(b)) {
            break;
        }
        done += WIDTH;
    }
    let rest = &text[done..];
    done + rest.iter().position(|&b| special(b)).unwrap_or(rest.len())
}

fn special(b: u8) -> bool {
    !(0x20..0x80).contains(&b)
        | (b == b'"')
        | (b == b'\\')
        | (b == b'<')
        | (b == b'>')
        | (b == b'&')
}

fn escape_ascii(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Appends the character at the start of `text`, which is not ASCII; returns its length there.
fn escape_wide(out: &mut Vec<u8>, text: &[u8]) -> usize {
    match first_char(text) {
        None => {
            out.extend_from_slice(b"\\ufffd");
            1
        }
        Some(c @ ('\u{2028}' | '\u{2029}')) => {
            out.extend_from_slice(if c == '\u{2028}' { b"\\u2028" } else { b"\\u2029" });
            3
        }
        Some(c) => {
            out.extend_from_slice(&text[..c.len_utf8()]);
            c.len_utf8()
        }
    }
}

fn first_char(text: &[u8]) -> Option<char> {
    let window = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(window) {
        Ok(s) => s,
        Err(e) => std::str::from_utf8(&window[..e.valid_up_to()]).unwrap_or_default(),
    };
    valid.chars().next()
}

/// What a record says besides its text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) stream: Stream,
    pub(crate) at: i64,
    /// The attrs object as it stands, empty if there is none.
    pub(crate) attrs: &'a [u8],
}

/// Appends the text of `record` (a line without its end) to `out`.
///
/// `None`, with `out` as it was, for a line that is no record: torn by a crash, or not ours.
pub(crate) fn decode<'a>(record: &'a [u8], out: &mut Vec<u8>) -> Option<Head<'a>> {
    let before = out.len();
    let head = decode_own(record, out);
    if head.is_some() {
        return head;
    }
    out.truncate(before);
    decode_any(record, out)
}

/// Reads the exact shape that `encode` writes.
fn decode_own<'a>(record: &'a [u8], out: &mut Vec<u8>) -> Option<Head<'a>> {
    let rest = unescape(record.strip_prefix(OPEN)?, out)?;
    let rest = rest.strip_prefix(b",\"stream\":\"std")?;
    let (stream, rest) = match rest.strip_prefix(b"out\",") {
        Some(rest) => (Stream::Stdout, rest),
        None => (Stream::Stderr, rest.strip_prefix(b"err\",")?),
    };
    let (attrs, rest) = match rest.strip_prefix(b"\"attrs\":") {
        Some(at) => {
            let end = object_end(at)?;
            (&at[..end], at[end..].strip_prefix(b",")?)
        }
        None => (&b""[..], rest),
    };
    let stamp = rest.strip_prefix(b"\"time\":\"")?.strip_suffix(b"\"}")?;
    Some(Head { stream, at: time::parse(stamp)?, attrs })
}

/// Appends a JSON string, given what follows its opening quote; returns what follows the closing one.
fn unescape<'a>(mut text: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let stop = memchr::memchr2(b'"', b'\\', text)?;
        out.extend_from_slice(&text[..stop]);
        if text[stop] == b'"' {
            return Some(&text[stop + 1..]);
        }
        let plain = match text.get(stop + 1)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            &c @ (b'"' | b'\\' | b'/') => c,
            b'u' => {
                // Surrogate pairs are left to `decode_any`: our own encoder never writes them.
                let hex = std::str::from_utf8(text.get(stop + 2..stop + 6)?).ok()?;
                let c = char::from_u32(u32::from_str_radix(hex, 16).ok()?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                text = &text[stop + 6..];
                continue;
            }
            _ => return None,
        };
        out.push(plain);
        text = &text[stop + 2..];
    }
}

/// Where the flat object of strings at the start of `text` ends.
fn object_end(text: &[u8]) -> Option<usize> {
    let (mut in_string, mut escaped) = (false, false);
    for (i, &b) in text.iter().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'}' if !in_string => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// Reads any JSON object with the right fields, as other writers of the format may order or escape them.
fn decode_any<'a>(record: &'a [u8], out: &mut Vec<u8>) -> Option<Head<'a>> {
    #[derive(Deserialize)]
    struct Record<'a> {
        #[serde(default)]
        log: String,
        stream: String,
        time: String,
        #[serde(default, borrow)]
        attrs: Option<&'a serde_json::value::RawValue>,
    }
    let found: Record<'a> = serde_json::from_slice(record).ok()?;
    let stream = match found.stream.as_str() {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let at = time::parse(found.time.as_bytes())?;
    out.extend_from_slice(found.log.as_bytes());
    Some(Head { stream, at, attrs: found.attrs.map_or(b"", |a| a.get().as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &[u8], ends: bool, attrs: &[(String, String)]) -> String {
        let mut out = Vec::new();
        let middle = middle(Stream::Stdout, attrs);
        encode(&mut out, text, ends, &middle, b"2026-11-23T07:02:11.5Z");
        assert!(out.len() <= worst(text.len(), middle.len()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_are_those_of_docker() {
        assert_eq!(
            encoded(b"hello <b>&\t\"q\"\\\r\x1b[0m", true, &[]),
            "{\"log\":\"hello \\u003cb\\u003e\\u0026\\u0009\\\"q\\\"\\\\\\r\\u001b[0m\\n\",\
             \"stream\":\"stdout\",\"time\":\"2026-11-23T07:02:11.5Z\"}\n"
        );
        let attrs = [("app".into(), "x\"y".into()), ("b".into(), "}".into())];
        assert_eq!(
            encoded("ü\u{2028}".as_bytes(), false, &attrs),
            "{\"log\":\"ü\\u2028\",\"stream\":\"stdout\",\
             \"attrs\":{\"app\":\"x\\\"y\",\"b\":\"}\"},\"time\":\"2026-11-23T07:02:11.5Z\"}\n"
        );
        assert!(encoded(b"a\xffb\xc3", true, &[]).contains("a\\ufffdb\\ufffd\\n"));
    }

    #[test]
    fn attrs_are_found_again() {
        let attrs = [("app".into(), "x\"y".into()), ("b".into(), "}\\".into())];
        let record = encoded(b"t", true, &attrs);
        let mut out = Vec::new();
        let head = decode_own(record.trim_end().as_bytes(), &mut out).unwrap();
        assert_eq!(head.attrs, br#"{"app":"x\"y","b":"}\\"}"#);
        assert_eq!(out, b"t\n");
    }

    #[test]
    fn records_of_others_are_read() {
        let record =
            br#"{"time":"1970-01-01T00:00:01Z", "stream":"stderr", "log":"\ud83d\ude00 \/x"}"#;
        let mut out = Vec::new();
        let head = decode(record, &mut out).unwrap();
        assert_eq!((head.stream, head.at), (Stream::Stderr, 1_000_000_000));
        assert_eq!(out, "😀 /x".as_bytes());
    }

    #[test]
    fn what_is_no_record_leaves_no_trace() {
        let whole = encoded(b"some text", true, &[]);
        for cut in 0..whole.len() - 2 {
            let mut out = b"before".to_vec();
            assert_eq!(decode(&whole.as_bytes()[..cut], &mut out), None, "{cut}");
            assert_eq!(out, b"before");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_valid_json_and_come_back(text: Vec<u8>, ends: bool) {
            let record = encoded(&text, ends, &[]);
            let value: serde_json::Value = serde_json::from_str(&record).unwrap();
            let mut want = String::new();
            // Go replaces each bad byte by itself, unlike from_utf8_lossy.
            let mut rest = &text[..];
            while !rest.is_empty() {
                match first_char(rest) {
                    Some(c) => { want.push(c); rest = &rest[c.len_utf8()..]; }
                    None => { want.push('\u{fffd}'); rest = &rest[1..]; }
                }
            }
            if ends { want.push('\n'); }
            proptest::prop_assert_eq!(value["log"].as_str().unwrap(), &want);
            let mut out = Vec::new();
            let head = decode_own(record.trim_end().as_bytes(), &mut out);
            proptest::prop_assert!(head.is_some());
            proptest::prop_assert_eq!(out, want.into_bytes());
        }

        #[test]
        fn decoding_never_panics(record: Vec<u8>) {
            let mut out = Vec::new();
            decode(&record, &mut out);
            let mut own = OPEN.to_vec();
            own.extend_from_slice(&record);
            decode(&own, &mut out);
        }
    }
}
