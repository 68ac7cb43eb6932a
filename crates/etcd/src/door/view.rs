//! The parts of a range request that the store leaves to its caller: sorting, filters, the limit behind them.

use std::cmp::Ordering;

use tonic::Status;

use crate::kv::{Kv, Revision};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::range::KeyRange;
use crate::store::{Range, RangeReply};
use crate::wire;

/// How a reply is to be shown.
pub(super) struct View {
    order: SortOrder,
    target: SortTarget,
    limit: usize,
    keys_only: bool,
    modified: Bounds,
    created: Bounds,
}

/// Revisions that may be shown; 0 is no bound.
struct Bounds {
    min: i64,
    max: i64,
}

impl Bounds {
    fn hold(&self, revision: Revision) -> bool {
        let above = self.min == 0 || revision.0 >= self.min;
        above && (self.max == 0 || revision.0 <= self.max)
    }

    fn any(&self) -> bool {
        self.min != 0 || self.max != 0
    }
}

/// Splits a request into the question for the store and the view of its answer.
pub(super) fn range_in(request: RangeRequest) -> Result<(Range, View), Status> {
    let invalid = |_| Status::invalid_argument("etcdserver: invalid sort option");
    let target = SortTarget::try_from(request.sort_target).map_err(invalid)?;
    let order = match SortOrder::try_from(request.sort_order).map_err(invalid)? {
        // To name what to sort by is to ask for it.
        SortOrder::None if target != SortTarget::Key => SortOrder::Ascend,
        order => order,
    };
    let bounds = |min, max| Bounds { min, max };
    let view = View {
        order,
        target,
        limit: usize::try_from(request.limit).unwrap_or(0),
        keys_only: request.keys_only,
        modified: bounds(request.min_mod_revision, request.max_mod_revision),
        created: bounds(request.min_create_revision, request.max_create_revision),
    };
    let whole = view.sorts() || view.modified.any() || view.created.any();
    let range = Range {
        keys: KeyRange::from_wire(request.key, request.range_end),
        revision: (request.revision > 0).then_some(Revision(request.revision)),
        limit: if whole { 0 } else { view.limit },
        keys_only: request.keys_only && target != SortTarget::Value,
        count_only: request.count_only,
        uncounted: false,
        local: request.serializable,
    };
    Ok((range, view))
}

impl View {
    /// The answer as it was asked for.
    pub(super) fn show(&self, reply: RangeReply) -> RangeResponse {
        let mut more = reply.more();
        let count = i64::try_from(reply.count).unwrap_or(i64::MAX);
        let mut kvs = reply.kvs;
        kvs.retain(|kv| {
            self.modified.hold(kv.mod_revision()) && self.created.hold(kv.create_revision())
        });
        if self.sorts() {
            kvs.sort_by(|a, b| self.compare(a, b));
        }
        if self.limit > 0 && kvs.len() > self.limit {
            kvs.truncate(self.limit);
            more = true;
        }
        let show = |kv: &Kv| match self.keys_only {
            true => wire::kv_out(&kv.without_value()),
            false => wire::kv_out(kv),
        };
        RangeResponse { header: None, kvs: kvs.iter().map(show).collect(), more, count }
    }

    /// Whether the order is another one than the store's.
    fn sorts(&self) -> bool {
        match self.order {
            SortOrder::None => false,
            SortOrder::Ascend => self.target != SortTarget::Key,
            SortOrder::Descend => true,
        }
    }

    fn compare(&self, a: &Kv, b: &Kv) -> Ordering {
        let order = match self.target {
            SortTarget::Key => a.key().cmp(b.key()),
            SortTarget::Version => a.version().cmp(&b.version()),
            SortTarget::Create => a.create_revision().cmp(&b.create_revision()),
            SortTarget::Mod => a.mod_revision().cmp(&b.mod_revision()),
            SortTarget::Value => a.value().cmp(b.value()),
        };
        if self.order == SortOrder::Descend { order.reverse() } else { order }
    }
}
