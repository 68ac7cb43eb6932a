//! What builds keep on disk, for `buildx du` and `prune`.

use std::time::SystemTime;

use prost_types::Timestamp;
use tonic::Status;
use wharf_base::error::chain;
use wharf_build::{CacheEntry, PruneCache};

use crate::contexts::Usage;
use crate::kit::BuildKit;
use crate::proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};
use crate::remote::broken;

/// The kind of record that a client's directory is.
const LOCAL: &str = "source.local";
/// The kind of record of a step that changed no file.
const INTERNAL: &str = "internal";
const NANOS: i64 = 1_000_000_000;

/// What is kept.
pub(crate) async fn list(
    kit: &BuildKit,
    request: DiskUsageRequest,
) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::read(&request.filter)?;
    let mut found = records(kit).await?;
    found.retain(|r| filter.matches(r) && !is_recent(kit, r, request.age_limit));
    Ok(found)
}

/// Removes what is not in use, and tells what went.
pub(crate) async fn prune(
    kit: &BuildKit,
    request: PruneRequest,
) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::read(&request.filter)?;
    let all = records(kit).await?;
    let mut used = all.iter().filter(|r| !r.shared).map(|r| r.size).sum();
    let free = match request.min_free_space {
        0 => 0,
        _ => kit.contexts().free_bytes().map_err(broken("ask how full the disk is"))?,
    };
    let keep = kept_bytes(&request, used, free);
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|r| {
            // What images use as well takes no space of its own; the other takes hardly any.
            !r.in_use
                && (request.all || !r.shared && r.record_type != INTERNAL)
                && filter.matches(r)
                && !is_recent(kit, r, request.keep_duration)
        })
        .collect();
    found.sort_by_key(|r| r.last_used_at.map_or((0, 0), |t| (t.seconds, t.nanos)));
    found.retain(|r| {
        let goes = keep.is_none_or(|keep| used > keep);
        used -= if goes && !r.shared { r.size } else { 0 };
        goes
    });
    let contexts: Vec<_> = found.iter().filter(|r| r.record_type == LOCAL).collect();
    contexts.iter().for_each(|r| kit.contexts().remove(&r.id));
    let ids = found.iter().filter(|r| r.record_type != LOCAL).map(|r| r.id.clone()).collect();
    let what = PruneCache { all: true, ids, ..PruneCache::default() };
    if what.ids.is_empty() {
        return Ok(found);
    }
    let builder = kit.builder().clone();
    let pruned = blocking(move || builder.prune(&what)).await?;
    let pruned = pruned.map_err(|e| Status::internal(chain(&e).to_string()))?;
    found.retain(|r| r.record_type == LOCAL || pruned.deleted.contains(&r.id));
    Ok(found)
}

/// Bytes of cache that may stay, of those `used`, with so many free on the disk: the limits of use and of the disk count
/// down to what is reserved (BuildKit's `calculateKeepBytes`). `None` sets no limit: everything goes.
fn kept_bytes(request: &PruneRequest, used: i64, free: i64) -> Option<i64> {
    let PruneRequest { reserved_space, max_used_space, min_free_space, .. } = *request;
    if (reserved_space, max_used_space, min_free_space) == (0, 0, 0) {
        return None;
    }
    let by_use = (max_used_space != 0).then_some(max_used_space);
    let excess = (min_free_space - free).max(0);
    let by_disk = (min_free_space != 0).then(|| used - excess);
    let keep = by_use.into_iter().chain(by_disk).min().unwrap_or(0);
    Some(keep.max(reserved_space).max(0))
}

/// Steps of builds, cache mounts, and what clients sent.
async fn records(kit: &BuildKit) -> Result<Vec<UsageRecord>, Status> {
    let builder = kit.builder().clone();
    let steps = blocking(move || builder.usage()).await?;
    let contexts = kit.contexts().usage().into_iter().map(of_context);
    Ok(steps.into_iter().map(of_step).chain(contexts).collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))
}

fn of_step(entry: CacheEntry) -> UsageRecord {
    let at = |nanos: i64| {
        let seconds = nanos.div_euclid(NANOS);
        let nanos = i32::try_from(nanos.rem_euclid(NANOS)).unwrap_or_default();
        Some(Timestamp { seconds, nanos })
    };
    UsageRecord {
        id: entry.id,
        mutable: entry.kind == "exec.cachemount",
        in_use: entry.in_use,
        size: entry.size.try_into().unwrap_or(i64::MAX),
        created_at: at(entry.created),
        last_used_at: at(entry.used),
        usage_count: entry.uses.try_into().unwrap_or(i64::MAX),
        description: entry.description,
        record_type: entry.kind.to_owned(),
        shared: entry.shared,
        parents: entry.parent.into_iter().collect(),
        ..UsageRecord::default()
    }
}

