//! The doors: the Docker Engine API over unix, TCP and TLS sockets. Decode, call, encode, stream.
#![forbid(unsafe_code)]
