//! Times create, start, wait and delete of a bundle's container in one process: `start BUNDLE [ROUNDS]`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a tool for measuring: it prints, and what is unexpected ends it"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use wharf_runtime::{HostFacts, Io, Plan, PlanContext, Root};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let bundle = Path::new(&args[1]);
    let rounds: usize = args.get(2).map_or(200, |n| n.parse().unwrap());
    let text = std::fs::read(bundle.join("config.json")).unwrap();
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).unwrap();
    let host = HostFacts::probe().unwrap();
    let root = Root::Dir(spec.root().as_ref().unwrap().path().clone());
    let ctx = PlanContext::new("wharf-bench", bundle, root, &host);
    let begin = Instant::now();
    let plan = Plan::compile(&spec, &ctx).unwrap();
    println!("compile {:?}", begin.elapsed());
    let mut steps: [Vec<Duration>; 5] = Default::default();
    for _ in 0..rounds {
        let mut marks = vec![Instant::now()];
        let created = wharf_runtime::create(&plan, Io::default()).unwrap();
        marks.push(Instant::now());
        let init = created.start().unwrap();
        marks.push(Instant::now());
        init.wait().unwrap();
        marks.push(Instant::now());
        plan.cgroup.delete().unwrap();
        marks.push(Instant::now());
        for (list, pair) in steps.iter_mut().zip(marks.windows(2)) {
            list.push(pair[1] - pair[0]);
        }
        steps[4].push(marks[4] - marks[0]);
    }
    for (name, list) in ["create", "start", "wait", "delete", "all"].iter().zip(&mut steps) {
        list.sort();
        println!("{name:7} median {:?} least {:?}", list[rounds / 2], list[0]);
    }
}
