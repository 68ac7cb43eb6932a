//! The Election service: the leader is whoever has been in the election's queue for longest.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Host;
use super::queue::{Party, is_created, prefix, unknown};
use crate::kv::{Kv, Revision};
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use crate::range::KeyRange;
use crate::store::{Delete, Op, Put, Txn};
use crate::watch::{Event, EventKind, Watch, WatchItem};
use crate::wire;

type Answer<T> = Result<Response<T>, Status>;

/// Leaders that wait for a client to read them.
const QUEUE: usize = 8;

#[tonic::async_trait]
impl Election for Host {
    /// A candidate that hangs up while it waits stands no longer.
    async fn campaign(&self, r: Request<CampaignRequest>) -> Answer<CampaignResponse> {
        let party = Party::of(self, &r);
        let CampaignRequest { name, lease, value } = r.into_inner();
        let lease = party.session(lease).await?;
        let place = party.enter(&name, lease, value.clone()).await?;
        let guard = party.guard(&place);
        let leader = LeaderKey {
            name: name.clone(),
            key: place.key.clone(),
            rev: place.created.0,
            lease: lease.0.get(),
        };
        if place.found.as_ref().is_some_and(|kv| kv.value() != value) {
            proclaim(&party, &leader, value).await?;
        }
        party.wait(&name, place.created).await?;
        guard.keep();
        let header = self.header(place.seen);
        Ok(Response::new(CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(&self, r: Request<ProclaimRequest>) -> Answer<ProclaimResponse> {
        let party = Party::of(self, &r);
        let ProclaimRequest { leader, value } = r.into_inner();
        let revision = proclaim(&party, &named(leader)?, value).await?;
        Ok(Response::new(ProclaimResponse { header: self.header(revision) }))
    }

    async fn leader(&self, r: Request<LeaderRequest>) -> Answer<LeaderResponse> {
        let (revision, first) = Party::of(self, &r).first(&r.get_ref().name)?;
        let kv = first.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(told(self, revision, &kv)))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(&self, r: Request<LeaderRequest>) -> Answer<Self::ObserveStream> {
        let (send, receive) = mpsc::channel(QUEUE);
        let observer = Observer { party: Party::of(self, &r), name: r.into_inner().name, send };
        // Ends when the client hangs up.
        drop(tokio::spawn(observer.run()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn resign(&self, r: Request<ResignRequest>) -> Answer<ResignResponse> {
        let party = Party::of(self, &r);
        let leader = named(r.into_inner().leader)?;
        let gone = Op::Delete(Delete::new(KeyRange::Key(leader.key.clone())));
        let when = vec![is_created(&leader.key, Revision(leader.rev))];
        let reply = party.txn(Txn { when, then: vec![gone], ..Txn::default() }).await?;
        Ok(Response::new(ResignResponse { header: self.header(reply.revision) }))
    }
}

fn named(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

async fn proclaim(party: &Party, leader: &LeaderKey, value: Bytes) -> Result<Revision, Status> {
    let lease = party.session(leader.lease).await?;
    let put = Op::Put(Put::new(leader.key.clone(), value).lease(lease));
    let when = vec![is_created(&leader.key, Revision(leader.rev))];
    let reply = party.txn(Txn { when, then: vec![put], ..Txn::default() }).await?;
    match reply.succeeded {
        true => Ok(reply.revision),
        false => Err(Status::unknown("election: not leader")),
    }
}

fn told(host: &Host, revision: Revision, kv: &Kv) -> LeaderResponse {
    LeaderResponse { header: host.header(revision), kv: Some(wire::kv_out(kv)) }
}

/// Follows the leaders of an election.
struct Observer {
    party: Party,
    name: Bytes,
    send: mpsc::Sender<Result<LeaderResponse, Status>>,
}

impl Observer {
    async fn run(self) {
        let send = self.send.clone();
        let ended = tokio::select! {
            ended = self.follow() => ended,
            () = send.closed() => return,
        };
        if let Err(status) = ended {
            // A client that has hung up needs no answer.
            drop(send.send(Err(status)).await);
        }
    }

    async fn follow(&self) -> Result<(), Status> {
        loop {
            let (revision, first) = self.party.first(&self.name)?;
            let (since, leader) = match first {
                Some(leader) => (revision, leader),
                None => {
                    let leader = self.next_put(revision).await?;
                    (leader.mod_revision(), leader)
                }
            };
            self.tell(since, &leader).await?;
            let key = KeyRange::key(Bytes::copy_from_slice(leader.key()));
            let mut watch = self.party.watch(key, since.next()).await?;
            while self.tell_changes(&mut watch).await? {}
        }
    }

    /// The first key that is put into an election without candidates.
    async fn next_put(&self, since: Revision) -> Result<Kv, Status> {
        let mut watch = self.party.watch(prefix(&self.name), since.next()).await?;
        loop {
            let (_, events) = next(&mut watch).await?;
            if let Some(put) = events.iter().find(|e| e.kind == EventKind::Put) {
                return Ok(put.kv.clone());
            }
        }
    }

    /// Tells what the leader proclaims next; `false` once it is gone.
    async fn tell_changes(&self, watch: &mut Watch) -> Result<bool, Status> {
        let (through, events) = next(watch).await?;
        for event in &*events {
            match event.kind {
                EventKind::Put => self.tell(through, &event.kv).await?,
                EventKind::Delete => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn tell(&self, revision: Revision, leader: &Kv) -> Result<(), Status> {
        let answer = told(&self.party.host, revision, leader);
        self.send.send(Ok(answer)).await.map_err(|_| Status::cancelled("the client has gone"))
    }
}

/// The next changes, and how far they go.
async fn next(watch: &mut Watch) -> Result<(Revision, std::sync::Arc<[Event]>), Status> {
    loop {
        match watch.next().await.map_err(|e| unknown(&e))? {
            WatchItem::Events { through, events } => return Ok((through, events)),
            WatchItem::Progress(_) => (),
        }
    }
}
