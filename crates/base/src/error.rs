//! Printing an error with its causes: each error says its own part, the printer walks the chain.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;

/// Displays `error` and every source below it, joined by `: `.
///
/// A cause whose text already ends what was printed is skipped, so that a transparent wrapper
/// does not say things twice. The kernel's errors are spelled as C and Go spell them, since
/// clients match on `no such file or directory`, without a number.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

/// See [`chain`].
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let said = cause.to_string();
            if !text.ends_with(&said) {
                write!(text, ": {said}")?;
            }
            next = cause.source();
        }
        f.write_str(&plain(text))
    }
}

/// Replaces Rust's `No such file or directory (os error 2)` by `no such file or directory`.
fn plain(mut text: String) -> String {
    const MARK: &str = " (os error ";
    let mut from = 0;
    while let Some(at) = text[from..].find(MARK).map(|i| from + i) {
        let digits: String =
            text[at + MARK.len()..].chars().take_while(char::is_ascii_digit).collect();
        let said = digits.parse().map(|n| io::Error::from_raw_os_error(n).to_string());
        let start = said.as_ref().ok().and_then(|said| {
            let start = (at + MARK.len() + digits.len() + 1).checked_sub(said.len())?;
            text.get(start..)?.starts_with(said.as_str()).then_some(start)
        });
        from = at + 1;
        if let (Some(start), Ok(said)) = (start, said) {
            let message = uncapitalised(&said[..said.len() - MARK.len() - digits.len() - 1]);
            text.replace_range(start..start + said.len(), &message);
            from = start + message.len();
        }
    }
    text
}

/// `RFS specific error` keeps its capitals; only a word that is otherwise small loses its own.
fn uncapitalised(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read {path}")]
    struct Outer {
        path: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn the_kernels_errors_are_spelled_as_clients_match_them() {
        let no_file = io::Error::from_raw_os_error(2);
        let e = Outer { path: "/x", source: no_file };
        assert_eq!(chain(&e).to_string(), "read /x: no such file or directory");
        for odd in ["x (os error 2)", "(os error 99999999999)", " (os error "] {
            assert_eq!(plain(odd.into()), odd);
        }
        let two = "a: No such file or directory (os error 2): b: Permission denied (os error 13)!";
        assert_eq!(plain(two.into()), "a: no such file or directory: b: permission denied!");
    }

    #[test]
    fn each_part_is_said_once() {
        let inner = std::io::Error::other("disk on fire");
        let e = Outer { path: "/x", source: inner };
        assert_eq!(chain(&e).to_string(), "read /x: disk on fire");
    }
}
