//! Between the store's types and etcd's messages, in both directions: the server answers with them, the
//! client asks with them.

use bytes::Bytes;
use tonic::{Code, Status};

use crate::auth::AuthError;
use crate::error::StoreError;
use crate::kv::{Kv, LeaseId, Revision, Stamp};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{self as pb, RequestOp, ResponseHeader, ResponseOp};
use crate::proto::mvccpb;
use crate::range::KeyRange;
use crate::store::{
    Compare, Delete, Deleted, Op, OpReply, Put, Range, RangeReply, Relation, Target, Txn, TxnReply,
};
use crate::watch::{Event, EventKind};

/// Errors that have one gRPC code and one text, which clients match on.
const TEXTS: &[(StoreError, Code, &str)] = &[
    (
        StoreError::Compacted { oldest: Revision(0) },
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    ),
    (
        StoreError::FutureRevision { current: Revision(0) },
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    ),
    (StoreError::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
    (StoreError::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
    (
        StoreError::DuplicateKey,
        Code::InvalidArgument,
        "etcdserver: duplicate key given in txn request",
    ),
    (StoreError::ValueProvided, Code::InvalidArgument, "etcdserver: value is provided"),
    (StoreError::LeaseProvided, Code::InvalidArgument, "etcdserver: lease is provided"),
    (StoreError::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
    (StoreError::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
    (StoreError::LeaseTtlTooLarge, Code::OutOfRange, "etcdserver: too large lease TTL"),
    (StoreError::TooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
    (
        StoreError::TooManyOps,
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    ),
    (StoreError::Busy, Code::ResourceExhausted, "etcdserver: too many requests"),
    (StoreError::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
];

/// The status that etcd answers with.
pub(crate) fn status(error: &StoreError) -> Status {
    if let StoreError::Auth(e) = error {
        return auth_status(*e);
    }
    let kind = std::mem::discriminant(error);
    match TEXTS.iter().find(|(e, ..)| std::mem::discriminant(e) == kind) {
        Some((_, code, text)) => Status::new(*code, *text),
        None => Status::unavailable(format!("etcdserver: {error}")),
    }
}

/// The same for what has to do with users.
pub(crate) fn auth_status(error: AuthError) -> Status {
    use AuthError as E;
    let code = match error {
        E::NoRootUser
        | E::NoRootRole
        | E::UserExists
        | E::UserNotFound
        | E::RoleExists
        | E::RoleNotFound
        | E::RoleNotGranted
        | E::PermissionNotGranted
        | E::NotEnabled => Code::FailedPrecondition,
        E::UserEmpty
        | E::RoleEmpty
        | E::Failed
        | E::PermissionNotGiven
        | E::InvalidManagement
        | E::OldRevision => Code::InvalidArgument,
        E::Denied => Code::PermissionDenied,
        E::InvalidToken => Code::Unauthenticated,
        // Etcd has no code for it.
        E::NoPassword => return Status::unknown(format!("auth: {error}")),
    };
    Status::new(code, format!("etcdserver: {error}"))
}

/// The error behind a status.
pub(crate) fn error(status: &Status) -> StoreError {
    let said = status.message();
    if let Some((e, ..)) =
        TEXTS.iter().find(|(_, code, text)| (*code, *text) == (status.code(), said))
    {
        return e.clone();
    }
    let reason = || match said {
        "" => status.code().description().to_owned(),
        text => text.to_owned(),
    };
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Aborted => StoreError::Unavailable { reason: reason() },
        _ => StoreError::Refused { reason: reason() },
    }
}

pub(crate) fn revision(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |h| h.revision))
}

pub(crate) fn kv_out(kv: &Kv) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(kv.key()),
        create_revision: kv.create_revision().0,
        mod_revision: kv.mod_revision().0,
        version: kv.version(),
        value: Bytes::copy_from_slice(kv.value()),
        lease: LeaseId::to_wire(kv.lease()),
    }
}

pub(crate) fn kv_in(kv: &mvccpb::KeyValue) -> Kv {
    let stamp = Stamp {
        create: Revision(kv.create_revision),
        modified: Revision(kv.mod_revision),
        sub: 0,
        version: kv.version,
        lease: LeaseId::from_wire(kv.lease),
    };
    Kv::new(&kv.key, &kv.value, stamp)
}

pub(crate) fn event_out(event: &Event, previous: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    let prev_kv = event.previous.as_ref().filter(|_| previous).map(kv_out);
    mvccpb::Event { r#type: kind.into(), kv: Some(kv_out(&event.kv)), prev_kv }
}

pub(crate) fn event_in(event: &mvccpb::Event) -> Event {
    let none = mvccpb::KeyValue::default();
    let kv = event.kv.as_ref().unwrap_or(&none);
    match event.r#type() {
        mvccpb::event::EventType::Put => Event::new(kv_in(kv), event.prev_kv.as_ref().map(kv_in)),
        mvccpb::event::EventType::Delete => {
            let gone = Kv::tombstone(&kv.key, Revision(kv.mod_revision), 0);
            Event::new(gone, event.prev_kv.as_ref().map(kv_in))
        }
    }
}

pub(crate) fn range_out(range: &Range) -> pb::RangeRequest {
    let (key, range_end) = range.keys.to_wire();
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(range.limit).unwrap_or(i64::MAX),
        revision: range.revision.map_or(0, |r| r.0),
        keys_only: range.keys_only,
        count_only: range.count_only,
        serializable: range.local,
        ..pb::RangeRequest::default()
    }
}

pub(crate) fn range_reply_in(reply: pb::RangeResponse) -> RangeReply {
    RangeReply {
        revision: revision(reply.header.as_ref()),
        kvs: reply.kvs.iter().map(kv_in).collect(),
        count: u64::try_from(reply.count).unwrap_or(0),
    }
}

