//! From the text of an expression to its words and symbols.

use super::CompileError;

/// A word or symbol.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Symbol(&'static str),
    End,
}

/// All of a text, each with its place; the last is the end.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, CompileError> {
    Lexer { source, at: 0 }.all()
}

/// A token as messages name it.
pub(super) fn show(t: &Token) -> String {
    match t {
        Token::Name(n) => format!("'{n}'"),
        Token::Symbol(s) => format!("'{s}'"),
        Token::End => "'<EOF>'".to_owned(),
        Token::Int(n) => format!("'{n}'"),
        Token::Uint(n) => format!("'{n}u'"),
        Token::Double(n) => format!("'{n}'"),
        Token::Text(s) => format!("{s:?}"),
        Token::Bytes(_) => "a bytes literal".to_owned(),
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

/// Longer symbols first.
const SYMBOLS: [&str; 27] = [
    "&&", "||", "==", "!=", "<=", ">=", ".?", "[?", "(", ")", "[", "]", "{", "}", ",", ".", ":",
    "?", "+", "-", "*", "/", "%", "<", ">", "!", "=",
];

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn error(&self, why: impl Into<String>) -> CompileError {
        CompileError::new(self.source, self.at, why)
    }

    fn all(mut self) -> Result<Vec<(Token, usize)>, CompileError> {
        let mut out = Vec::new();
        loop {
            self.space();
            let at = self.at;
            let token = self.token()?;
            let end = token == Token::End;
            out.push((token, at));
            if end {
                return Ok(out);
            }
        }
    }

    fn space(&mut self) {
        loop {
            let trimmed = self.rest().trim_start();
            self.at = self.source.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn token(&mut self) -> Result<Token, CompileError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if let Some(prefix) = text_start(rest) {
            self.at += prefix.len();
            return self.text(&prefix.to_ascii_lowercase());
        }
        if first.is_ascii_digit()
            || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())
        {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let len = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            let name = rest[..len].to_owned();
            self.at += len;
            return Ok(Token::Name(name));
        }
        if let Some(quoted) = rest.strip_prefix('`')
            && let Some(end) = quoted.find('`')
        {
            let name = quoted[..end].to_owned();
            self.at += end + 2;
            return Ok(Token::Name(name));
        }
        match SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            Some(s) => {
                self.at += s.len();
                Ok(Token::Symbol(s))
            }
            None => Err(self.error(format!("Syntax error: token recognition error at: '{first}'"))),
        }
    }

    fn number(&mut self) -> Result<Token, CompileError> {
        let rest = self.rest();
        let bad = || CompileError::new(self.source, self.at, "invalid int literal");
        let (digits, radix) = match rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            Some(hex) => (hex, 16),
            None => (rest, 10),
        };
        let len = digits.bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
        let after = &digits[len..];
        let fraction = radix == 10
            && (after.starts_with('.') && after[1..].starts_with(|c: char| c.is_ascii_digit())
                || after.starts_with(['e', 'E']));
        if fraction {
            let mut end = len;
            let bytes = digits.as_bytes();
            while end < bytes.len()
                && (bytes[end].is_ascii_digit()
                    || matches!(bytes[end], b'.' | b'e' | b'E')
                    || matches!(bytes[end], b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E'))
            {
                end += 1;
            }
            let n = digits[..end]
                .parse()
                .map_err(|_| CompileError::new(self.source, self.at, "invalid double literal"))?;
            self.at += end;
            return Ok(Token::Double(n));
        }
        let text = &digits[..len];
        let skipped = rest.len() - digits.len();
        if after.starts_with(['u', 'U']) {
            let n = u64::from_str_radix(text, radix)
                .map_err(|_| CompileError::new(self.source, self.at, "invalid uint literal"))?;
            self.at += skipped + len + 1;
            return Ok(Token::Uint(n));
        }
        // The smallest number is written with a minus, which comes before.
        let n = match i64::from_str_radix(text, radix) {
            Ok(n) => n,
            Err(_) if text == "9223372036854775808" => i64::MIN,
            Err(_) => return Err(bad()),
        };
        self.at += skipped + len;
        Ok(Token::Int(n))
    }

    fn text(&mut self, prefix: &str) -> Result<Token, CompileError> {
        let (raw, bytes) = (prefix.contains('r'), prefix.contains('b'));
        let rest = self.rest();
        let quote =
            ["'''", "\"\"\"", "'", "\""].into_iter().find(|q| rest.starts_with(q)).unwrap_or("'");
        let start = self.at;
        self.at += quote.len();
        let mut out: Vec<u8> = Vec::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(quote) {
                self.at += quote.len();
                break;
            }
            let Some(c) = rest.chars().next() else {
                return Err(CompileError::new(
                    self.source,
                    start,
                    "Syntax error: token recognition error: the text does not end",
                ));
            };
            if c == '\n' && quote.len() == 1 {
                return Err(self.error(
                    "Syntax error: token recognition error: the text does not end on its line",
                ));
            }
            if c == '\\' && !raw {
                self.escape(&mut out, bytes)?;
                continue;
            }
            self.at += c.len_utf8();
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if bytes {
            return Ok(Token::Bytes(out));
        }
        String::from_utf8(out).map(Token::Text).map_err(|_| self.error("the text is not UTF-8"))
    }

    fn escape(&mut self, out: &mut Vec<u8>, bytes: bool) -> Result<(), CompileError> {
        let rest = &self.rest()[1..];
        let bad = CompileError::new(self.source, self.at, "Syntax error: invalid escape");
        let Some(c) = rest.chars().next() else { return Err(bad) };
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => Some(c as u8),
            _ => None,
        };
        if let Some(b) = simple {
            out.push(b);
            self.at += 2;
            return Ok(());
        }
        let (skip, len, radix) = match c {
            'x' | 'X' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='3' => (0, 3, 8),
            _ => return Err(bad),
        };
        let Some(n) = rest.get(skip..skip + len).and_then(|d| u32::from_str_radix(d, radix).ok())
        else {
            return Err(bad);
        };
        self.at += 1 + skip + len;
        if bytes && len <= 3 {
            out.push(u8::try_from(n).map_err(|_| bad)?);
        } else {
            let c = char::from_u32(n).ok_or(bad)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}

/// The prefix of a text literal that begins here, if one does.
fn text_start(rest: &str) -> Option<String> {
    let len = rest.bytes().take_while(|b| matches!(b, b'r' | b'R' | b'b' | b'B')).count();
    (len <= 2 && rest[len..].starts_with(['\'', '"'])).then(|| rest[..len].to_owned())
}
