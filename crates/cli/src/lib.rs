//! The command line: docker's verbs, flags, tables and templates over the Engine API.
#![forbid(unsafe_code)]
