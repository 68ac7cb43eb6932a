//! BuildKit's door: the gRPC services that buildx, bake and compose speak, and the sessions they open.
#![forbid(unsafe_code)]

mod fsutil;
mod line;
mod proto;
mod session;

pub use line::{Io, Rewound};
pub use session::{Offer, OfferError};
