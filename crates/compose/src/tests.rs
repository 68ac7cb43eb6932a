use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wharf_spec::compose::{Env, Files, Project, Request, Text, load};

use crate::apply::{ApplyError, Run, Silent};
use crate::fake::FakeEngine;
use crate::observe::observe;
use crate::plan::{DownOptions, Plan, Recreate, UpOptions, diverged_volumes, down, up};
use crate::{Engine, labels};

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, _: &str) -> bool {
        false
    }
}

fn project(text: &str) -> Project {
    let files = vec![Text { name: "/shop/compose.yaml".to_owned(), text: text.to_owned() }];
    let request = Request { files, dir: "/shop".to_owned(), env: Env::new(), ..Request::default() };
    load(&request, &NoFiles).unwrap_or_else(|e| panic!("{e}")).project
}

/// Runs what never has to wait: the fake engine answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

fn started() -> UpOptions {
    UpOptions { start: true, ..UpOptions::default() }
}

fn planned(engine: &FakeEngine, project: &Project, options: &UpOptions) -> Plan {
    let observed = now(observe(engine, project)).unwrap();
    up(project, &observed, options).unwrap()
}

/// Plans and does it; returns what the engine was told.
fn bring_up(
    engine: &FakeEngine,
    project: &Project,
    options: &UpOptions,
) -> Result<Vec<String>, ApplyError> {
    let observed = now(observe(engine, project)).unwrap();
    let plan = up(project, &observed, options).unwrap();
    let result = now(Run::new(engine, project, &observed, &Silent).run(&plan));
    let log = engine.take_log();
    result.map(|()| log)
}

fn take_down(engine: &FakeEngine, project: &Project, options: &DownOptions) -> Vec<String> {
    let nothing = Project { name: project.name.clone(), ..Project::default() };
    let observed = now(observe(engine, &nothing)).unwrap();
    let networks = now(engine.networks(&project.name)).unwrap();
    let volumes = now(engine.volumes(&project.name)).unwrap();
    let plan = down(project, &observed, &networks, &volumes, options);
    now(Run::new(engine, project, &observed, &Silent).run(&plan)).unwrap();
    engine.take_log()
}

const SHOP: &str = "
services:
  web: {image: nginx, depends_on: [db], volumes: [/cache]}
  db: {image: pg, volumes: ['data:/data']}
volumes: {data: {}}
";

#[test]
fn first_up_makes_everything_in_order() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    let plan = planned(&engine, &project(SHOP), &started());
    let expected = "0 create network default
1 create volume data
2 create shop-db-1 after 0,1
3 create shop-web-1 after 0,1
4 start shop-db-1 after 2
5 start shop-web-1 after 4,3
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn second_up_changes_nothing() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    let project = project(SHOP);
    bring_up(&engine, &project, &started()).unwrap();
    let plan = planned(&engine, &project, &started());
    assert!(plan.is_idle(), "{plan}");
    assert_eq!(bring_up(&engine, &project, &started()).unwrap(), [""; 0]);
}

#[test]
fn what_changed_is_replaced_and_the_rest_stays() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    bring_up(&engine, &project(SHOP), &started()).unwrap();
    let changed = project(&SHOP.replace("image: nginx,", "image: nginx, user: www,"));
    let log = bring_up(&engine, &changed, &started()).unwrap();
    let old = log[0].trim_start_matches("create ").to_owned();
    assert!(old.ends_with("_shop-web-1"), "{log:?}");
    let expected = [
        format!("create {old}"),
        "stop shop-web-1".into(),
        "remove shop-web-1".into(),
        format!("rename {old} to shop-web-1"),
        "start shop-web-1".into(),
    ];
    assert_eq!(log, expected);
    let request = engine.request("shop-web-1").unwrap();
    let replaced = request.config.labels.unwrap();
    assert_eq!(replaced[labels::REPLACE], "web-1");
    engine.retag("nginx", "sha256:newer");
    assert!(bring_up(&engine, &changed, &started()).unwrap().contains(&"stop shop-web-1".into()));
}

#[test]
fn options_decide_what_is_replaced() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    bring_up(&engine, &project(SHOP), &started()).unwrap();
    let changed = project(&SHOP.replace("image: nginx,", "image: nginx, user: www,"));
    let never = UpOptions { recreate: Recreate::Never, ..started() };
    assert_eq!(bring_up(&engine, &changed, &never).unwrap(), [""; 0]);
    let force =
        UpOptions { services: vec!["db".to_owned()], recreate: Recreate::Force, ..started() };
    let log = bring_up(&engine, &project(SHOP), &force).unwrap();
    assert!(log.contains(&"stop shop-db-1".to_owned()), "{log:?}");
    assert!(!log.contains(&"stop shop-web-1".to_owned()), "{log:?}");
}

