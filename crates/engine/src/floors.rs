//! Which answer the errors of the lower floors deserve.

use wharf_image::{
    ArchiveError, LoginError, PullError, PushError, RegistryError, SearchError, StoreError,
};
use wharf_net::NetError;

use crate::error::{EngineError, Kind};

impl From<StoreError> for EngineError {
    fn from(e: StoreError) -> EngineError {
        flat(image_kind(e.kind()), &e)
    }
}

impl From<PullError> for EngineError {
    fn from(e: PullError) -> EngineError {
        flat(image_kind(e.kind()), &e)
    }
}

impl From<PushError> for EngineError {
    fn from(e: PushError) -> EngineError {
        flat(image_kind(e.kind()), &e)
    }
}

impl From<ArchiveError> for EngineError {
    fn from(e: ArchiveError) -> EngineError {
        flat(image_kind(e.kind()), &e)
    }
}

impl From<LoginError> for EngineError {
    fn from(e: LoginError) -> EngineError {
        flat(image_kind(e.kind()), &e)
    }
}

impl From<SearchError> for EngineError {
    fn from(e: SearchError) -> EngineError {
        flat(image_kind(e.kind()), &e)
    }
}

impl From<RegistryError> for EngineError {
    fn from(e: RegistryError) -> EngineError {
        let kind = match e {
            RegistryError::Setting { .. } => Kind::Invalid,
            _ => Kind::System,
        };
        flat(kind, &e)
    }
}

fn image_kind(kind: wharf_image::ErrorKind) -> Kind {
    match kind {
        wharf_image::ErrorKind::Invalid => Kind::Invalid,
        wharf_image::ErrorKind::NotFound => Kind::NotFound,
        wharf_image::ErrorKind::Unauthorized => Kind::Unauthorized,
        wharf_image::ErrorKind::Conflict => Kind::Conflict,
        wharf_image::ErrorKind::System => Kind::System,
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
