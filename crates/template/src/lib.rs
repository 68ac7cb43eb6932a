//! Go text/template over JSON values, as docker's --format flags use it.
#![forbid(unsafe_code)]
