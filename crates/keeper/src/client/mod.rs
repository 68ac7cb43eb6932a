//! The daemon's side: starting keepers, finding them again, and talking to them.

mod connection;
mod estate;
mod keeper;
mod launcher;

pub use estate::{BuryError, bury, bury_unborn, exit_on_file};
pub use keeper::{Attachment, Event, Exec, ExecError, Keeper, LogSignal, Watch};
pub use launcher::{LaunchError, Launched, Launcher, Program};

/// A conversation with a keeper failed.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No keeper is there: it has ended or was killed. See [`bury`].
    #[error("the container's keeper is gone")]
    Gone,
    /// The keeper cannot do it.
    #[error("{0}")]
    Refused(String),
    /// The keeper is of another age.
    #[error(
        "the container's keeper speaks protocol {0} and does not know this request: restart the container to renew it"
    )]
    Unsupported(u8),
    /// The keeper answered what does not fit the question.
    #[error("the container's keeper answered {0}")]
    Confused(&'static str),
    /// The socket failed.
    #[error("talk to the container's keeper")]
    Io(#[from] std::io::Error),
}
