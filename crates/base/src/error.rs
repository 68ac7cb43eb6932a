//! Printing an error with its causes: each error says its own part, the printer walks the chain.

use std::error::Error;
use std::fmt::{self, Write as _};

/// Displays `error` and every source below it, joined by `: `.
///
/// A cause whose text already ends what was printed is skipped, so that a transparent wrapper
/// does not say things twice.
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
        f.write_str(&text)
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
    fn each_part_is_said_once() {
        let inner = std::io::Error::other("disk on fire");
        let e = Outer { path: "/x", source: inner };
        assert_eq!(chain(&e).to_string(), "read /x: disk on fire");
    }
}
