//! Etcd's v3 API over an embedded store: what `etcdctl` and the client libraries speak.
//!
//! Handlers decode, call the store once and encode. One member answers as the leader of a cluster of one.

mod auth;
mod caller;
mod cluster;
mod election;
mod gateway;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod queue;
mod serve;
mod view;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::embedded::Embedded;
use crate::kv::Revision;
use crate::proto::etcdserverpb::ResponseHeader;
use caller::Tokens;

pub use caller::Users;
pub use serve::{Door, ServeError, Tls};

/// The version of etcd whose API this is. Clients ask for it before they use newer calls.
pub const VERSION: &str = "3.5.30";

/// Bytes of a request beyond which it is refused: etcd's limit.
const MAX_REQUEST: usize = 3 << 19;

/// Who a member says it is.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The name of its cluster; members of one cluster share it.
    pub token: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Where other members would.
    pub peer_urls: Vec<String>,
    /// How often an idle watch that asked for it hears of progress. Default: 10 minutes, as etcd has it.
    pub progress: Duration,
}

/// What every service of a member shares.
#[derive(Clone)]
struct Host {
    store: Embedded,
    member: Member,
    cluster_id: u64,
    member_id: u64,
    users: Users,
    tokens: Arc<Tokens>,
}

impl Host {
    fn new(store: Embedded, member: Member, users: Users) -> Host {
        let cluster_id = id(&["cluster", &member.token]);
        let member_id = id(&["member", &member.token, &member.name]);
        let tokens = Arc::new(Tokens::new(users.token_ttl));
        Host { store, member, cluster_id, member_id, users, tokens }
    }

    /// The header of an answer at `revision`.
    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.0,
            raft_term: 1,
        })
    }

    /// The header of an answer now.
    fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.store.status().revision)
    }
}

/// An id that the same names always give, as etcd makes its own.
fn id(names: &[&str]) -> u64 {
    let mut sum = Sha256::new();
    for name in names {
        sum.update(name.as_bytes());
        sum.update([0]);
    }
    sum.finalize().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}
