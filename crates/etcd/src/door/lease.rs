//! The Lease service.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::Host;
use super::caller::Credentials;
use crate::auth::Caller;
use crate::error::StoreError;
use crate::kv::LeaseId;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::store::{LeaseRequest, Store as _};
use crate::wire::status;

#[tonic::async_trait]
impl Lease for Host {
    async fn lease_grant(
        &self,
        r: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.known(&r)?;
        let request = r.into_inner();
        let request = LeaseRequest { id: LeaseId::from_wire(request.id), ttl: request.ttl };
        let lease = self.store.grant(request).await.map_err(|e| status(&e))?;
        Ok(Response::new(LeaseGrantResponse {
            header: self.header(lease.revision),
            id: lease.id.0.get(),
            ttl: lease.granted,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        r: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let (caller, r) = (self.known(&r)?, r.into_inner());
        let revision = self.store.revoke_for(&caller, named(r.id)?).await;
        let revision = revision.map_err(|e| status(&e))?;
        Ok(Response::new(LeaseRevokeResponse { header: self.header(revision) }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        r: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let host = self.clone();
        let credentials = Arc::new(Credentials::of(&r));
        let answers = r.into_inner().then(move |request| {
            let (host, credentials) = (host.clone(), Arc::clone(&credentials));
            async move { host.renew(&host.caller(&credentials)?, request?.id).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        r: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let (caller, request) = (self.known(&r)?, r.into_inner());
        let found = match LeaseId::from_wire(request.id) {
            Some(id) => self.store.lease_for(&caller, id, request.keys).await,
            None => Err(StoreError::LeaseNotFound),
        };
        let mut answer = LeaseTimeToLiveResponse {
            header: self.header_now(),
            id: request.id,
            ttl: -1,
            ..LeaseTimeToLiveResponse::default()
        };
        match found {
            Ok(lease) => {
                (answer.ttl, answer.granted_ttl) = (lease.left, lease.granted);
                answer.keys = lease.keys;
            }
            // A lease that is over is an answer, not an error.
            Err(StoreError::LeaseNotFound) => (),
            Err(e) => return Err(status(&e)),
        }
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        r: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let caller = self.known(&r)?;
        let mut leases = self.store.leases_for(&caller).await.map_err(|e| status(&e))?;
        leases.sort_unstable();
        let leases = leases.into_iter().map(|id| LeaseStatus { id: id.0.get() }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.header_now(), leases }))
    }
}

impl Host {
    async fn renew(&self, caller: &Caller, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let renewed = match LeaseId::from_wire(id) {
            Some(id) => self.store.keep_alive_for(caller, id).await,
            None => Err(StoreError::LeaseNotFound),
        };
        let ttl = match renewed {
            Ok(lease) => lease.granted,
            // A lease that is over has no time left; the stream goes on for the others.
            Err(StoreError::LeaseNotFound) => 0,
            Err(e) => return Err(status(&e)),
        };
        Ok(LeaseKeepAliveResponse { header: self.header_now(), id, ttl })
    }
}

fn named(id: i64) -> Result<LeaseId, Status> {
    LeaseId::from_wire(id).ok_or_else(|| status(&StoreError::LeaseNotFound))
}
