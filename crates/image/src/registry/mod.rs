//! The registry client: distribution-spec over HTTP, with mirrors, tokens, resumption and retries.

use crate::settings::Settings;

/// Talks to registries. Shares connections and tokens.
pub(crate) struct Client {}

impl Client {
    pub(crate) fn new(_settings: &Settings) -> Self {
        Self {}
    }
}
