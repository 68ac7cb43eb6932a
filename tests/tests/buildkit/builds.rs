//! Images from contexts of every kind, with every option that changes them.

use std::os::unix::net::UnixStream;

use wharf_test::{Output, eventually, tools};

use crate::{Site, transferred};

#[test]
fn an_image_is_built_tagged_and_run() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY greeting /greeting\nCMD cat /greeting\n");
    site.file("ctx/greeting", "hello");
    let args = ["-t", "one", "-t", "two:2", "--iidfile", "iid", "--metadata-file", "md", "ctx"];
    let built = site.build(&args);
    built.exits(0);
    assert!(built.stderr.contains("naming to docker.io/library/two:2"), "{built}");
    site.host.docker(["run", "--rm", "one"]).says("hello");
    let id = site.host.inspect("two:2", "{{.Id}}");
    assert_eq!(site.read("iid"), id);
    let metadata: serde_json::Value = serde_json::from_str(&site.read("md")).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/one:latest,docker.io/library/two:2");
    let quiet = site.buildx(&["build", "-q", "ctx"]);
    site.host.docker(["image", "inspect", &quiet.ok()]).exits(0);
}

#[test]
fn options_reach_the_instructions() {
    let site = Site::start();
    let dockerfile = "\
FROM busybox AS first
ARG WHO=nobody
RUN echo $WHO > /who && hostname > /host && cat /etc/hosts > /hosts && ulimit -n > /files
FROM busybox AS second
COPY --from=first /who /host /hosts /files /
FROM scratch
";
    site.file("ctx/Containerfile", dockerfile);
    let args = ["--build-arg", "WHO=me", "--target", "second", "--label", "a=b", "-t", "x"];
    let more =
        ["--add-host", "db:10.1.2.3", "--ulimit", "nofile=99:100", "-f", "ctx/Containerfile"];
    site.build(&[&args[..], &more, &["ctx"]].concat()).exits(0);
    assert_eq!(site.run("x", "cat /who /host /files"), "me\nbuildkitsandbox\n99");
    assert!(site.run("x", "cat /hosts").contains("10.1.2.3"));
    assert_eq!(site.host.inspect("x", "{{.Config.Labels.a}}"), "b");
}

#[test]
fn only_what_changed_is_sent_again() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY . /src\n");
    for n in 0..20 {
        site.file(&format!("ctx/data/{n}"), &format!("{n:1000}"));
    }
    let first = site.build(&["-t", "x", "ctx"]);
    first.exits(0);
    let second = site.build(&["-t", "x", "ctx"]);
    second.exits(0);
    site.file("ctx/data/7", "changed");
    let third = site.build(&["-t", "x", "ctx"]);
    third.exits(0);
    let bytes = |o: &wharf_test::Output| {
        let text = transferred(o);
        let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let unit = if text.ends_with("kB") { 1000.0 } else { 1.0 };
        digits.parse::<f64>().unwrap() * unit
    };
    assert!(bytes(&first) > 20_000.0, "{first}");
    assert!(bytes(&second) < 3_000.0, "{second}");
    assert!(bytes(&third) < 3_000.0, "{third}");
    assert_eq!(site.run("x", "cat /src/data/7; wc -c < /src/data/8"), "changed1000");
}

#[test]
fn ignored_files_stay_with_the_client() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY . /src\n");
    site.file("ctx/.dockerignore", "secret\n*.log\n!keep.log\n");
    for name in ["secret/key", "a.log", "keep.log", "code"] {
        site.file(&format!("ctx/{name}"), name);
    }
    site.build(&["-t", "x", "ctx"]).exits(0);
    let names = site.run("x", "cd /src && find . -type f | sort | tr '\\n' ' '");
    assert_eq!(names, "./.dockerignore ./Dockerfile ./code ./keep.log");
    // The one beside the Dockerfile wins.
    site.file("ctx/Dockerfile.dockerignore", "code\n");
    site.build(&["-t", "x", "ctx"]).exits(0);
    assert_eq!(site.run("x", "ls /src/code 2>/dev/null; ls /src/secret"), "key");
}

