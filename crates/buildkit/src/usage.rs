//! What builds keep on disk, for `buildx du` and `prune`.

use std::time::SystemTime;

use tonic::Status;

use crate::contexts::Usage;
use crate::kit::BuildKit;
use crate::proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};

/// What is kept.
pub(crate) fn list(kit: &BuildKit, request: &DiskUsageRequest) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::read(&request.filter)?;
    Ok(records(kit).into_iter().filter(|r| filter.matches(r)).collect())
}

/// Removes what is not in use, and tells what went.
pub(crate) async fn prune(
    kit: &BuildKit,
    request: PruneRequest,
) -> Result<Vec<UsageRecord>, Status> {
    let filter = Filter::read(&request.filter)?;
    let mut found: Vec<UsageRecord> = records(kit)
        .into_iter()
        .filter(|r| !r.in_use && filter.matches(r) && !is_recent(kit, r, request.keep_duration))
        .collect();
    found.sort_by_key(|r| r.last_used_at.map_or(0, |t| t.seconds));
    let mut kept: i64 = found.iter().map(|r| r.size).sum();
    let mut gone = Vec::new();
    for record in found {
        if request.reserved_space > 0 && kept <= request.reserved_space {
            break;
        }
        kit.contexts().remove(&record.id);
        kept -= record.size;
        gone.push(record);
    }
    Ok(gone)
}

fn records(kit: &BuildKit) -> Vec<UsageRecord> {
    kit.contexts().usage().into_iter().map(record).collect()
}

fn record(usage: Usage) -> UsageRecord {
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
        record_type: "source.local".into(),
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
        Ok(Filter(texts.iter().map(terms).collect::<Result<_, _>>()?))
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
        let known =
            ["id", "type", "description", "inuse", "mutable", "immutable", "shared", "private"];
        if !known.contains(&key) {
            return Err(Status::invalid_argument(format!("unknown filter {text:?}")));
        }
        let value = value.trim_matches('"').to_owned();
        Ok(Term { key: key.to_owned(), operator, value })
    }

    fn matches(&self, record: &UsageRecord) -> bool {
        let flag = |is: bool| if is { "true" } else { "" }.to_owned();
        let found = match self.key.as_str() {
            "id" => record.id.clone(),
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
