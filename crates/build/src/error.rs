//! Why a build failed, and where in the Dockerfile.

use std::fmt;

use wharf_engine::EngineError;
use wharf_image::{ArchiveError, PullError, StoreError};

use crate::context::ContextError;
use crate::git::GitError;

/// A place in a Dockerfile, with the line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file's name.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// Last line of the instruction, counted from 1.
    pub last_line: usize,
    /// The line, without its end.
    pub text: String,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong.
    #[error("{at}: {message}")]
    Dockerfile {
        /// Where.
        at: Box<Location>,
        /// What is wrong, with a suggestion where there is one.
        message: String,
    },
    /// An instruction failed.
    #[error("{at}: {instruction}")]
    Step {
        /// Where.
        at: Box<Location>,
        /// The instruction, continuation lines joined.
        instruction: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// A `RUN` ended with a status other than 0.
    #[error("process {command:?} did not complete successfully: exit code: {code}{hint}")]
    Exit {
        /// What ran.
        command: String,
        /// Its status.
        code: i32,
        /// More about it, beginning with a blank, or empty.
        hint: String,
    },
    /// The request or an instruction cannot be carried out as it is.
    #[error("{0}")]
    Invalid(String),
    /// Something that is asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// wharf does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// A client was asked for something and failed.
    #[error("{0}")]
    Client(String),
    /// The build was cancelled.
    #[error("build canceled")]
    Cancelled,
    /// Files could not be had.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The image store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image could not be made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A base image could not be pulled.
    #[error("cannot get base image {name}")]
    Pull {
        /// Which.
        name: String,
        /// Why.
        source: PullError,
    },
    /// A repository could not be had.
    #[error("git repository {repository}")]
    Git {
        /// Its address, without a password.
        repository: String,
        /// Why.
        source: GitError,
    },
    /// The host failed.
    #[error("cannot {action}")]
    Io {
        /// What was being done, and to what.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Which answer an error deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or the Dockerfile is wrong.
    Invalid,
    /// Something named does not exist.
    NotFound,
    /// wharf does not do that.
    Unsupported,
    /// Cancelled.
    Cancelled,
    /// Everything else.
    Failed,
}

impl BuildError {
    /// Which answer it deserves.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dockerfile { .. }
            | Self::Invalid(_)
            | Self::Context(ContextError::Source(_))
            | Self::Git { source: GitError::Address(_), .. } => ErrorKind::Invalid,
            Self::Step { source, .. } => source.kind(),
            Self::NotFound(_)
            | Self::Git {
                source: GitError::NoReference { .. } | GitError::NoDirectory(_), ..
            } => ErrorKind::NotFound,
            Self::Git { source: GitError::ModuleAddress { .. }, .. } | Self::Unsupported(_) => {
                ErrorKind::Unsupported
            }
            Self::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Failed,
        }
    }

    /// Status of the `RUN` that failed, if that is what happened.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exit { code, .. } => Some(*code),
            Self::Step { source, .. } => source.exit_code(),
            _ => None,
        }
    }

    /// Where in the Dockerfile, if it is about one place.
    pub fn location(&self) -> Option<&Location> {
        match self {
            Self::Dockerfile { at, .. } | Self::Step { at, .. } => Some(at),
            _ => None,
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        |source| Self::Io { action, source }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}
