//! How a registry behaves, resolved: flags and files are read elsewhere.

use std::time::Duration;

use wharf_base::clock::Clock;

use crate::access::Rules;
use crate::auth::Auth;
use crate::cache::Cache;

/// How a registry behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Refuse everything that changes something.
    pub read_only: bool,
    /// Let clients delete. Default yes.
    pub deletes: bool,
    /// Who somebody is. Default: everybody is anonymous.
    pub auth: Auth,
    /// Who may do what where. Default: those who are known everything, and everybody if nobody can be known.
    pub rules: Rules,
    /// How long content that no manifest needs is kept. Default 1 h. Less than a push takes makes pushes fail, whose
    /// manifest comes last.
    pub grace: Duration,
    /// How long an upload may rest. Default 24 h.
    pub upload_lifetime: Duration,
    /// How long a client may send nothing in the middle of a request. Default 60 s.
    pub stall: Duration,
    /// Fetch what is missing from elsewhere, and refuse pushes. Default: no.
    pub cache: Option<Cache>,
    /// Time.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read_only: false,
            deletes: true,
            auth: Auth::None,
            rules: Rules::default(),
            grace: Duration::from_secs(3600),
            upload_lifetime: Duration::from_secs(24 * 3600),
            stall: Duration::from_secs(60),
            cache: None,
            clock: Clock::system(),
        }
    }
}
