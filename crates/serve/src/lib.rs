//! The doors: the Docker Engine API over unix, TCP and TLS sockets. Decode, call, encode, stream.
#![forbid(unsafe_code)]

mod api;
mod body;
mod call;
mod classic;
mod coding;
mod compat;
mod connection;
mod fault;
mod hijack;
mod lenient;
pub mod listen;
mod progress;
mod query;
mod reply;
mod route;
mod server;
mod socket;
mod structured;
mod syntax;
pub mod tls;
mod version;

pub use api::Door;
pub use server::serve;
