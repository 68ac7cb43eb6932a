//! One container: created, started, kept, entered, signalled, accounted and deleted.
#![forbid(unsafe_code)]
