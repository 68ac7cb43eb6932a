//! What is wrong with a Compose file, and where.

use std::fmt;

use super::node::Span;

/// A complaint that knows at most a position; [`Sources`] turns it into a [`ComposeError`].
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Option<Span>,
    pub(super) message: String,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into() }
    }

    pub(super) fn at(span: Span, message: impl Into<String>) -> Self {
        Self { span: Some(span), message: message.into() }
    }

    /// Adds the position, unless an inner step knew a better one.
    pub(super) fn or_at(self, span: Span) -> Self {
        Self { span: self.span.or(Some(span)), ..self }
    }
}

/// The texts that were read, so that an error can show the line it speaks of.
#[derive(Debug, Default)]
pub(super) struct Sources {
    texts: Vec<(String, String)>,
}

impl Sources {
    /// Keeps a text; the number stands for it in a [`Span`].
    pub(super) fn add(&mut self, name: &str, text: &str) -> u32 {
        self.texts.push((name.to_owned(), text.to_owned()));
        u32::try_from(self.texts.len() - 1).unwrap_or(u32::MAX)
    }

    /// The name of the text that a position is in.
    pub(super) fn name(&self, span: Span) -> Option<&str> {
        self.texts.get(span.file as usize).map(|(name, _)| name.as_str())
    }

    pub(super) fn error(&self, fault: Fault) -> ComposeError {
        let place = fault.span.and_then(|span| {
            let (file, text) = self.texts.get(span.file as usize)?;
            let line = (span.line > 0).then(|| text.lines().nth(span.line as usize - 1))??;
            Some(Place {
                file: file.clone(),
                line: span.line,
                column: span.column,
                text: line.to_owned(),
            })
        });
        ComposeError { place, message: fault.message }
    }
}

/// A position in a file, with the line itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The line without its end.
    pub text: String,
}

/// Why a project cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeError {
    /// Where, when it is about a place in a file.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else { return f.write_str(&self.message) };
        let Place { file, line, column, text } = place;
        let shown = format!("{line:>4}");
        let gap = " ".repeat(shown.len());
        // A tab moves the caret as it moves the text.
        let before: String = text
            .chars()
            .take((*column as usize).saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        write!(f, "{file}:{line}:{column}: {}\n{shown} | {text}\n{gap} | {before}^", self.message)
    }
}

impl std::error::Error for ComposeError {}
