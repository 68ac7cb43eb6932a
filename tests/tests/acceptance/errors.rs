//! Bad input: the texts and codes that clients match on (and that people read).

use wharf_test::Host;

#[test]
fn texts_that_clients_match() {
    let host = Host::with_busybox();
    host.docker(["start", "gone"]).fails("No such container: gone");
    host.docker(["stop", "gone"]).fails("No such container: gone");
    host.docker(["logs", "gone"]).fails("No such container: gone");
    host.docker(["rm", "gone"]).fails("No such container: gone");
    host.docker(["run", "--pull", "never", "gone"]).exits(125).fails("No such image: gone:latest");
    host.docker(["network", "rm", "gone"]).fails("network gone not found");
    host.docker(["volume", "rm", "gone"]).fails("no such volume");
    host.docker(["run", "Not/Valid:Ref"]).exits(125).fails("invalid reference format");
    host.docker(["create", "--name", "b@d", "busybox"]).fails("Invalid container name (b@d)");
}

#[test]
fn codes_of_the_api() {
    let host = Host::with_busybox();
    host.sleeper("up");
    let code = |method: &str, path: &str, body: &str| {
        host.api(method, &format!("/v1.51{path}"), body.as_bytes()).unwrap().status
    };
    assert_eq!(code("GET", "/containers/gone/json", ""), 404);
    assert_eq!(code("POST", "/containers/create", r#"{"Image":"gone:1"}"#), 404);
    assert_eq!(code("POST", "/containers/create?name=up", r#"{"Image":"busybox"}"#), 409);
    assert_eq!(code("POST", "/containers/up/wait?condition=never", ""), 400);
    assert_eq!(code("GET", "/containers/up/logs", ""), 400);
    assert_eq!(code("GET", "/containers/json?filters=%7Bbroken", ""), 400);
    assert_eq!(code("POST", "/containers/up/kill?signal=NOPE", ""), 400);
    assert_eq!(code("DELETE", "/networks/bridge", ""), 403);
    assert_eq!(code("POST", "/volumes/create", r#"{"Name":"x","Driver":"unheard-of"}"#), 404);
    assert_eq!(code("GET", "/images/gone/json", ""), 404);
    assert_eq!(code("GET", "/containers/up/archive?path=/none", ""), 404);
    assert_eq!(code("POST", "/exec/none/start", "{}"), 404);
    assert_eq!(code("GET", "/swarm", ""), 503);
}

#[test]
fn create_without_a_command_is_refused() {
    let host = Host::start();
    let image = wharf_test::image::Image::new(
        "empty:1",
        wharf_test::image::Tar::default().finish(),
        &serde_json::json!({}),
    );
    host.load(&image);
    host.docker(["create", "empty:1"]).fails("no command specified");
}

#[test]
fn huge_values_do_not_harm() {
    let host = Host::with_busybox();
    let many: Vec<String> = (0..500).map(|i| format!("V{i}={}", "x".repeat(200))).collect();
    let mut args = vec!["run".to_owned(), "--rm".to_owned()];
    args.extend(many.iter().flat_map(|e| ["-e".to_owned(), e.clone()]));
    args.extend(["busybox", "sh", "-c", "env | grep -c ^V"].map(str::to_owned));
    assert_eq!(host.docker(args).ok(), "500");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = host.api("POST", "/containers/create", deep.as_bytes()).unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(host.api("GET", "/_ping", b"").unwrap().status, 200);
}

#[test]
fn mounts_that_make_no_sense_are_refused() {
    let host = Host::with_busybox();
    let refuse = |flags: &[&str], text: &str| {
        let args = ["create"].iter().chain(flags).copied().chain(["busybox"]);
        host.docker(args).fails(text);
    };
    refuse(&["-v", "/tmp:/d", "-v", "/var:/d"], "Duplicate mount point: /d");
    refuse(&["-v", "data:relative"], "mount path must be absolute");
    refuse(&["-v", "data:/d:wrong"], "invalid mode: wrong");
    refuse(&["--restart", "sometimes"], "invalid restart policy");
    refuse(&["--cap-add", "FLY"], "FLY");
    refuse(&["--security-opt", "nonsense=1"], "nonsense");
    refuse(&["--rm", "--restart", "always"], "--restart and --rm");
}

#[test]
fn broken_json_is_told_as_dockerd_tells_it() {
    let host = Host::start();
    for (body, text) in [
        (
            "{invalid",
            "invalid JSON: invalid character 'i' looking for beginning of object key string",
        ),
        (r#"{"Image""#, "invalid JSON: unexpected EOF"),
        ("", "invalid JSON: got EOF while reading request body"),
    ] {
        let answer = host.api("POST", "/containers/create", body.as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains(text), "{}", answer.text());
    }
}

#[test]
fn places_that_cannot_be_mounted_on_are_refused() {
    let host = Host::with_busybox();
    for (at, text) in
        [("relative", "mount path must be absolute"), ("//", "destination can't be '/'")]
    {
        let body = format!(r#"{{"Image":"busybox","HostConfig":{{"Tmpfs":{{"{at}":""}}}}}}"#);
        let answer = host.api("POST", "/containers/create", body.as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "{at}");
        assert!(answer.text().contains(text), "{}", answer.text());
    }
    let body = br#"{"Image":"busybox","WorkingDir":"/tmp/"}"#;
    host.api("POST", "/containers/create?name=box", body).unwrap();
    assert_eq!(host.inspect("box", "{{.Config.WorkingDir}}"), "/tmp");
}
