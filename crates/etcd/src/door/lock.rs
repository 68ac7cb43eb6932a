//! The Lock service: the lock's owner is whoever has been in its queue for longest.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Host;
use super::queue::Party;
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use crate::range::KeyRange;
use crate::store::{Delete, Op, Range, Txn};

#[tonic::async_trait]
impl Lock for Host {
    /// A client that hangs up while it waits leaves the queue.
    async fn lock(&self, r: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let party = Party::of(self, &r);
        let LockRequest { name, lease } = r.into_inner();
        let lease = party.session(lease).await?;
        let place = party.enter(&name, lease, Bytes::new()).await?;
        let guard = party.guard(&place);
        party.wait(&name, place.created).await?;
        // The lease may have ended meanwhile.
        let own = party.range(Range::new(KeyRange::Key(place.key.clone())).keys_only())?;
        if own.kvs.is_empty() {
            return Err(Status::unknown("mutex: session is expired"));
        }
        guard.keep();
        let header = self.header(own.revision);
        Ok(Response::new(LockResponse { header, key: place.key }))
    }

    async fn unlock(&self, r: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let party = Party::of(self, &r);
        let key = KeyRange::Key(r.into_inner().key);
        let delete = Op::Delete(Delete::new(key));
        let reply = party.txn(Txn { then: vec![delete], ..Txn::default() }).await?;
        Ok(Response::new(UnlockResponse { header: self.header(reply.revision) }))
    }
}