pub(crate) fn put_in(put: pb::PutRequest) -> Put {
    Put {
        key: put.key,
        value: put.value,
        lease: LeaseId::from_wire(put.lease),
        previous: put.prev_kv,
        keep_value: put.ignore_value,
        keep_lease: put.ignore_lease,
    }
}

pub(crate) fn put_out(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: LeaseId::to_wire(put.lease),
        prev_kv: put.previous,
        ignore_value: put.keep_value,
        ignore_lease: put.keep_lease,
    }
}

pub(crate) fn delete_in(delete: pb::DeleteRangeRequest) -> Delete {
    let keys = KeyRange::from_wire(delete.key, delete.range_end);
    Delete { keys, previous: delete.prev_kv }
}

pub(crate) fn delete_out(delete: &Delete) -> pb::DeleteRangeRequest {
    let (key, range_end) = delete.keys.to_wire();
    pb::DeleteRangeRequest { key, range_end, prev_kv: delete.previous }
}

pub(crate) fn deleted_out(deleted: &Deleted) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: None,
        deleted: i64::try_from(deleted.count).unwrap_or(i64::MAX),
        prev_kvs: deleted.previous.iter().map(kv_out).collect(),
    }
}

/// A compare whose property and value do not fit is refused.
pub(crate) fn compare_in(compare: pb::Compare) -> Result<Compare, Status> {
    let wrong = |what| Status::invalid_argument(format!("etcdserver: invalid compare {what}"));
    let relation = match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => return Err(wrong("result")),
    };
    let target = CompareTarget::try_from(compare.target).map_err(|_| wrong("target"))?;
    // A value of zero may be left out of the message.
    let target = match (target, compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => Target::Version(n),
        (CompareTarget::Version, None) => Target::Version(0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => {
            Target::Created(Revision(n))
        }
        (CompareTarget::Create, None) => Target::Created(Revision(0)),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => Target::Modified(Revision(n)),
        (CompareTarget::Mod, None) => Target::Modified(Revision(0)),
        (CompareTarget::Value, Some(TargetUnion::Value(v))) => Target::Value(v),
        (CompareTarget::Value, None) => Target::Value(Bytes::new()),
        (CompareTarget::Lease, Some(TargetUnion::Lease(id))) => {
            Target::Lease(LeaseId::from_wire(id))
        }
        (CompareTarget::Lease, None) => Target::Lease(None),
        _ => return Err(wrong("target")),
    };
    Ok(Compare { keys: KeyRange::from_wire(compare.key, compare.range_end), target, relation })
}

fn compare_out(compare: &Compare) -> pb::Compare {
    let (key, range_end) = compare.keys.to_wire();
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
        Relation::NotEqual => CompareResult::NotEqual,
    };
    let (target, union) = match &compare.target {
        Target::Version(n) => (CompareTarget::Version, TargetUnion::Version(*n)),
        Target::Created(r) => (CompareTarget::Create, TargetUnion::CreateRevision(r.0)),
        Target::Modified(r) => (CompareTarget::Mod, TargetUnion::ModRevision(r.0)),
        Target::Value(v) => (CompareTarget::Value, TargetUnion::Value(v.clone())),
        Target::Lease(id) => (CompareTarget::Lease, TargetUnion::Lease(LeaseId::to_wire(*id))),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key,
        range_end,
        target_union: Some(union),
    }
}

pub(crate) fn txn_out(txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.when.iter().map(compare_out).collect(),
        success: txn.then.iter().map(op_out).collect(),
        failure: txn.otherwise.iter().map(op_out).collect(),
    }
}

fn op_out(op: &Op) -> RequestOp {
    let request = match op {
        Op::Range(range) => Request::RequestRange(range_out(range)),
        Op::Put(put) => Request::RequestPut(put_out(put)),
        Op::Delete(delete) => Request::RequestDeleteRange(delete_out(delete)),
        Op::Txn(txn) => Request::RequestTxn(txn_out(txn)),
    };
    RequestOp { request: Some(request) }
}

pub(crate) fn txn_reply_in(reply: pb::TxnResponse) -> TxnReply {
    let revision = revision(reply.header.as_ref());
    let mut parsed = TxnReply {
        revision,
        succeeded: reply.succeeded,
        replies: reply.responses.into_iter().filter_map(op_reply_in).collect(),
    };
    // Members answer parts of a transaction without a revision of their own.
    adopt(&mut parsed, revision);
    parsed
}

fn adopt(reply: &mut TxnReply, revision: Revision) {
    reply.revision = revision;
    for part in &mut reply.replies {
        match part {
            OpReply::Range(range) => range.revision = revision,
            OpReply::Txn(txn) => adopt(txn, revision),
            OpReply::Put(_) | OpReply::Delete(_) => (),
        }
    }
}

fn op_reply_in(reply: ResponseOp) -> Option<OpReply> {
    Some(match reply.response? {
        Response::ResponseRange(range) => OpReply::Range(range_reply_in(range)),
        Response::ResponsePut(put) => OpReply::Put(put.prev_kv.as_ref().map(kv_in)),
        Response::ResponseDeleteRange(gone) => OpReply::Delete(Deleted {
            count: u64::try_from(gone.deleted).unwrap_or(0),
            previous: gone.prev_kvs.iter().map(kv_in).collect(),
        }),
        Response::ResponseTxn(txn) => OpReply::Txn(txn_reply_in(txn)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        for (own, ..) in TEXTS {
            assert_eq!(error(&status(own)), *own);
        }
        let disk = StoreError::Disk { reason: "full".to_owned() };
        assert!(error(&status(&disk)).is_ambiguous());
    }
}
