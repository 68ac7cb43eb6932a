//! The store over a real etcd cluster.
//!
//! One member is talked to at a time. When it does not answer, reads go on with the next one; a write whose fate is
//! unknown is reported as such and not repeated, because it may have happened.

mod follower;
mod link;

use futures_util::future::BoxFuture;
use tokio_stream::once;
use tonic::{Code, Status};

use crate::error::StoreError;
use crate::kv::{LeaseId, Revision};
use crate::proto::etcdserverpb as pb;
use crate::range::KeyRange;
use crate::store::{
    Delete, Deleted, Lease, LeaseRequest, OpReply, Put, Range, RangeReply, Store, Txn, TxnReply,
    WatchRequest,
};
use crate::watch::Watch;
use crate::wire;
use follower::Follower;
use link::Links;

/// How to reach an etcd cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// URLs of its members; at least one.
    pub endpoints: Vec<String>,
    /// The authority that signed the members' certificates, in PEM. Needed where URLs begin with `https`.
    pub authority: Option<Vec<u8>>,
    /// A certificate and its key to show to the members, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// A user and the password, where the cluster has users.
    pub user: Option<(String, String)>,
}

/// A store in an etcd cluster. Clones share its connections.
#[derive(Clone)]
pub struct Remote {
    links: Links,
}

impl Remote {
    /// Prepares connections to `cluster`, which are made when they are needed, and signs in if there is a user.
    pub async fn connect(cluster: Cluster) -> Result<Remote, StoreError> {
        let links = Links::new(cluster)?;
        links.sign_in().await.map_err(|s| wire::error(&s))?;
        Ok(Remote { links })
    }

    /// Whether a watch's progress can be believed.
    pub(crate) async fn tells_progress(&self) -> bool {
        self.links.tells_progress().await
    }

    async fn ask_range(&self, range: Range) -> Result<RangeReply, StoreError> {
        let request = wire::range_out(&range);
        let reply = self
            .links
            .read(|link| {
                let request = link.request(request.clone());
                async move { link.kv().range(request?).await }
            })
            .await?;
        Ok(wire::range_reply_in(reply.into_inner()))
    }

    /// Has `keep_alive` answered once.
    async fn renew(&self, id: LeaseId) -> Result<Lease, StoreError> {
        let id_out = id.0.get();
        let reply = self
            .links
            .read(|link| async move {
                let one = once(pb::LeaseKeepAliveRequest { id: id_out });
                let answers = link.lease().lease_keep_alive(link.request(one)?).await?;
                let mut answers = answers.into_inner();
                let ended = || Status::unavailable("the member ended the stream");
                answers.message().await?.ok_or_else(ended)
            })
            .await?;
        match reply.ttl {
            ttl if ttl > 0 => {
                let revision = wire::revision(reply.header.as_ref());
                Ok(Lease { id, granted: ttl, left: ttl, keys: Vec::new(), revision })
            }
            _ => Err(StoreError::LeaseNotFound),
        }
    }
}

impl Store for Remote {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        // Any linearizable read tells; of a key that nobody has it is the cheapest.
        let range = Range::new(KeyRange::key("\0")).count_only();
        Box::pin(async move { Ok(self.ask_range(range).await?.revision) })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, StoreError>> {
        Box::pin(self.ask_range(range))
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        Box::pin(async move {
            let request = wire::txn_out(&txn);
            let send = |link: link::Link| {
                let request = link.request(request.clone());
                async move { link.kv().txn(request?).await }
            };
            let reply = match crate::core::writes(&txn) {
                true => self.links.write(send).await?,
                false => self.links.read(send).await?,
            };
            Ok(wire::txn_reply_in(reply.into_inner()))
        })
    }

    fn put(&self, put: Put) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        Box::pin(async move {
            let request = wire::put_out(&put);
            let reply = self
                .links
                .write(|link| {
                    let request = link.request(request.clone());
                    async move { link.kv().put(request?).await }
                })
                .await?
                .into_inner();
            let revision = wire::revision(reply.header.as_ref());
            let before = OpReply::Put(reply.prev_kv.as_ref().map(wire::kv_in));
            Ok(TxnReply { revision, succeeded: true, replies: vec![before] })
        })
    }

    fn delete(&self, delete: Delete) -> BoxFuture<'_, Result<TxnReply, StoreError>> {
        Box::pin(async move {
            let request = wire::delete_out(&delete);
            let reply = self
                .links
                .write(|link| {
                    let request = link.request(request.clone());
                    async move { link.kv().delete_range(request?).await }
                })
                .await?
                .into_inner();
            let revision = wire::revision(reply.header.as_ref());
            let deleted = OpReply::Delete(Deleted {
                count: u64::try_from(reply.deleted).unwrap_or(0),
                previous: reply.prev_kvs.iter().map(wire::kv_in).collect(),
            });
            Ok(TxnReply { revision, succeeded: true, replies: vec![deleted] })
        })
    }

    fn watch(&self, watch: WatchRequest) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            // A member may lag behind; what comes next is counted from where the cluster is.
            let from = match watch.from {
                Some(from) => from,
                None => self.revision().await?.next(),
            };
            let source = Follower::start(self.links.clone(), watch, from);
            Ok(Watch::new(source))
        })
    }

    fn grant(&self, lease: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(async move {
            let id = LeaseId::to_wire(lease.id);
            let request = pb::LeaseGrantRequest { id, ttl: lease.ttl };
            let reply = self
                .links
                .write(|link| async move { link.lease().lease_grant(link.request(request)?).await })
                .await?
                .into_inner();
            let missing = || StoreError::Refused { reason: "a lease without a name".to_owned() };
            let id = LeaseId::from_wire(reply.id).ok_or_else(missing)?;
            let revision = wire::revision(reply.header.as_ref());
            Ok(Lease { id, granted: reply.ttl, left: reply.ttl, keys: Vec::new(), revision })
        })
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(self.renew(id))
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            let request = pb::LeaseRevokeRequest { id: id.0.get() };
            let reply = self
                .links
                .write(
                    |link| async move { link.lease().lease_revoke(link.request(request)?).await },
                )
                .await?;
            Ok(wire::revision(reply.into_inner().header.as_ref()))
        })
    }

    fn lease(&self, id: LeaseId, keys: bool) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(async move {
            let request = pb::LeaseTimeToLiveRequest { id: id.0.get(), keys };
            let reply = self
                .links
                .read(|link| async move {
                    link.lease().lease_time_to_live(link.request(request)?).await
                })
                .await?
                .into_inner();
            if reply.ttl < 0 {
                return Err(StoreError::LeaseNotFound);
            }
            let revision = wire::revision(reply.header.as_ref());
            let mut keys = reply.keys;
            keys.sort_unstable();
            Ok(Lease { id, granted: reply.granted_ttl, left: reply.ttl, keys, revision })
        })
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<LeaseId>, StoreError>> {
        Box::pin(async move {
            let reply = self
                .links
                .read(|link| async move {
                    link.lease().lease_leases(link.request(pb::LeaseLeasesRequest {})?).await
                })
                .await?;
            let leases = reply.into_inner().leases;
            Ok(leases.into_iter().filter_map(|l| LeaseId::from_wire(l.id)).collect())
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let request = pb::CompactionRequest { revision: revision.0, physical: false };
            self.links
                .write(|link| async move { link.kv().compact(link.request(request)?).await })
                .await?;
            Ok(())
        })
    }
}

/// Whether another member may know better.
fn is_lost(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(
        status.code(),
        Unavailable | Unknown | Cancelled | DeadlineExceeded | Internal | Aborted
    )
}
