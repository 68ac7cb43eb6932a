//! The KV service: range, put, delete, transactions, compaction.

use tonic::{Request, Response, Status};

use super::view::{View, range_in};
use super::{Host, MAX_REQUEST};
use crate::auth::Caller;
use crate::error::StoreError;
use crate::kv::Revision;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::request_op::Request as Part;
use crate::proto::etcdserverpb::response_op::Response as Answer;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};
use crate::store::{Deleted, Op, OpReply, Store as _, Txn, TxnReply};
use crate::wire::{self, status};

#[tonic::async_trait]
impl Kv for Host {
    async fn range(&self, r: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let (caller, r) = self.asked(r)?;
        let (range, view) = range_in(r)?;
        let reply = self.store.range_for(&caller, range).map_err(|e| status(&e))?;
        let header = self.header(reply.revision);
        Ok(Response::new(RangeResponse { header, ..view.show(reply) }))
    }

    async fn put(&self, r: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (caller, r) = self.asked(r)?;
        let mut reply = self.write(&caller, Op::Put(wire::put_in(sized(r)?))).await?;
        let prev_kv = match reply.replies.pop() {
            Some(OpReply::Put(before)) => before.as_ref().map(wire::kv_out),
            _ => None,
        };
        Ok(Response::new(PutResponse { header: self.header(reply.revision), prev_kv }))
    }

    async fn delete_range(
        &self,
        r: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (caller, r) = self.asked(r)?;
        let mut reply = self.write(&caller, Op::Delete(wire::delete_in(r))).await?;
        let deleted = match reply.replies.pop() {
            Some(OpReply::Delete(deleted)) => deleted,
            _ => Deleted::default(),
        };
        let header = self.header(reply.revision);
        Ok(Response::new(DeleteRangeResponse { header, ..wire::deleted_out(&deleted) }))
    }

    async fn txn(&self, r: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let (caller, r) = self.asked(r)?;
        let (txn, shape) = txn_in(sized(r)?)?;
        let reply = self.store.txn_for(&caller, &txn).await.map_err(|e| status(&e))?;
        Ok(Response::new(self.show(reply, shape)))
    }

    async fn compact(
        &self,
        r: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.admin(&r)?;
        let request = r.into_inner();
        self.store.compact(Revision(request.revision)).await.map_err(|e| status(&e))?;
        if request.physical {
            self.store.pruned().await.map_err(|e| status(&e))?;
        }
        Ok(Response::new(CompactionResponse { header: self.header_now() }))
    }
}

/// How the replies of a transaction are to be shown, branch by branch.
struct TxnShape {
    then: Vec<Shape>,
    otherwise: Vec<Shape>,
}

enum Shape {
    Range(View),
    Put,
    Delete,
    Txn(TxnShape),
}

fn txn_in(request: TxnRequest) -> Result<(Txn, TxnShape), Status> {
    let when = request.compare.into_iter().map(wire::compare_in).collect::<Result<_, _>>()?;
    let (then, then_shape) = ops_in(request.success)?;
    let (otherwise, otherwise_shape) = ops_in(request.failure)?;
    let shape = TxnShape { then: then_shape, otherwise: otherwise_shape };
    Ok((Txn { when, then, otherwise }, shape))
}

fn ops_in(ops: Vec<RequestOp>) -> Result<(Vec<Op>, Vec<Shape>), Status> {
    let mut found = (Vec::new(), Vec::new());
    for op in ops {
        let (op, shape) = match op.request {
            Some(Part::RequestRange(range)) => {
                let (range, view) = range_in(range)?;
                (Op::Range(range), Shape::Range(view))
            }
            Some(Part::RequestPut(put)) => (Op::Put(wire::put_in(put)), Shape::Put),
            Some(Part::RequestDeleteRange(gone)) => {
                (Op::Delete(wire::delete_in(gone)), Shape::Delete)
            }
            Some(Part::RequestTxn(txn)) => {
                let (txn, shape) = txn_in(txn)?;
                (Op::Txn(txn), Shape::Txn(shape))
            }
            // What etcd says to an operation that is none.
            None => return Err(status(&StoreError::KeyNotFound)),
        };
        found.0.push(op);
        found.1.push(shape);
    }
    Ok(found)
}

impl Host {
    async fn write(&self, caller: &Caller, op: Op) -> Result<TxnReply, Status> {
        let txn = Txn { then: vec![op], ..Txn::default() };
        self.store.txn_for(caller, &txn).await.map_err(|e| status(&e))
    }

    fn show(&self, reply: TxnReply, shape: TxnShape) -> TxnResponse {
        let header = self.header(reply.revision);
        let shapes = if reply.succeeded { shape.then } else { shape.otherwise };
        let pairs = reply.replies.into_iter().zip(shapes);
        // A part that writes tells the revision and nothing of the cluster, as etcd's do.
        let part = ResponseHeader { revision: reply.revision.0, ..ResponseHeader::default() };
        let responses = pairs.map(|(reply, shape)| self.show_part(reply, shape, part)).collect();
        TxnResponse { header, succeeded: reply.succeeded, responses }
    }

    fn show_part(&self, reply: OpReply, shape: Shape, part: ResponseHeader) -> ResponseOp {
        let part = Some(part);
        let response = match (reply, shape) {
            (OpReply::Range(range), Shape::Range(view)) => {
                let header = self.header(range.revision);
                Some(Answer::ResponseRange(RangeResponse { header, ..view.show(range) }))
            }
            (OpReply::Put(before), Shape::Put) => {
                let prev_kv = before.as_ref().map(wire::kv_out);
                Some(Answer::ResponsePut(PutResponse { header: part, prev_kv }))
            }
            (OpReply::Delete(deleted), Shape::Delete) => {
                let deleted = wire::deleted_out(&deleted);
                Some(Answer::ResponseDeleteRange(DeleteRangeResponse { header: part, ..deleted }))
            }
            (OpReply::Txn(txn), Shape::Txn(shape)) => {
                Some(Answer::ResponseTxn(self.show(txn, shape)))
            }
            // The store answers each operation in kind.
            _ => None,
        };
        ResponseOp { response }
    }
}

fn sized<M: prost::Message>(request: M) -> Result<M, Status> {
    match request.encoded_len() > MAX_REQUEST {
        true => Err(status(&StoreError::TooLarge)),
        false => Ok(request),
    }
}