#[test]
fn scaling_adds_and_removes_the_highest_numbers() {
    let engine = FakeEngine::with_images(&["x"]);
    let scaled = |n: u32| project(&format!("services: {{a: {{image: x, scale: {n}}}}}"));
    bring_up(&engine, &scaled(3), &started()).unwrap();
    let running: Vec<String> = (1..=3).map(|n| format!("/shop-a-{n} running")).collect();
    assert_eq!(engine.states(), running);
    let log = bring_up(&engine, &scaled(1), &started()).unwrap();
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(engine.states(), ["/shop-a-1 running"]);
    bring_up(&engine, &scaled(2), &started()).unwrap();
    assert_eq!(engine.states(), ["/shop-a-1 running", "/shop-a-2 running"]);
}

#[test]
fn conditions_are_waited_for() {
    let text = "
services:
  web: {image: x, depends_on: {db: {condition: service_healthy}, job: {condition: service_completed_successfully}, opt: {condition: service_healthy, required: false}}}
  db: {image: x}
  job: {image: x}
  opt: {image: x}
";
    let engine = FakeEngine::with_images(&["x"]);
    engine.health("shop-db", "healthy");
    engine.health("shop-opt", "unhealthy");
    engine.exits("shop-job", 0);
    let log = bring_up(&engine, &project(text), &started()).unwrap();
    let at = |line: &str| log.iter().position(|l| l == line).expect(line);
    assert!(at("wait for shop-db-1 until Probed") < at("start shop-web-1"));
    assert!(at("start shop-job-1") < at("wait for shop-job-1 until Stopped"));

    let engine = FakeEngine::with_images(&["x"]);
    engine.health("shop-db", "unhealthy");
    engine.exits("shop-job", 0);
    let error = bring_up(&engine, &project(text), &started()).unwrap_err();
    assert_eq!(error.to_string(), "dependency failed to start: container shop-db-1 is unhealthy");
    assert!(engine.states().contains(&"/shop-web-1 created".to_owned()));

    let engine = FakeEngine::with_images(&["x"]);
    engine.health("shop-db", "healthy");
    engine.exits("shop-job", 3);
    let error = bring_up(&engine, &project(text), &started()).unwrap_err();
    assert_eq!(error.to_string(), "service \"job\" didn't complete successfully: exit 3");
}

#[test]
fn an_up_that_failed_is_finished_by_the_next() {
    for line in
        ["create network", "create volume", "create shop-web", "start shop-db", "start shop-web"]
    {
        let engine = FakeEngine::with_images(&["nginx", "pg"]);
        engine.fail(line);
        bring_up(&engine, &project(SHOP), &started()).unwrap_err();
        engine.mend();
        bring_up(&engine, &project(SHOP), &started()).unwrap();
        assert_eq!(engine.states(), ["/shop-db-1 running", "/shop-web-1 running"], "{line}");
    }
}

#[test]
fn a_replacement_that_failed_is_finished_by_the_next() {
    let changed = project(&SHOP.replace("image: nginx,", "image: nginx, user: www,"));
    for line in ["stop shop-web", "remove shop-web"] {
        let engine = FakeEngine::with_images(&["nginx", "pg"]);
        bring_up(&engine, &project(SHOP), &started()).unwrap();
        engine.fail(line);
        bring_up(&engine, &changed, &started()).unwrap_err();
        engine.mend();
        bring_up(&engine, &changed, &started()).unwrap();
        assert_eq!(engine.states().len(), 2, "{line}: {:?}", engine.states());
        assert!(planned(&engine, &changed, &started()).is_idle(), "{line}");
    }
}

#[test]
fn shared_namespaces_follow_their_container() {
    let text =
        "services: {a: {image: x}, b: {image: x, network_mode: 'service:a', volumes_from: [a]}}";
    let engine = FakeEngine::with_images(&["x"]);
    bring_up(&engine, &project(text), &started()).unwrap();
    let mode = engine.request("shop-b-1").unwrap().host_config.network_mode;
    assert!(mode.starts_with("container:c"), "{mode}");
    assert!(planned(&engine, &project(text), &started()).is_idle());
    let changed = project(&text.replace("a: {image: x}", "a: {image: x, user: u}"));
    let log = bring_up(&engine, &changed, &started()).unwrap();
    assert!(log.contains(&"remove shop-b-1".to_owned()), "{log:?}");
    let again = engine.request("shop-b-1").unwrap().host_config.network_mode;
    assert_ne!(again, mode);
}

