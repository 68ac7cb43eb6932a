//! Which builds of the history a client asks for: `status==error,startedAt>24h`.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tonic::Status;

use crate::proto::moby::buildkit::v1::BuildHistoryRecord;

/// Alternatives, each of terms that must all hold, as BuildKit reads them (`solver/llbsolver/history/filter.go`).
#[derive(Debug)]
pub(crate) struct Past(Vec<Vec<Term>>);

#[derive(Debug)]
enum Term {
    Text(Text, Match, String),
    /// When it began or ended.
    Time(Moment, Order, SystemTime),
    Took(Order, Duration),
}

#[derive(Clone, Copy, Debug)]
enum Text {
    Ref,
    Status,
    Repository,
}

#[derive(Clone, Copy, Debug)]
enum Match {
    Is,
    IsNot,
    Holds,
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    Started,
    Completed,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    AtMost,
    Less,
    AtLeast,
    More,
}

impl Past {
    /// Reads filters. Ages count from `now`.
    pub(crate) fn read(texts: &[String], now: SystemTime) -> Result<Past, Status> {
        let terms = |text: &String| {
            // buildx quotes a list with commas in its values as CSV; its values have none.
            let terms = text.split(',').map(|term| Term::read(term.trim_matches('"'), now));
            terms.collect::<Result<Vec<_>, _>>()
        };
        Ok(Past(texts.iter().map(terms).collect::<Result<_, _>>()?))
    }

    /// Whether it is one of them.
    pub(crate) fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|t| t.matches(record)))
    }
}

impl Term {
    fn read(text: &str, now: SystemTime) -> Result<Term, Status> {
        let unknown = || Status::invalid_argument(format!("unknown filter {text:?}"));
        let at = text.find(|c: char| "!=~<>".contains(c)).ok_or_else(unknown)?;
        let (key, rest) = text.split_at(at);
        let value = rest.trim_start_matches(['!', '=', '~', '<', '>']);
        let sign = &rest[..rest.len() - value.len()];
        let field = match key {
            "ref" => Text::Ref,
            "status" => Text::Status,
            "repository" => Text::Repository,
            "startedAt" => {
                return Term::time(Moment::Started, sign, value, now).ok_or_else(unknown);
            }
            "completedAt" => {
                return Term::time(Moment::Completed, sign, value, now).ok_or_else(unknown);
            }
            "duration" => {
                let took = wharf_engine::filters::duration(value).ok_or_else(unknown)?;
                return Ok(Term::Took(Order::read(sign).ok_or_else(unknown)?, took));
            }
            _ => return Err(unknown()),
        };
        let how = match sign {
            "==" => Match::Is,
            "!=" => Match::IsNot,
            "~=" => Match::Holds,
            _ => return Err(unknown()),
        };
        Ok(Term::Text(field, how, value.to_owned()))
    }

    fn time(moment: Moment, sign: &str, value: &str, now: SystemTime) -> Option<Term> {
        let order = Order::read(sign)?;
        let at = match wharf_engine::filters::duration(value) {
            Some(age) => now.checked_sub(age)?,
            None => value.parse::<jiff::Timestamp>().ok()?.into(),
        };
        Some(Term::Time(moment, order, at))
    }

    fn matches(&self, record: &BuildHistoryRecord) -> bool {
        match self {
            Term::Text(field, how, value) => {
                let found = match field {
                    Text::Ref => &record.r#ref,
                    Text::Status => status(record),
                    Text::Repository => {
                        let attrs = &record.frontend_attrs;
                        let source = attrs.get("vcs:source").or_else(|| attrs.get("context"));
                        source.map_or("", String::as_str)
                    }
                };
                match how {
                    Match::Is => found == value,
                    Match::IsNot => found != value,
                    Match::Holds => found.contains(value.as_str()),
                }
            }
            Term::Time(moment, order, at) => {
                let found = match moment {
                    Moment::Started => record.created_at,
                    Moment::Completed => record.completed_at,
                };
                order.holds(&time(found).unwrap_or(SystemTime::UNIX_EPOCH), at)
            }
            Term::Took(order, limit) => {
                let (began, ended) = (time(record.created_at), time(record.completed_at));
                let took = ended.zip(began).and_then(|(e, b)| e.duration_since(b).ok());
                order.holds(&took.unwrap_or_default(), limit)
            }
        }
    }
}

impl Order {
    fn read(sign: &str) -> Option<Order> {
        Some(match sign {
            "<=" => Order::AtMost,
            "<" => Order::Less,
            ">=" => Order::AtLeast,
            ">" => Order::More,
            _ => return None,
        })
    }

    fn holds<T: PartialOrd>(self, found: &T, limit: &T) -> bool {
        match self {
            Order::AtMost => found <= limit,
            Order::Less => found < limit,
            Order::AtLeast => found >= limit,
            Order::More => found > limit,
        }
    }
}

fn status(record: &BuildHistoryRecord) -> &str {
    match &record.error {
        _ if record.completed_at.is_none() => "running",
        None => "completed",
        Some(error) if error.message.contains("context canceled") => "canceled",
        Some(_) => "error",
    }
}

fn time(at: Option<Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(at?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::google::rpc;

    #[test]
    fn builds_are_chosen_by_what_they_were_and_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let record = BuildHistoryRecord {
            r#ref: "abc".into(),
            created_at: at(90_000),
            completed_at: at(90_060),
            error: Some(rpc::Status { message: "exit code: 1".into(), ..Default::default() }),
            frontend_attrs: [("vcs:source".to_owned(), "https://x/y.git".to_owned())].into(),
            ..BuildHistoryRecord::default()
        };
        let check = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
            Past::read(&texts, now).map(|p| p.matches(&record)).map_err(|s| s.code())
        };
        for (texts, expected) in [
            (&[][..], true),
            (&["status==error"], true),
            (&["status!=error"], false),
            (&["ref~=b,status==error"], true),
            (&["ref~=b,status==running"], false),
            (&["status==running", "ref~=abc"], true),
            (&["repository~=x/y"], true),
            (&["startedAt>24h"], true),
            (&["startedAt<1h"], true),
            (&["startedAt>1h"], false),
            (&["completedAt<=1970-01-02T01:01:00Z"], true),
            (&["duration>=1m"], true),
            (&["duration<30s"], false),
        ] {
            assert_eq!(check(texts), Ok(expected), "{texts:?}");
        }
        for wrong in ["color==red", "status<error", "startedAt==1h", "startedAt>soon", "status", ""]
        {
            assert_eq!(check(&[wrong]), Err(tonic::Code::InvalidArgument), "{wrong}");
        }
    }
}
