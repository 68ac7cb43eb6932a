//! The doors: the Docker Engine API over unix, TCP and TLS sockets. Decode, call, encode, stream.
#![forbid(unsafe_code)]

mod body;
mod connection;
mod fault;
mod hijack;
mod query;
mod route;
mod socket;
mod version;