#[test]
fn links_and_modes_survive_the_transfer() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY . /src\n")
        .file("ctx/d/run", "#!/bin/sh\necho ran\n");
    let at = |name: &str| site.path(&format!("ctx/{name}"));
    std::os::unix::fs::symlink("d/run", at("link")).unwrap();
    std::fs::hard_link(at("d/run"), at("d/same")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4750);
    std::fs::set_permissions(at("d/run"), mode).unwrap();
    site.build(&["-t", "x", "ctx"]).exits(0);
    assert_eq!(
        site.run("x", "readlink /src/link; stat -c '%a %u' /src/d/run; /src/d/same"),
        "d/run\n4750 0\nran"
    );
}

#[test]
fn contexts_come_on_standard_input_too() {
    let site = Site::start();
    let mut command = site.command();
    let alone = wharf_test::Output::of(
        command.args(["build", "-q", "-t", "x", "-"]),
        b"FROM busybox\nRUN echo alone > /f\n",
    );
    alone.exits(0);
    assert_eq!(site.run("x", "cat /f"), "alone");
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY f /f\n").file("ctx/f", "in a tar");
    let tar = std::process::Command::new("tar")
        .args(["-C", "ctx", "-cz", "."])
        .current_dir(site.host.dir())
        .output();
    let mut command = site.command();
    wharf_test::Output::of(command.args(["build", "-q", "-t", "x", "-"]), &tar.unwrap().stdout)
        .exits(0);
    assert_eq!(site.run("x", "cat /f"), "in a tar");
}

#[test]
fn secrets_are_there_and_leave_nothing() {
    let site = Site::start();
    let dockerfile = "\
FROM busybox
RUN --mount=type=secret,id=token,required=true cat /run/secrets/token | tr a-z A-Z > /shout
RUN --mount=type=secret,id=other,env=OTHER echo $OTHER > /other
RUN ls /run/secrets 2>/dev/null | wc -l > /left
";
    site.file("ctx/Dockerfile", dockerfile).file("token", "hush");
    let mut command = site.command();
    command.env("OTHER", "env").args(["build", "-q", "-t", "x"]);
    command.args(["--secret", "id=token,src=token", "--secret", "id=other,env=OTHER", "ctx"]);
    wharf_test::Output::of(&mut command, b"").exits(0);
    assert_eq!(site.run("x", "cat /shout /other /left"), "HUSHenv\n0");
    site.host.docker(["history", "--no-trunc", "x"]).exits(0);
    site.build(&["ctx"]).fails("token");
}

/// An agent of the client, which ends with the test.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Agent {
    fn start(site: &Site) -> Agent {
        let socket = site.path("agent");
        let mut agent = std::process::Command::new(tools::path("ssh-agent"));
        let agent = agent.args(["-D", "-a"]).arg(&socket).stdout(std::process::Stdio::null());
        let agent = Agent(agent.spawn().unwrap());
        eventually("the agent listens", || UnixStream::connect(&socket).ok());
        agent
    }
}

#[test]
fn agents_are_forwarded() {
    let site = Site::start();
    let _agent = Agent::start(&site);
    let make = |args: &[&str]| {
        let mut command = site.host.client(tools::path(args[0]));
        Output::of(command.env("SSH_AUTH_SOCK", site.path("agent")).args(&args[1..]), b"").ok()
    };
    make(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "key"]);
    make(&["ssh-add", "-q", "key"]);
    // What the client makes of its agent knows the agent's language alone: only a program that speaks it gets through.
    let add = "/ssh/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /ssh/usr/lib/x86_64-linux-gnu \
               /ssh/usr/bin/ssh-add -L";
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=ssh --mount=type=bind,from=ssh,target=/ssh {add} > /keys\n"
    );
    site.file("ctx/Dockerfile", &dockerfile);
    let tool = format!("ssh={}", tools::path("openssh").display());
    for (name, source) in [("socket", "agent"), ("file", "key")] {
        let ssh = format!("default={}", site.path(source).display());
        let args = ["-t", name, "--ssh", &ssh, "--build-context", &tool, "--no-cache", "ctx"];
        site.build(&args).exits(0);
        // The agent adds its own comment.
        let keys = site.run(name, "cat /keys");
        assert!(keys.starts_with(site.read("key.pub").trim()), "{name}: {keys}");
    }
    site.file("ctx/Dockerfile", "FROM busybox\nRUN --mount=type=ssh,required=true true\n");
    site.build(&["ctx"]).fails("ssh");
}

