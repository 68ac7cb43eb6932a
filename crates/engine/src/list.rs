//! `docker ps`: which containers a list shows.

use std::collections::HashMap;
use std::sync::Arc;

use wharf_base::Id;
use wharf_spec::docker;

use crate::container::Container;
use crate::error::{EngineError, Result};
use crate::filters::{self, Filters};
use crate::inner::Inner;
use crate::mount::{MountKind, clean_path};
use crate::options::ListOptions;
use crate::state::State;

/// What filters refer to, looked up once.
struct Context {
    before: Option<i64>,
    since: Option<i64>,
    ancestors: Vec<String>,
    exited: Vec<i32>,
}

impl Inner {
    pub(crate) fn list(&self, options: &ListOptions) -> Result<Vec<docker::ContainerSummary>> {
        let f = &options.filters;
        f.check(filters::CONTAINERS).map_err(invalid)?;
        let context = self.context(f)?;
        let mut all = self.all();
        all.sort_by_key(|c| std::cmp::Reverse(c.record().created));
        let limit = options.limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        // A state that is asked for is shown without --all as well.
        let every = options.all
            || limit.is_some()
            || ["status", "exited", "before", "since"].iter().any(|key| f.contains(key));
        let links = link_names(&all);
        let mut out = Vec::new();
        for c in all {
            let visible =
                every || c.state().run().is_some() || matches!(c.state(), State::Restarting(_));
            if visible && self.passes(&c, f, &context)? {
                let mut row = self.row(&c, options.size);
                row.names.extend(links.get(&c.id).into_iter().flatten().cloned());
                out.push(row);
            }
            if limit.is_some_and(|n| out.len() >= n) {
                break;
            }
        }
        Ok(out)
    }

    fn row(&self, c: &Arc<Container>, size: bool) -> docker::ContainerSummary {
        let mut row = self.summary(c);
        if size {
            let (rw, root) = self.sizes(c);
            (row.size_rw, row.size_root_fs) = (Some(rw), Some(root));
        }
        row
    }

    /// Bytes that the container wrote, and those together with its image.
    pub(crate) fn sizes(&self, c: &Container) -> (i64, i64) {
        let record = c.record();
        let rw = crate::usage::tree(&self.dir(&c.id).join("upper"));
        let image = self.images.resolve(&record.image).map_or(0, |i| i.size());
        let fit = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        (fit(rw), fit(rw + image))
    }

    fn context(&self, f: &Filters) -> Result<Context> {
        let created = |key: &str| -> Result<Option<i64>> {
            let Some(name) = f.values(key).next() else { return Ok(None) };
            self.find(name).map(|c| Some(c.record().created))
        };
        let mut exited = Vec::new();
        for code in f.values("exited") {
            exited.push(code.parse().map_err(|_| invalid(f.bad_value("exited")))?);
        }
        for status in f.values("status") {
            let known =
                ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
            if !known.contains(&status) {
                return Err(invalid(f.bad_value("status")));
            }
        }
        // An image of that name, or of one of its layers' images; unknown names match nothing.
        let image = |name: &str| self.images.resolve(name).map(|i| i.id().to_string());
        let ancestors = f.values("ancestor").map(|n| image(n).unwrap_or_else(|_| n.to_owned()));
        Ok(Context {
            before: created("before")?,
            since: created("since")?,
            ancestors: ancestors.collect(),
            exited,
        })
    }

    fn passes(&self, c: &Arc<Container>, f: &Filters, x: &Context) -> Result<bool> {
        let (record, state) = (c.record(), c.state());
        let labels = record.config.labels.clone().unwrap_or_default();
        let name =
            f.pattern("name", &record.name) || f.pattern("name", &format!("/{}", record.name));
        let basic = name
            && f.prefix("id", record.id.as_str())
            && f.labels("label", &labels)
            && f.exact("status", state.word())
            && x.before.is_none_or(|t| record.created < t)
            && x.since.is_none_or(|t| record.created > t);
        let ancestor = !f.contains("ancestor")
            || x.ancestors.iter().any(|a| *a == record.image || record.config.image == *a);
        let exited = x.exited.is_empty()
            || (matches!(state, State::Exited(_)) && x.exited.contains(&state.exit_code()));
        let task = f.truth("is-task").map_err(invalid)?.is_none_or(|wanted| !wanted);
        Ok(basic && ancestor && exited && task && self.passes_rest(c, f)?)
    }

    fn passes_rest(&self, c: &Arc<Container>, f: &Filters) -> Result<bool> {
        let record = c.record();
        let health = c.with(|core| core.health.as_ref().map(|h| h.status().word()));
        if !f.exact("health", health.unwrap_or("none")) || !f.exact("isolation", "default") {
            return Ok(false);
        }
        let volume = |wanted: &str| {
            record.mounts.iter().any(|p| {
                let named = matches!(&p.kind, MountKind::Volume { name, .. } if name == wanted)
                    || matches!(&p.kind, MountKind::Bind { source, .. } if *source == clean_path(wanted));
                named || p.destination == wanted
            })
        };
        if f.contains("volume") && !f.values("volume").any(volume) {
            return Ok(false);
        }
        let endpoints = self.net.endpoints(&c.id);
        let network = |wanted: &str| {
            record.networks.contains_key(wanted)
                || endpoints.iter().any(|e| e.network.as_str().starts_with(wanted))
                || self.net.network(wanted).is_ok_and(|n| record.networks.contains_key(&n.name))
        };
        if f.contains("network") && !f.values("network").any(network) {
            return Ok(false);
        }
        let published: Vec<_> = endpoints.iter().flat_map(|e| e.ports.clone()).collect();
        let ports = |key: &str, has: &dyn Fn(u16, wharf_net::Protocol) -> bool| -> Result<bool> {
            if !f.contains(key) {
                return Ok(true);
            }
            for value in f.values(key) {
                let (first, last, proto) = crate::ports::container_port(value)?;
                if (first..=last).any(|p| has(p, proto)) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let exposed = crate::ports::summary(&record.config, &published);
        Ok(ports("publish", &|p, proto| published.iter().any(|b| b.host == p && b.proto == proto))?
            && ports("expose", &|p, proto| {
                exposed.iter().any(|e| e.private_port == p && e.kind == proto.as_str())
            })?)
    }
}

/// Names that containers have by links of others, `/parent/alias`.
fn link_names(all: &[Arc<Container>]) -> HashMap<Id, Vec<String>> {
    let mut out: HashMap<Id, Vec<String>> = HashMap::new();
    for record in all.iter().map(|c| c.record()) {
        for link in &record.links {
            let name = format!("/{}/{}", record.name, link.alias);
            out.entry(link.child.clone()).or_default().push(name);
        }
    }
    out
}

/// A filter error as the engine's.
pub(crate) fn invalid(e: filters::FilterError) -> EngineError {
    EngineError::invalid(e.to_string())
}
