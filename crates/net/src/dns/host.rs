//! The host's own resolver settings, always as they are now.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use wharf_base::sync::Mutex;

use crate::files::ResolvConf;

const PATH: &str = "/etc/resolv.conf";

/// Reads `/etc/resolv.conf` again when it has changed.
///
/// Asking for the file's inode and time costs a microsecond per question that is forwarded and nothing in between.
/// A watch would have to follow the symbolic links by which this file is provided, each of
/// which may be renamed over, and would still be a moment late.
#[derive(Debug, Default)]
pub(crate) struct HostResolver(Mutex<(Option<Stamp>, Arc<ResolvConf>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    changed: (i64, i64),
    len: u64,
}

impl HostResolver {
    /// The settings now. A file that cannot be read has none.
    pub(crate) fn current(&self) -> Arc<ResolvConf> {
        let stamp = std::fs::metadata(PATH).ok().map(|m| Stamp::of(&m));
        let mut known = self.0.lock();
        if known.0 != stamp || stamp.is_none() {
            let text = std::fs::read_to_string(PATH).unwrap_or_default();
            *known = (stamp, Arc::new(ResolvConf::parse(&text)));
        }
        known.1.clone()
    }
}

impl Stamp {
    fn of(m: &Metadata) -> Stamp {
        Stamp { file: (m.dev(), m.ino()), changed: (m.ctime(), m.ctime_nsec()), len: m.len() }
    }
}