fn of_context(usage: Usage) -> UsageRecord {
    let Usage { key, bytes, used, busy } = usage;
    UsageRecord {
        id: key,
        mutable: true,
        in_use: busy,
        size: bytes.try_into().unwrap_or(i64::MAX),
        created_at: Some(used.into()),
        last_used_at: Some(used.into()),
        usage_count: 1,
        description: "local source for context".into(),
        record_type: LOCAL.into(),
        ..UsageRecord::default()
    }
}

/// Whether a record was used within the time (in nanoseconds) that is to be kept.
fn is_recent(kit: &BuildKit, record: &UsageRecord, keep: i64) -> bool {
    let used = record.last_used_at.and_then(|t| SystemTime::try_from(t).ok());
    let age = used.and_then(|u| kit.clock().now().duration_since(u).ok()).unwrap_or_default();
    keep > 0 && age.as_nanos() < keep.unsigned_abs().into()
}

/// Filters as buildx writes them: `key==value`, `key!=value` or `key~=part`, all in one text joined with commas;
/// several texts are alternatives.
#[derive(Debug)]
struct Filter(Vec<Vec<Term>>);

#[derive(Debug)]
struct Term {
    key: String,
    operator: Operator,
    value: String,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    Is,
    IsNot,
    Holds,
    Exists,
}

impl Filter {
    fn read(texts: &[String]) -> Result<Filter, Status> {
        let terms = |text: &String| text.split(',').map(Term::read).collect();
        // buildx sends an empty text for no filter.
        let texts = texts.iter().filter(|t| !t.is_empty());
        Ok(Filter(texts.map(terms).collect::<Result<_, _>>()?))
    }

    fn matches(&self, record: &UsageRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|terms| terms.iter().all(|t| t.matches(record)))
    }
}

impl Term {
    fn read(text: &str) -> Result<Term, Status> {
        let split = [("==", Operator::Is), ("!=", Operator::IsNot), ("~=", Operator::Holds)]
            .into_iter()
            .find_map(|(sign, operator)| text.split_once(sign).map(|(k, v)| (k, operator, v)));
        let (key, operator, value) = split.unwrap_or((text, Operator::Exists, ""));
        let texts = ["id", "parents", "type", "description"];
        let flags = ["inuse", "mutable", "immutable", "shared", "private"];
        if ![&texts[..], &flags].concat().contains(&key) {
            return Err(Status::invalid_argument(format!("unknown filter {text:?}")));
        }
        let value = value.trim_matches('"').to_owned();
        Ok(Term { key: key.to_owned(), operator, value })
    }

    fn matches(&self, record: &UsageRecord) -> bool {
        let flag = |is: bool| if is { "true" } else { "" }.to_owned();
        let found = match self.key.as_str() {
            "id" => record.id.clone(),
            "parents" => record.parents.join(";"),
            "type" => record.record_type.clone(),
            "description" => record.description.clone(),
            "inuse" => flag(record.in_use),
            "mutable" => flag(record.mutable),
            "immutable" => flag(!record.mutable),
            "shared" => flag(record.shared),
            _ => flag(!record.shared),
        };
        match self.operator {
            Operator::Is => found == self.value,
            Operator::IsNot => found != self.value,
            Operator::Holds => found.contains(&self.value),
            Operator::Exists => !found.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_kept_as_buildkit_keeps_it() {
        let keep = |reserved_space, max_used_space, min_free_space| {
            let request = PruneRequest {
                reserved_space,
                max_used_space,
                min_free_space,
                ..Default::default()
            };
            kept_bytes(&request, 100, 50)
        };
        assert_eq!(keep(0, 0, 0), None);
        assert_eq!(keep(0, 30, 0), Some(30));
        assert_eq!(keep(40, 30, 0), Some(40));
        assert_eq!(keep(40, 0, 0), Some(40));
        // 50 bytes are free: 10 more are wanted, or there are enough.
        assert_eq!(keep(0, 0, 60), Some(90));
        assert_eq!(keep(0, 0, 50), Some(100));
        assert_eq!(keep(0, 95, 60), Some(90));
        assert_eq!(keep(0, 80, 60), Some(80));
        assert_eq!(keep(95, 0, 60), Some(95));
        assert_eq!(keep(0, 0, 1000), Some(0));
    }

    #[test]
    fn filters_select_records() {
        let record = UsageRecord {
            id: "abc".into(),
            record_type: "source.local".into(),
            mutable: true,
            ..UsageRecord::default()
        };
        let check = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
            Filter::read(&texts).map(|f| f.matches(&record)).map_err(|s| s.message().to_owned())
        };
        for (texts, expected) in [
            (&[][..], true),
            (&[""], true),
            (&["type==source.local"], true),
            (&["type==regular"], false),
            (&["type==regular", "id~=b"], true),
            (&["mutable,id==abc"], true),
            (&["inuse"], false),
            (&["id!=abc"], false),
        ] {
            assert_eq!(check(texts), Ok(expected), "{texts:?}");
        }
        assert!(check(&["color==red"]).unwrap_err().contains("color"));
    }
}
