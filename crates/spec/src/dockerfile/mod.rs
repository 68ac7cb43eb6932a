//! The Dockerfile: its lines, words, instructions and stages, with places; `.dockerignore`; the lint rules.
//!
//! [`Dockerfile::parse`] understands the whole file or says where it is wrong. Values stay as they are written:
//! variables are expanded later, by [`expand`], when their values are known.

pub mod expand;
mod flags;
mod form;
pub mod ignore;
pub mod instruction;
mod lines;
pub mod lint;
pub mod mount;
pub mod nearest;
mod parse;
pub mod stage;

use std::fmt;

pub use instruction::{Command, Health, HereFile, Instruction, Kind, Source};
pub use lint::Warning;
pub use mount::{Mount, MountType, Sharing};
pub use stage::{ArgDecl, Dockerfile, Stage};

/// A place in a file, counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Where an instruction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Its first character.
    pub start: Place,
    /// Its last line, heredocs included.
    pub last_line: usize,
}

/// Why a Dockerfile is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileError {
    /// What is wrong, with a suggestion where there is one.
    pub message: String,
    /// Where.
    pub at: Place,
    /// The last line that it concerns.
    pub last_line: usize,
}

impl DockerfileError {
    pub(crate) fn new(at: Place, message: impl Into<String>) -> DockerfileError {
        DockerfileError { message: message.into(), at, last_line: at.line }
    }
}

impl fmt::Display for DockerfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.at.line, self.at.column, self.message)
    }
}

impl std::error::Error for DockerfileError {}

/// The line of `text` at `place`, without its end.
pub fn line_at(text: &str, place: Place) -> &str {
    text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default()
}
