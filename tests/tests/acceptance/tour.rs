//! The tour of an everyday user, word by word, with an nginx from Debian's packages.

use wharf_test::{Host, eventually, image};

#[test]
fn the_tour() {
    let host = Host::start();
    host.write("nginx.tar", &image::nginx().docker_archive());
    host.docker(["load", "-i", "nginx.tar"]).says("Loaded image: nginx:latest");
    let images = host.docker(["images"]).lines();
    assert!(images[0].starts_with("REPOSITORY   TAG       IMAGE ID"), "{images:?}");
    assert!(images[1].starts_with("nginx        latest    "), "{images:?}");
    let inspected = host.docker(["image", "inspect", "nginx:latest"]).json();
    assert_eq!(inspected[0]["Config"]["Entrypoint"][0], "nginx");

    let id = host.docker(["run", "-d", "-p", "91:80", "nginx"]).ok();
    let page = eventually("nginx serves", || host.get("127.0.0.1:91", "/").ok());
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Welcome to nginx!"), "{}", page.text());

    let ps = host.docker(["ps"]).lines();
    assert!(ps[1].contains("\"nginx -g 'daemon of…\""), "{ps:?}");
    assert!(ps[1].contains("0.0.0.0:91->80/tcp"), "{ps:?}");
    let log = host.docker(["logs", &id]);
    assert!(log.stdout.contains("\"GET / HTTP/1.1\" 200"), "{log}");

    let mut shell = host.terminal(&["exec", "-it", &id, "sh"]);
    shell.expect("# ");
    shell.send("cat /proc/1/comm; exit\n");
    shell.expect("nginx");
    shell.finish();

    let stats = host.docker(["stats", "--no-stream"]).lines();
    assert!(stats[0].starts_with("CONTAINER ID   NAME"), "{stats:?}");
    assert!(stats[1].starts_with(&id[..12]), "{stats:?}");

    host.docker(["pause", &id]).ok();
    assert!(host.docker(["ps"]).ok().contains("(Paused)"));
    host.docker(["unpause", &id]).ok();
    assert_eq!(host.get("127.0.0.1:91", "/").unwrap().status, 200);

    host.docker(["exec", &id, "sh", "-c", "echo changed > /usr/share/nginx/html/index.html"]).ok();
    host.docker(["commit", &id, "nginx:mine"]).says("sha256:");
    host.docker(["stop", &id]).ok();
    assert_eq!(host.inspect(&id, "{{.State.ExitCode}}"), "0");
    host.docker(["rm", &id]).ok();
    assert_eq!(host.docker(["ps", "-aq"]).ok(), "");
    host.docker([
        "run",
        "--rm",
        "--entrypoint",
        "cat",
        "nginx:mine",
        "/usr/share/nginx/html/index.html",
    ])
    .says("changed");
}
