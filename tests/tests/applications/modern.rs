//! Today's files: a shop with everything around it, and monitoring.

use std::collections::BTreeSet;

use crate::{Tool, ids, import, page};
use wharf_test::{Host, eventually};

const SHOP: &[(&str, &str)] = &[
    ("compose.yaml", include_str!("shop/compose.yaml")),
    ("Dockerfile", include_str!("shop/Dockerfile")),
    ("shop.py", include_str!("shop/shop.py")),
    ("web.py", include_str!("shop/web.py")),
    ("worker.py", include_str!("shop/worker.py")),
    ("migrate.py", include_str!("shop/migrate.py")),
    ("get.py", include_str!("shop/get.py")),
    ("password", "correct horse\n"),
];

const PROXY: &str = "127.0.0.1:8080";

#[track_caller]
fn rows(host: &Host, at_least: u32) -> u32 {
    eventually("the worker has kept the visits", || {
        let text = page(host, PROXY, "/rows")?;
        let count: u32 = text.strip_prefix("rows ")?.parse().ok()?;
        (count >= at_least).then_some(count)
    })
}

#[test]
fn a_shop_with_proxy_workers_cron_cache_and_database_serves() {
    let host = Host::start();
    import(&host, "stack-web");
    for (name, text) in SHOP {
        host.write(&format!("shop/{name}"), text.as_bytes());
    }
    let run = |tool: Tool, args: &[&str]| tool.run(&host, "shop", args);
    run(Tool::Wharf, &["build", "-q"]).ok();
    run(Tool::Wharf, &["up", "-d", "--wait"]).ok();
    // Two replicas of the web service share the visits.
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let text = eventually("a visit", || page(&host, PROXY, "/visit"));
        seen.insert(text.split(' ').next().unwrap().to_owned());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let kept = rows(&host, 40);
    assert_eq!(
        eventually("cron has run", || { page(&host, PROXY, "/cron").filter(|t| t == "cron ran") }),
        "cron ran"
    );
    // Stock Compose finds everything as it would have made it.
    let made = ids(&host, "shop");
    run(Tool::Stock, &["up", "-d", "--wait"]).ok();
    assert_eq!(ids(&host, "shop"), made);
    run(Tool::Stock, &["--profile", "tools", "run", "--rm", "-T", "console"]).says("rows ");
    run(Tool::Wharf, &["up", "-d", "--scale", "web=3"]).ok();
    assert_eq!(run(Tool::Stock, &["ps", "-q", "web"]).lines().len(), 3);
    // The data outlives the containers.
    run(Tool::Stock, &["down"]).ok();
    assert_eq!(ids(&host, "shop"), [""; 0]);
    run(Tool::Wharf, &["up", "-d", "--wait"]).ok();
    assert_eq!(rows(&host, kept), kept);
    run(Tool::Wharf, &["down", "-v"]).ok();
    let label = "label=com.docker.compose.project=shop";
    assert_eq!(host.docker(["volume", "ls", "-q", "--filter", label]).ok(), "");
}

#[test]
fn monitoring_finds_what_it_watches() {
    let host = Host::start();
    import(&host, "stack-monitor");
    host.write("monitor/compose.yaml", include_str!("monitor/compose.yaml").as_bytes());
    Tool::Stock.run(&host, "monitor", &["up", "-d"]).ok();
    let healthy = |count: usize| {
        eventually("every exporter is scraped", || {
            let text = page(&host, "127.0.0.1:9090", "/api/v1/query?query=up%3D%3D1")?;
            let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
            (answer["data"]["result"].as_array()?.len() == count).then_some(())
        });
    };
    healthy(2);
    // A new replica is found by its name, whoever started it.
    Tool::Wharf.run(&host, "monitor", &["up", "-d", "--scale", "exporter=3"]).ok();
    healthy(3);
    let target = page(&host, "127.0.0.1:9090", "/api/v1/query?query=node_memory_MemTotal_bytes");
    assert!(target.is_some_and(|t| t.contains("node_memory_MemTotal_bytes")));
    Tool::Wharf.run(&host, "monitor", &["down", "-v"]).ok();
    assert_eq!(ids(&host, "monitor"), [""; 0]);
}
