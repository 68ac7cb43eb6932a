//! Which answer the errors of the lower floors deserve.

use wharf_image::{ArchiveError, PullError, StoreError};
use wharf_net::NetError;

use crate::error::{EngineError, Kind};

impl From<StoreError> for EngineError {
    fn from(e: StoreError) -> EngineError {
        let kind = match &e {
            StoreError::NoSuchImage(_) => Kind::NotFound,
            StoreError::AmbiguousId(_) | StoreError::Reference { .. } | StoreError::BadName(_) => {
                Kind::Invalid
            }
            StoreError::Conflict(_) => Kind::Conflict,
            _ => Kind::System,
        };
        flat(kind, &e)
    }
}

impl From<PullError> for EngineError {
    fn from(e: PullError) -> EngineError {
        match e {
            PullError::Store(e) => e.into(),
        }
    }
}

impl From<ArchiveError> for EngineError {
    fn from(e: ArchiveError) -> EngineError {
        match e {
            ArchiveError::Store(e) => e.into(),
        }
    }
}

impl From<NetError> for EngineError {
    fn from(e: NetError) -> EngineError {
        let kind = match e.kind() {
            wharf_net::ErrorKind::Invalid => Kind::Invalid,
            wharf_net::ErrorKind::Forbidden => Kind::Forbidden,
            wharf_net::ErrorKind::NotFound => Kind::NotFound,
            wharf_net::ErrorKind::Conflict => Kind::Conflict,
            wharf_net::ErrorKind::Unsupported => Kind::NotImplemented,
            wharf_net::ErrorKind::Unavailable => Kind::System,
        };
        flat(kind, &e)
    }
}

/// The whole chain as one text: these errors end here, and their texts are what clients match.
fn flat(kind: Kind, e: &(dyn std::error::Error + 'static)) -> EngineError {
    EngineError::new(kind, wharf_base::error::chain(e).to_string())
}
