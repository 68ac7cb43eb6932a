//! Compose files: reading, merging and resolving them into a project.
//!
//! Files go through the stages that the Compose specification describes, each a module of its own:
//! YAML with positions ([`yaml`]), interpolation, `extends`, `include`, merging, validation against
//! the schema, the canonical long form, defaults, path resolution, and at last the typed
//! [`Project`]. Nothing here touches the disk or the environment: the caller hands in the texts, the
//! variables and a [`Files`] for what the texts refer to.

mod fault;
mod load;
pub mod model;
mod node;
mod out;
mod project;
pub mod value;
mod yaml;

pub use fault::{ComposeError, Place};
pub use load::dotenv::parse as parse_env_file;
pub use load::origin::{Origin, Source};
pub use load::{Env, Files, Loaded, Request, Resolution, Text, load, normal_name};
pub use model::Project;
pub use node::{Map, Node, Span, Value};
pub use out::{Form, Out};
pub use project::{Selection, SelectionError};

#[cfg(test)]
mod tests;
