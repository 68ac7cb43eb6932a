//! The Kubernetes API over a store.
//!
//! A request goes through [`door`] (TLS, HTTP), [`server`] (who, what, may they) and [`api`] (the generic
//! registry, the same for every kind) to the store. Kinds are data: `wharf_kube`'s tables.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod admission;
pub mod aggregator;
pub mod api;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod certs;
pub mod definitions;
pub mod delete;
pub mod discovery;
pub mod door;
pub mod flow;
pub mod hooks;
pub mod kinds;
pub mod list;
pub mod local;
pub mod loops;
pub mod media;
pub mod metrics;
pub mod objects;
pub mod openapi;
pub mod random;
pub mod reach;
pub mod render;
pub mod request;
pub mod respond;
pub mod select;
pub mod server;
pub mod services;
mod show;
pub mod stored;
pub mod strategy;
mod streams;
pub mod subresource;
mod tail;
pub mod tokens;
pub mod user;
pub mod virtuals;
pub mod watching;
pub mod webhook;
pub mod write;
