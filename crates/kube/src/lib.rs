//! Kubernetes objects as value trees, with tables that say what each kind's fields are and mean.
#![forbid(unsafe_code)]

pub mod cel;
pub mod convert;
pub mod cron;
pub mod custom;
pub mod defaults;
pub mod explain;
pub mod fields;
pub mod json;
pub mod jsonpath;
pub mod managed;
pub mod names;
pub mod patch;
pub mod pick;
pub mod printer;
pub mod proto;
pub mod qos;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod shape;
pub mod status;
pub mod time;
pub mod typed;
pub mod validate;
pub mod yaml;