#[test]
fn named_contexts_are_directories_and_images() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM base\nCOPY --from=tools tool /tool\n");
    site.file("tools/tool", "t").file("tools/.dockerignore", "junk\n").file("tools/junk", "j");
    let args = ["--build-context", "tools=tools", "--build-context", "base=docker-image://busybox"];
    site.build(&[&args[..], &["-t", "x", "ctx"]].concat()).exits(0);
    assert_eq!(site.run("x", "cat /tool"), "t");
}

#[test]
fn a_second_build_is_cached_and_no_cache_is_not() {
    let site = Site::start();
    site.file(
        "ctx/Dockerfile",
        "FROM busybox AS a\nRUN cat /proc/uptime > /u\nFROM a AS b\nRUN true\n",
    );
    let at = |args: &[&str]| {
        site.build(&[args, &["-t", "x", "ctx"]].concat()).exits(0);
        site.run("x", "cat /u")
    };
    let first = at(&[]);
    assert_eq!(at(&[]), first);
    assert_eq!(at(&["--no-cache-filter", "b"]), first);
    assert_ne!(at(&["--no-cache"]), first);
}

#[test]
fn an_interrupted_build_ends_and_leaves_nothing() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN echo begun; sleep 1000\n");
    let mut build = site.host.talk(&["build", "--progress", "plain", "ctx"]);
    build.expect("begun\n");
    build.signal(rustix::process::Signal::INT);
    let (code, _) = build.finish();
    assert_ne!(code, 0);
    // What a host leaves behind is looked at when it is dropped.
    let gone = || site.host.docker(["ps", "-aq"]).ok().is_empty().then_some(());
    wharf_test::eventually("no container is left", gone);
}

/// A web server in the host's network that has these files, by path.
fn web(site: &Site, port: u16, files: Vec<(&'static str, Vec<u8>)>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let bind = || std::net::TcpListener::bind(("127.0.0.1", port));
    let listener = wharf_test::namespace::in_network(site.host.init(), bind).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines =
                BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let found = files.iter().find(|(path, _)| first.split(' ').nth(1) == Some(path));
            let (status, body) = found.map_or(("404 Not Found", &[][..]), |(_, b)| ("200 OK", b));
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            // A client that goes away is no matter.
            drop(stream.write_all(&[head.as_bytes(), body].concat()));
        }
    });
}

#[test]
fn contexts_come_from_the_web() {
    let site = Site::start();
    let mut tar = wharf_test::image::Tar::default();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY f /f\n");
    tar.file("f", 0o644, b"from the web");
    let lone = b"FROM busybox\nRUN echo alone > /f\n".to_vec();
    web(&site, 8000, vec![("/ctx.tar", tar.finish()), ("/lone", lone)]);
    site.build(&["-t", "archive", "http://127.0.0.1:8000/ctx.tar"]).exits(0);
    assert_eq!(site.run("archive", "cat /f"), "from the web");
    site.build(&["-t", "lone", "http://127.0.0.1:8000/lone"]).exits(0);
    assert_eq!(site.run("lone", "cat /f"), "alone");
    site.build(&["http://127.0.0.1:8000/none.tar"]).fails("404");
}

/// buildx asks the engine for the address, and gives up without it.
#[test]
fn the_host_has_a_name_in_builds() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN grep gateway.test /etc/hosts > /hosts\n");
    site.build(&["--add-host", "gateway.test=host-gateway", "-t", "gw", "ctx"]).exits(0);
    assert!(site.run("gw", "cat /hosts").starts_with("172.17.0.1"));
}

/// From the tests of BuildKit's Dockerfile frontend.
#[test]
fn details_are_as_the_reference_has_them() {
    let site = Site::start();
    let dockerfile = "\
FROM busybox AS base
WORKDIR /var/www
ENV empty=\"\"
COPY --link taken $empty
ARG TARGETSTAGE
RUN echo $(cat taken) $TARGETSTAGE $HTTP_PROXY $http_proxy > /out
COPY <<END /document
\\
\\n \\$empty \\\\
END
FROM other AS nothing
FROM base
";
    site.file("ctx/Dockerfile", dockerfile).file("ctx/taken", "here");
    let args = ["--build-arg", "http_proxy=p", "--build-context", "other=docker-image://scratch"];
    site.build(&[&args[..], &["-t", "details", "ctx"]].concat()).exits(0);
    assert_eq!(site.run("details", "cat /out /document"), "here default p p\n\nn $empty \\");
    site.build(&["--target", "nothing", "--build-context", args[3], "ctx"]).exits(0);
}
