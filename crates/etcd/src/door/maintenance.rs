//! The Maintenance service: status, alarms, snapshots, hashes.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::cluster::alone;
use super::{Host, VERSION};
use crate::kv::Revision;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use crate::wire::status;

/// Bytes of a snapshot in one message.
const CHUNK: usize = 64 << 10;

#[tonic::async_trait]
impl Maintenance for Host {
    async fn alarm(&self, r: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        match r.get_ref().action() {
            AlarmAction::Get => drop(self.known(&r)?),
            AlarmAction::Activate | AlarmAction::Deactivate => self.admin(&r)?,
        }
        let request = r.into_inner();
        let about = [0, self.member_id].contains(&request.member_id);
        let space = [AlarmType::None, AlarmType::Nospace].contains(&request.alarm());
        let raised = self.store.status().no_space && about && space;
        let alarm = AlarmMember { member_id: self.member_id, alarm: AlarmType::Nospace.into() };
        match request.action() {
            AlarmAction::Get => (),
            AlarmAction::Deactivate if raised => {
                self.store.disarm().await.map_err(|e| status(&e))?;
            }
            AlarmAction::Deactivate => (),
            AlarmAction::Activate => return Err(alone("alarms that are not its own")),
        }
        let alarms = if raised { vec![alarm] } else { Vec::new() };
        Ok(Response::new(AlarmResponse { header: self.header_now(), alarms }))
    }

    async fn status(&self, r: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.known(&r)?;
        let now = self.store.status();
        let size = i64::try_from(now.size).unwrap_or(i64::MAX);
        let mut errors: Vec<String> = now.stalled.into_iter().collect();
        if now.no_space {
            errors.push(format!("memberID:{} alarm:NOSPACE ", self.member_id));
        }
        // There is no raft; the revision serves as the index of what is applied.
        let index = now.revision.0.cast_unsigned();
        Ok(Response::new(StatusResponse {
            header: self.header(now.revision),
            version: VERSION.to_owned(),
            db_size: size,
            leader: self.member_id,
            raft_index: index,
            raft_term: 1,
            raft_applied_index: index,
            errors,
            db_size_in_use: size,
            is_learner: false,
            storage_version: "3.5.0".to_owned(),
            db_size_quota: i64::try_from(now.quota).unwrap_or(i64::MAX),
        }))
    }

    async fn defragment(
        &self,
        r: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.admin(&r)?;
        self.store.defragment().await.map_err(|e| status(&e))?;
        // Etcd answers without one, and a suite of a client insists on it.
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, r: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.admin(&r)?;
        let found = self.hash_at(None).await?;
        Ok(Response::new(HashResponse { header: found.header, hash: found.hash }))
    }

    async fn hash_kv(&self, r: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.admin(&r)?;
        let revision = r.into_inner().revision;
        let found = self.hash_at((revision > 0).then_some(Revision(revision))).await?;
        Ok(Response::new(found))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        r: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.admin(&r)?;
        let (send, receive) = mpsc::channel(4);
        let (store, header) = (self.store.clone(), self.header_now());
        let failed = send.clone();
        // Ends with the snapshot, or when the client hangs up.
        drop(tokio::task::spawn_blocking(move || {
            let mut to = Chunks { send, header, bytes: Vec::with_capacity(CHUNK) };
            let written = store.snapshot(&mut to).and_then(|_| io::Write::flush(&mut to));
            if let Err(e) = written {
                // A client that has hung up needs no answer.
                drop(failed.blocking_send(Err(Status::internal(format!("snapshot: {e}")))));
            }
        }));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn move_leader(
        &self,
        r: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        self.admin(&r)?;
        // The leader may stay where it is, and be nowhere else.
        match r.get_ref().target_id == self.member_id {
            true => Ok(Response::new(MoveLeaderResponse { header: None })),
            false => Err(Status::failed_precondition("etcdserver: bad leader transferee")),
        }
    }

    async fn downgrade(
        &self,
        r: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        self.admin(&r)?;
        Err(alone("downgrade"))
    }
}

impl Host {
    async fn hash_at(&self, revision: Option<Revision>) -> Result<HashKvResponse, Status> {
        let store = self.store.clone();
        let hashed = tokio::task::spawn_blocking(move || store.hash(revision)).await;
        let found = match hashed {
            Ok(found) => found.map_err(|e| status(&e))?,
            Err(e) => return Err(Status::internal(format!("hash: {e}"))),
        };
        Ok(HashKvResponse {
            header: self.header_now(),
            hash: found.hash,
            compact_revision: found.compacted.0,
            hash_revision: found.revision.0,
        })
    }
}

/// Collects a snapshot into messages.
struct Chunks {
    send: mpsc::Sender<Result<SnapshotResponse, Status>>,
    header: Option<crate::proto::etcdserverpb::ResponseHeader>,
    bytes: Vec<u8>,
}

impl io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (CHUNK - self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        if self.bytes.len() == CHUNK {
            self.flush()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let blob = Bytes::from(std::mem::replace(&mut self.bytes, Vec::with_capacity(CHUNK)));
        let header = self.header;
        // How much remains is not known before it has been written; etcdctl reads to the end.
        let part = SnapshotResponse { header, remaining_bytes: 0, blob, version: String::new() };
        self.send.blocking_send(Ok(part)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