#[test]
fn start_first_replaces_without_a_gap() {
    let text = "services: {a: {image: x, deploy: {update_config: {order: start-first}}}}";
    let engine = FakeEngine::with_images(&["x"]);
    bring_up(&engine, &project(text), &started()).unwrap();
    let changed = project(&text.replace("image: x,", "image: x, user: u,"));
    let log = bring_up(&engine, &changed, &started()).unwrap();
    let at = |begin: &str| log.iter().position(|l| l.starts_with(begin)).expect(begin);
    assert!(at("start c") < at("stop shop-a-1"), "{log:?}");
    engine.health("", "unhealthy");
    let worse = project(&text.replace("image: x,", "image: x, user: v,"));
    bring_up(&engine, &worse, &started()).unwrap_err();
    assert_eq!(engine.states(), ["/shop-a-1 running"]);
}

#[test]
fn networks_and_volumes_that_differ_are_made_anew() {
    let text = "services: {a: {image: x, volumes: ['vol:/v'], networks: [n]}}\nvolumes: {vol: {}}\nnetworks: {n: {}}";
    let engine = FakeEngine::with_images(&["x"]);
    bring_up(&engine, &project(text), &started()).unwrap();
    let changed = project(&text.replace("n: {}}", "n: {internal: true}}"));
    let log = bring_up(&engine, &changed, &started()).unwrap();
    let at = |begin: &str| log.iter().position(|l| l.starts_with(begin)).expect(begin);
    assert!(at("disconnect shop-a-1") < at("remove network"), "{log:?}");
    assert!(at("remove network") < at("create network shop_n"));
    assert!(at("create network shop_n") < at("create c"));
    let labelled = project(
        &text
            .replace("vol: {}}", "vol: {labels: {a: b}}}")
            .replace("n: {}}", "n: {internal: true}}"),
    );
    let observed = now(observe(&engine, &labelled)).unwrap();
    assert_eq!(diverged_volumes(&labelled, &observed), ["vol"]);
    let renew = UpOptions { renew: ["vol".to_owned()].into(), ..started() };
    let log = bring_up(&engine, &labelled, &renew).unwrap();
    let at = |begin: &str| log.iter().position(|l| l.starts_with(begin)).expect(begin);
    assert!(at("remove shop-a-1") < at("remove volume shop_vol"), "{log:?}");
}

#[test]
fn orphans_are_told_or_removed() {
    let engine = FakeEngine::with_images(&["x"]);
    bring_up(&engine, &project("services: {a: {image: x}, b: {image: x}}"), &started()).unwrap();
    let less = project("services: {a: {image: x}}");
    let plan = planned(&engine, &less, &started());
    assert!(plan.remarks[0].0.contains("[shop-b-1]"));
    bring_up(&engine, &less, &UpOptions { remove_orphans: true, ..started() }).unwrap();
    assert_eq!(engine.states(), ["/shop-a-1 running"]);
}

#[test]
fn anonymous_volumes_outlive_a_replacement() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    bring_up(&engine, &project(SHOP), &started()).unwrap();
    let changed = project(&SHOP.replace("image: nginx,", "image: nginx, user: www,"));
    bring_up(&engine, &changed, &started()).unwrap();
    let mounts = engine.request("shop-web-1").unwrap().host_config.mounts.unwrap();
    assert_eq!((mounts[0].kind.as_str(), mounts[0].target.as_str()), ("volume", "/cache"));
}

#[test]
fn down_stops_dependents_first_and_leaves_nothing() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    bring_up(&engine, &project(SHOP), &started()).unwrap();
    let log = take_down(
        &engine,
        &project(SHOP),
        &DownOptions { volumes: true, ..DownOptions::default() },
    );
    let at = |begin: &str| log.iter().position(|l| l.starts_with(begin)).expect(begin);
    assert!(at("stop shop-web-1") < at("stop shop-db-1"), "{log:?}");
    assert!(at("remove shop-db-1 with volumes") < at("remove network"));
    assert!(at("remove shop-db-1") < at("remove volume shop_data"));
    assert_eq!(engine.states(), [""; 0]);
    assert!(now(engine.networks("shop")).unwrap().is_empty());
}

#[test]
fn links_of_2015_set_variables() {
    let text = "web: {image: x, links: ['db:default']}\ndb: {image: x, expose: [3306], environment: [P=1]}";
    let engine = FakeEngine::with_images(&["x"]);
    bring_up(&engine, &project(text), &started()).unwrap();
    let request = engine.request("shop-web-1").unwrap();
    let env = request.config.env.unwrap();
    for line in [
        "DEFAULT_PORT=tcp://default:3306",
        "DEFAULT_PORT_3306_TCP_ADDR=default",
        "DEFAULT_PORT_3306_TCP_PORT=3306",
        "DEFAULT_ENV_P=1",
        "DB_PORT=tcp://db:3306",
    ] {
        assert!(env.contains(&line.to_owned()), "{line} is not in {env:?}");
    }
    assert!(request.host_config.links.unwrap().contains(&"shop-db-1:default".to_owned()));
}

