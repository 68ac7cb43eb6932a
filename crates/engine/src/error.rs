//! The engine's one error: what failed, to what, and which answer the door should give.
//!
//! The texts that stock clients match live here as constructors, verbatim, and nowhere else.

use std::error::Error;
use std::fmt;

/// Which answer an error deserves. The door maps it to a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong.
    Invalid,
    /// The object that it names does not exist.
    NotFound,
    /// The object's state does not allow it.
    Conflict,
    /// It is already as asked.
    NotModified,
    /// It is never allowed.
    Forbidden,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// It cannot be done now.
    Unavailable,
    /// wharf does not do this.
    NotImplemented,
    /// The machine failed.
    System,
}

impl Kind {
    /// The HTTP status that Docker gives this class.
    pub const fn status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::NotFound => 404,
            Kind::Conflict => 409,
            Kind::NotModified => 304,
            Kind::Forbidden => 403,
            Kind::Unauthorized => 401,
            Kind::Unavailable => 503,
            Kind::NotImplemented => 501,
            Kind::System => 500,
        }
    }
}

/// Why the engine refused or failed.
#[derive(Debug)]
pub struct EngineError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    text: String,
    exit_code: Option<i32>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What the engine's operations return.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

impl EngineError {
    /// An error of `kind` that says `text`.
    pub fn new(kind: Kind, text: impl Into<String>) -> EngineError {
        EngineError(Box::new(Inner { kind, text: text.into(), exit_code: None, source: None }))
    }

    /// The request is wrong.
    pub fn invalid(text: impl Into<String>) -> EngineError {
        EngineError::new(Kind::Invalid, text)
    }

    /// The named object does not exist.
    pub fn not_found(text: impl Into<String>) -> EngineError {
        EngineError::new(Kind::NotFound, text)
    }

    /// The object's state forbids it.
    pub fn conflict(text: impl Into<String>) -> EngineError {
        EngineError::new(Kind::Conflict, text)
    }

    /// wharf does not do this.
    pub fn not_implemented(text: impl Into<String>) -> EngineError {
        EngineError::new(Kind::NotImplemented, text)
    }

    /// Never allowed.
    pub fn forbidden(text: impl Into<String>) -> EngineError {
        EngineError::new(Kind::Forbidden, text)
    }

    /// The machine failed while doing `what`.
    pub fn system(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> EngineError {
        EngineError::new(Kind::System, what).because(source)
    }

    /// Already as asked: the door answers 304 without a body.
    pub fn not_modified(text: impl Into<String>) -> EngineError {
        EngineError::new(Kind::NotModified, text)
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> EngineError {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with the exit code that the container gets for it (126, 127, 128).
    #[must_use]
    pub fn with_exit_code(mut self, code: i32) -> EngineError {
        self.0.exit_code = Some(code);
        self
    }

    /// The exit code that a failed start leaves in the container's state.
    pub fn exit_code(&self) -> Option<i32> {
        self.0.exit_code
    }

    /// Which answer it deserves.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The whole text with its causes, as the door sends it.
    pub fn message(&self) -> String {
        wharf_base::error::chain(self).to_string()
    }
}

/// The texts that clients match.
impl EngineError {
    /// testcontainers and the CLI match this one.
    pub fn no_such_container(name: &str) -> EngineError {
        EngineError::not_found(format!("No such container: {name}"))
    }

    /// The CLI pulls when it sees 404 with this text.
    pub fn no_such_image(name: &str) -> EngineError {
        EngineError::not_found(format!("No such image: {name}"))
    }

    /// An exec that does not exist or was collected.
    pub fn no_such_exec(id: &str) -> EngineError {
        EngineError::not_found(format!("No such exec instance: {id}"))
    }

    /// A volume that does not exist.
    pub fn no_such_volume(name: &str) -> EngineError {
        EngineError::not_found(format!("get {name}: no such volume"))
    }

    /// testcontainers matches `The container name .* is already in use by .*`.
    pub fn name_in_use(name: &str, holder: &str) -> EngineError {
        EngineError::conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". \
             You have to remove (or rename) that container to be able to reuse that name."
        ))
    }

    /// A prefix that several ids share.
    pub fn ambiguous(prefix: &str) -> EngineError {
        EngineError::invalid(format!("multiple IDs found with provided prefix: {prefix}"))
    }

    /// An operation that needs a running container.
    pub fn not_running(id: &str) -> EngineError {
        EngineError::conflict(format!("container {id} is not running"))
    }

    /// An operation that a paused container refuses.
    pub fn paused(id: &str) -> EngineError {
        EngineError::conflict(format!("container {id} is paused, unpause the container first"))
    }

    /// An operation that has to wait for the restart.
    pub fn restarting(id: &str) -> EngineError {
        EngineError::conflict(format!(
            "Container {id} is restarting, wait until the container is running"
        ))
    }

    /// Reapers tolerate this one.
    pub fn removal_in_progress(name: &str) -> EngineError {
        EngineError::conflict(format!("removal of container {name} is already in progress"))
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl Error for EngineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

impl From<wharf_base::db::DbError> for EngineError {
    fn from(source: wharf_base::db::DbError) -> EngineError {
        EngineError::system("the state database failed", source)
    }
}
