//! Programs on kube-rs against `wharf kube serve`, each on a server of its own.

mod apply;
mod kinds;
mod leader;
mod objects;
mod operator;
mod watches;