#[test]
fn missing_external_things_are_told_before_anything_is_done() {
    let engine = FakeEngine::with_images(&["x"]);
    for (text, words) in [
        (
            "services: {a: {image: x, networks: [n]}}\nnetworks: {n: {external: true}}",
            "network n declared as external",
        ),
        (
            "services: {a: {image: x, volumes: ['vol:/v']}}\nvolumes: {vol: {external: true}}",
            "external volume \"vol\" not found",
        ),
    ] {
        let project = project(text);
        let observed = now(observe(&engine, &project)).unwrap();
        let error = up(&project, &observed, &started()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(engine.take_log(), [""; 0]);
}

#[test]
fn an_up_that_ended_before_the_new_container_had_its_name_is_finished_by_the_next() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    bring_up(&engine, &project(SHOP), &started()).unwrap();
    let changed = project(&SHOP.replace("image: nginx,", "image: nginx, user: www,"));
    // The daemon dies once the new container is made.
    engine.fail("stop shop-web-1");
    assert!(bring_up(&engine, &changed, &started()).is_err());
    drop(engine.take_log());
    engine.mend();
    let log = bring_up(&engine, &changed, &started()).unwrap();
    let (first, last) = (log.first().unwrap(), log.last().unwrap());
    assert_eq!((first.as_str(), last.as_str()), ("stop shop-web-1", "start shop-web-1"), "{log:?}");
    assert!(log.iter().any(|l| l.starts_with("rename ") && l.ends_with(" to shop-web-1")));
    assert!(!log.iter().any(|l| l.starts_with("create ")), "{log:?}");
    assert!(planned(&engine, &changed, &started()).is_idle());
}

#[test]
fn down_leaves_services_whose_profile_is_not_active() {
    let engine = FakeEngine::with_images(&["nginx", "pg"]);
    let text = SHOP.replace("db: {image", "tool: {image: nginx, profiles: [tools]}\n  db: {image");
    let mut whole = project(&text);
    whole.apply_profiles(&["tools".to_owned()]);
    bring_up(&engine, &whole, &started()).unwrap();
    let log = take_down(&engine, &project(&text), &DownOptions::default());
    assert!(!log.iter().any(|l| l.contains("shop-tool-1")), "{log:?}");
    assert!(log.contains(&"remove shop-web-1".to_owned()));
    let log = take_down(&engine, &whole, &DownOptions::default());
    assert!(log.contains(&"remove shop-tool-1".to_owned()), "{log:?}");
}

#[test]
fn ports_that_cannot_be_published_are_told_at_once() {
    let clash = |text: &str| crate::plan::ports::clash(&project(text), &[]);
    let two = |a: &str, b: &str| {
        clash(&format!(
            "services:\n  a: {{image: x, ports: [\"{a}\"]}}\n  b: {{image: x, ports: [\"{b}\"]}}\n"
        ))
    };
    for (a, b) in
        [("80:80", "80:81"), ("127.0.0.1:80:80", "80:80"), ("1.2.3.4:80:80", "1.2.3.4:80:8")]
    {
        let text = two(a, b).unwrap_or_else(|| panic!("{a} {b}"));
        assert_eq!(text, "services \"a\" and \"b\" both publish the host port 80/tcp");
    }
    for (a, b) in [
        ("80:80", "81:80"),
        ("80:80", "80:80/udp"),
        ("127.0.0.1:80:80", "127.0.0.2:80:80"),
        ("80", "80"),
    ] {
        assert_eq!(two(a, b), None, "{a} {b}");
    }
    let scaled = |port: &str| {
        clash(&format!("services:\n  a: {{image: x, scale: 3, ports: [\"{port}\"]}}\n"))
    };
    assert!(scaled("80:80").is_some_and(|t| t.contains("cannot share the host port 80")));
    assert_eq!(scaled("8000-8002:80"), None);
    assert_eq!(scaled("80"), None);
}

#[test]
fn what_has_no_effect_is_told_and_what_cannot_be_is_refused() {
    let engine = FakeEngine::with_images(&["x"]);
    let text = "services:
  a:
    image: x
    deploy:
      mode: replicated
      placement: {constraints: [node.role==manager]}
      update_config: {order: start-first, parallelism: 2}
  b: {image: x, deploy: {update_config: {order: start-first}}}
";
    let plan = planned(&engine, &project(text), &started());
    let remarks: Vec<&str> = plan.remarks.iter().map(|r| r.0.as_str()).collect();
    assert_eq!(
        remarks,
        [
            "service \"a\": deploy.placement has no effect outside of Swarm",
            "service \"a\": deploy.update_config (but for its order) has no effect outside of Swarm",
        ]
    );
    let observed = now(observe(&engine, &project(text))).unwrap();
    let refused = |text: &str| {
        up(&project(text), &observed, &started()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let socket = refused("services: {a: {image: x, use_api_socket: true}}");
    assert!(socket.starts_with("service \"a\": use_api_socket is not supported"), "{socket}");
}
