//! What a build tells while it runs.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;
use wharf_spec::digest::Digest;

/// Receives the events of one build. A receiver that is gone does not stop the build: cancel that.
pub type Sender = UnboundedSender<Event>;

/// One unit of work: an instruction, a base image, the load of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// Its identity within the build.
    pub digest: Digest,
    /// What it consumes.
    pub inputs: Vec<Digest>,
    /// As BuildKit shows it: `[build 2/3] RUN make`.
    pub name: String,
    /// Its place in the Dockerfile, for the classic stream; `None` for what is no instruction.
    pub step: Option<Step>,
}

/// An instruction's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Counted from 0 over all instructions that the build needs.
    pub index: usize,
    /// How many there are.
    pub total: usize,
    /// The instruction as written, continuation lines joined: `RUN make`.
    pub text: String,
    /// Whether it can change files; others change the config alone and are no vertices to BuildKit.
    pub changes_files: bool,
}

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One piece of news. Times are the engine's.
#[derive(Debug, Clone)]
pub enum Event {
    /// A vertex exists. All instructions of a build are announced before the first starts.
    Announced(Arc<Vertex>),
    /// It has begun.
    Started {
        /// Which vertex.
        vertex: Digest,
        /// When.
        at: SystemTime,
    },
    /// Its program printed something.
    Log {
        /// Which vertex.
        vertex: Digest,
        /// Where it printed.
        output: Output,
        /// What.
        data: Bytes,
        /// When.
        at: SystemTime,
    },
    /// A part of it advanced: a layer is pulled, a context is transferred.
    Status {
        /// Which vertex.
        vertex: Digest,
        /// Identity of the part within the vertex.
        id: String,
        /// Words for it: `transferring`, `extracting`.
        name: String,
        /// Units done, bytes as a rule.
        current: u64,
        /// Units in all, 0 if unknown.
        total: u64,
        /// Whether the part is complete.
        done: bool,
        /// When.
        at: SystemTime,
    },
    /// It is over.
    Done {
        /// Which vertex.
        vertex: Digest,
        /// When.
        at: SystemTime,
        /// It was not done anew.
        cached: bool,
        /// What it gave, for the classic stream's ` ---> id`; `None` if it failed.
        result: Option<Digest>,
        /// Why it failed.
        error: Option<String>,
    },
    /// Something is not as it should be in the Dockerfile.
    Warning(Warning),
}

/// A lint warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Name of the rule: `StageNameCasing`.
    pub rule: String,
    /// What the rule is about.
    pub description: String,
    /// Where it is explained.
    pub url: String,
    /// What is wrong here.
    pub message: String,
    /// Lines of the Dockerfile, counted from 1, first and last.
    pub lines: (usize, usize),
}

impl From<wharf_spec::dockerfile::Warning> for Warning {
    fn from(w: wharf_spec::dockerfile::Warning) -> Warning {
        Warning {
            rule: w.rule.name().into(),
            description: w.rule.description().into(),
            url: w.rule.url(),
            message: w.message,
            lines: w.lines,
        }
    }
}
