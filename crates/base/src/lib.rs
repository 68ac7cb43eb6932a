//! What every crate of wharf shares: ids, the state database, clocks, durable files, error chains.
#![forbid(unsafe_code)]
