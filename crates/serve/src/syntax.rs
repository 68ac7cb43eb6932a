//! What is wrong with a text that is not JSON, in the words of Go's decoder, which clients know from Docker.

/// Go's account of the first mistake in `bytes`; `None` if one value can be read.
pub(crate) fn mistake(bytes: &[u8]) -> Option<String> {
    Reader { bytes, at: 0 }.value(0).err().map(|wrong| match wrong {
        Wrong::End => "unexpected EOF".to_owned(),
        Wrong::Byte(byte, place) => format!("invalid character {} {place}", quoted(byte)),
        Wrong::Deep => "exceeded max depth".to_owned(),
    })
}

/// What the reader of requests takes; Go's limit of 10,000 would be too much for a stack.
const MAX_DEPTH: usize = 128;

enum Wrong {
    End,
    Byte(u8, String),
    Deep,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<u8, Wrong> {
        let byte = *self.bytes.get(self.at).ok_or(Wrong::End)?;
        self.at += 1;
        Ok(byte)
    }

    /// The next byte that is no blank.
    fn solid(&mut self) -> Result<u8, Wrong> {
        loop {
            match self.next()? {
                b' ' | b'\t' | b'\r' | b'\n' => (),
                byte => return Ok(byte),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), Wrong> {
        let first = self.solid()?;
        self.value_from(first, depth)
    }

    fn value_from(&mut self, first: u8, depth: usize) -> Result<(), Wrong> {
        match first {
            _ if depth > MAX_DEPTH => Err(Wrong::Deep),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'-' | b'0'..=b'9' => self.number(first),
            other => Err(wrong(other, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Wrong> {
        let mut key = self.solid()?;
        if key == b'}' {
            return Ok(());
        }
        loop {
            if key != b'"' {
                return Err(wrong(key, "looking for beginning of object key string"));
            }
            self.string()?;
            match self.solid()? {
                b':' => self.value(depth + 1)?,
                other => return Err(wrong(other, "after object key")),
            }
            match self.solid()? {
                b'}' => return Ok(()),
                b',' => key = self.solid()?,
                other => return Err(wrong(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Wrong> {
        let mut first = self.solid()?;
        if first == b']' {
            return Ok(());
        }
        loop {
            self.value_from(first, depth + 1)?;
            match self.solid()? {
                b']' => return Ok(()),
                b',' => first = self.solid()?,
                other => return Err(wrong(other, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Result<(), Wrong> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                control @ 0..0x20 => return Err(wrong(control, "in string literal")),
                _ => (),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Wrong> {
        match self.next()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => (0..4).try_for_each(|_| match self.next()? {
                digit if digit.is_ascii_hexdigit() => Ok(()),
                other => Err(wrong(other, "in \\u hexadecimal character escape")),
            }),
            other => Err(wrong(other, "in string escape code")),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Wrong> {
        word.bytes().skip(1).try_for_each(|expected| match self.next()? {
            byte if byte == expected => Ok(()),
            other => {
                let expected = char::from(expected);
                Err(wrong(other, &format!("in literal {word} (expecting '{expected}')")))
            }
        })
    }

    fn number(&mut self, first: u8) -> Result<(), Wrong> {
        let lead = if first == b'-' { self.digit("in numeric literal")? } else { first };
        if lead != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self, place: &str) -> Result<u8, Wrong> {
        match self.next()? {
            digit @ b'0'..=b'9' => Ok(digit),
            other => Err(wrong(other, place)),
        }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

fn wrong(byte: u8, place: &str) -> Wrong {
    Wrong::Byte(byte, place.to_owned())
}

/// A byte as Go's decoder shows it.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => r#"'"'"#.into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        // Go takes the byte for a code point; those from 128 to 159 do not print.
        0x80..0xa0 => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_as_go_tells_them() {
        for (text, told) in [
            ("{invalid json", "invalid character 'i' looking for beginning of object key string"),
            ("}", "invalid character '}' looking for beginning of value"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            (r#""\u12g4""#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("tru!", "invalid character '!' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.e", "invalid character 'e' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            (r#"{"a":"#, "unexpected EOF"),
        ] {
            assert_eq!(mistake(text.as_bytes()).as_deref(), Some(told), "{text}");
        }
        for good in [r#" {"a":[1,-0.5e+3,"\u00e4",{}],"b":null} "#, "true", "[]", "0"] {
            assert_eq!(mistake(good.as_bytes()), None, "{good}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = vec![b'['; 20_000];
        assert_eq!(mistake(&deep).as_deref(), Some("exceeded max depth"));
    }
}
