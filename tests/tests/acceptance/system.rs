//! Ladder step 1: version, info, ps, images, and the rules of the transport.

use wharf_test::Host;

#[test]
fn version_names_client_and_server() {
    let host = Host::start();
    let version = host.docker(["version", "--format", "json"]).json();
    assert_eq!(version["Client"]["ApiVersion"], "1.50");
    let server = version["Server"]["ApiVersion"].as_str().unwrap();
    let minor: u32 = server.strip_prefix("1.").unwrap().parse().unwrap();
    assert!(minor >= 51, "{server}");
    assert_eq!(version["Server"]["Os"], "linux");
}

#[test]
fn info_counts_what_there_is() {
    let host = Host::with_busybox();
    host.sleeper("up");
    host.docker(["create", "busybox"]).ok();
    let info = host.docker(["info", "--format", "json"]).json();
    assert_eq!(info["Containers"], 2);
    assert_eq!(info["ContainersRunning"], 1);
    assert_eq!(info["Images"], 1);
    assert_eq!(info["OSType"], "linux");
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    assert!(info["NCPU"].as_u64().unwrap() > 0);
}

#[test]
fn empty_engine_lists_nothing() {
    let host = Host::start();
    assert_eq!(host.docker(["ps", "-aq"]).ok(), "");
    assert_eq!(host.docker(["volume", "ls", "-q"]).ok(), "");
    let networks = host.docker(["network", "ls", "--format", "{{.Name}}"]).lines();
    for name in ["bridge", "host", "none"] {
        assert!(networks.iter().any(|n| n == name), "{networks:?}");
    }
}

#[test]
fn ps_shows_the_columns_that_scripts_cut() {
    let host = Host::with_busybox();
    host.sleeper("web");
    let table = host.docker(["ps"]).lines();
    assert!(table[0].starts_with("CONTAINER ID   IMAGE     COMMAND        CREATED"), "{table:?}");
    assert!(table[1].contains("busybox   \"sleep 1000\""), "{table:?}");
    assert!(table[1].ends_with("web"), "{table:?}");
    let row = host.docker(["ps", "--format", "{{.Names}}|{{.State}}|{{.Status}}"]).ok();
    assert!(row.starts_with("web|running|Up "), "{row}");
}

#[test]
fn ps_filters_by_state_name_label_and_ancestor() {
    let host = Host::with_busybox();
    host.sleeper("alpha");
    host.docker(["create", "--name", "beta", "--label", "tier=db", "busybox"]).ok();
    host.docker(["run", "--name", "gamma", "busybox", "sh", "-c", "exit 4"]).exits(4);
    let names =
        |filter: &str| host.docker(["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]).ok();
    assert_eq!(names("status=running"), "alpha");
    assert_eq!(names("status=created"), "beta");
    assert_eq!(names("exited=4"), "gamma");
    assert_eq!(names("label=tier=db"), "beta");
    assert_eq!(names("label=tier"), "beta");
    assert_eq!(names("name=^/al"), "alpha");
    assert_eq!(names("before=beta"), "alpha");
    assert_eq!(names("since=beta"), "gamma");
    assert_eq!(names("ancestor=busybox").lines().count(), 3);
    host.docker(["ps", "--filter", "colour=red"]).fails("invalid filter 'colour'");
}

#[test]
fn ids_work_by_prefix_and_names_by_slash() {
    let host = Host::with_busybox();
    let id = host.docker(["create", "--name", "one", "busybox"]).ok();
    assert_eq!(id.len(), 64);
    for name in [&id, &id[..12], &id[..5], "one", "/one"] {
        assert_eq!(host.inspect(name, "{{.Id}}"), id);
    }
    assert_eq!(host.inspect("one", "{{.Name}}"), "/one");
}

#[test]
fn ping_carries_what_clients_negotiate_by() {
    let host = Host::start();
    for method in ["GET", "HEAD"] {
        let pong = host.api(method, "/_ping", b"").unwrap();
        assert_eq!(pong.status, 200);
        for name in ["api-version", "docker-experimental", "ostype", "server", "builder-version"] {
            assert!(pong.header(name).is_some(), "{method}: no {name} in {:?}", pong.headers);
        }
    }
    assert_eq!(host.api("GET", "/_ping", b"").unwrap().text(), "OK");
}

#[test]
fn versions_out_of_range_are_refused_by_name() {
    let host = Host::start();
    let old = host.api("GET", "/v1.23/info", b"").unwrap();
    assert_eq!(old.status, 400);
    assert!(old.text().contains("client version 1.23 is too old"), "{}", old.text());
    let new = host.api("GET", "/v1.999/info", b"").unwrap();
    assert_eq!(new.status, 400);
    assert!(new.text().contains("client version 1.999 is too new"), "{}", new.text());
    assert_eq!(host.api("GET", "/v1.24/info", b"").unwrap().status, 200);
}

#[test]
fn unknown_paths_and_wrong_methods_are_404_json() {
    let host = Host::start();
    for (method, path) in [("GET", "/v1.51/nonsense"), ("DELETE", "/v1.51/info")] {
        let answer = host.api(method, path, b"").unwrap();
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json()["message"], "page not found");
    }
}

#[test]
fn malformed_bodies_are_400() {
    let host = Host::start();
    for body in ["{", "[]", "{\"Image\": 7}", "{} trailing", "\"text\"", "nul"] {
        let answer = host.api("POST", "/v1.51/containers/create", body.as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.json()["message"].is_string(), "{body}");
    }
}

#[test]
fn system_df_adds_up_containers_images_and_volumes() {
    let host = Host::with_busybox();
    host.docker([
        "run",
        "--name",
        "writer",
        "-v",
        "data:/d",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/f",
        "bs=1k",
        "count=64",
    ])
    .ok();
    let rows = host.docker(["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]).ok();
    assert!(rows.contains("Images 1") && rows.contains("Containers 1"), "{rows}");
    assert!(rows.contains("Local Volumes 1"), "{rows}");
    host.docker(["system", "df", "-v"]).says("busybox");
}

#[test]
fn swarm_routes_say_that_there_is_no_swarm() {
    let host = Host::start();
    host.docker(["service", "ls"]).fails("This node is not a swarm manager");
    host.docker(["inspect", "nothing-here"]).fails("No such object: nothing-here");
}

#[test]
fn prune_removes_what_is_not_used() {
    let host = Host::with_busybox();
    host.sleeper("stays");
    host.docker(["create", "--name", "goes", "busybox"]).ok();
    host.docker(["container", "prune", "-f"]).says("Deleted Containers");
    assert_eq!(host.docker(["ps", "-a", "--format", "{{.Names}}"]).ok(), "stays");
    host.docker(["system", "prune", "-af", "--volumes"]).says("Total reclaimed space");
    host.docker(["image", "inspect", "busybox"]).ok();
}
