//! `docker build` through the classic door: instructions, cache, stages, mounts, bad input.

use std::fs;
use std::path::PathBuf;

use wharf_test::host::Engine;
use wharf_test::{Host, Output};

/// A build context with a Dockerfile.
pub(crate) struct Site<'a> {
    pub(crate) host: &'a Host,
    pub(crate) dir: PathBuf,
}

impl<'a> Site<'a> {
    pub(crate) fn new(host: &'a Host, name: &str, dockerfile: &str) -> Site<'a> {
        let dir = host.dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let site = Site { host, dir };
        site.file("Dockerfile", dockerfile);
        site
    }

    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn build(&self, args: &[&str]) -> Output {
        let mut command = self.host.docker_command();
        command.env("DOCKER_BUILDKIT", "0").arg("build").args(args).arg(&self.dir);
        Output::of(&mut command, b"")
    }

    /// What a container of the image prints.
    pub(crate) fn run(&self, image: &str, script: &str) -> String {
        self.host.docker(["run", "--rm", image, "sh", "-c", script]).ok()
    }
}

/// How many steps came from the cache.
pub(crate) fn cached(output: &Output) -> usize {
    output.stdout.matches("Using cache").count()
}

#[test]
fn a_dockerfile_becomes_an_image_that_runs() {
    let host = Host::with_busybox();
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox\nLABEL a=b\nENV GREETING=\"hello world\"\nWORKDIR /srv/app\nCOPY hello.txt dir ./\n\
         RUN echo \"$GREETING\" > made && test \"$(pwd)\" = /srv/app\nEXPOSE 80 53/udp\nUSER 1000:1000\n\
         VOLUME /data\nSTOPSIGNAL SIGQUIT\nHEALTHCHECK --interval=5s CMD true\nENTRYPOINT [\"cat\"]\nCMD [\"made\"]\n",
    );
    site.file("hello.txt", "hi").file("dir/inner", "in");
    let built = site.build(&["-t", "app:1", "-t", "other"]);
    built
        .says("Step 1/13 : FROM busybox")
        .says("Successfully built")
        .says("Successfully tagged app:1");
    assert_eq!(host.docker(["run", "--rm", "app:1"]).ok(), "hello world");
    assert_eq!(host.docker(["run", "--rm", "other", "inner", "hello.txt"]).ok(), "inhi");
    let config = host.docker(["image", "inspect", "app:1"]).json()[0]["Config"].clone();
    assert_eq!(config["User"], "1000:1000");
    assert_eq!(config["WorkingDir"], "/srv/app");
    assert_eq!(config["Labels"]["a"], "b");
    assert!(config["ExposedPorts"]["53/udp"].is_object());
    assert!(config["Volumes"]["/data"].is_object());
    assert_eq!(config["StopSignal"], "SIGQUIT");
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_i64);
    assert!(host.docker(["history", "app:1"]).ok().contains("COPY"));
}

#[test]
fn the_cache_follows_content_and_not_time() {
    let host = Host::with_busybox();
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox\nRUN head -c9 /dev/urandom | md5sum > /first\nCOPY a /a\nRUN cat /a > /b\n",
    );
    site.file("a", "one");
    site.build(&["-t", "x"]).exits(0);
    let first = host.inspect("x", "{{.RootFS.Layers}}");
    site.file("a", "one");
    let again = site.build(&["-t", "x"]);
    assert_eq!(cached(&again), 3, "{again}");
    assert_eq!(host.inspect("x", "{{.RootFS.Layers}}"), first);
    site.file("a", "two");
    let changed = site.build(&["-t", "x"]);
    assert_eq!(cached(&changed), 1, "{changed}");
    assert_eq!(site.run("x", "cat /b"), "two");
    let anew = site.build(&["-t", "x", "--no-cache"]);
    assert_eq!(cached(&anew), 0, "{anew}");
}

#[test]
fn the_cache_outlives_the_daemon_and_is_pruned() {
    let mut host = Host::with_busybox();
    let dockerfile = "FROM busybox\nRUN head -c9 /dev/urandom | md5sum > /first\n";
    Site::new(&host, "ctx", dockerfile).build(&["-t", "x"]).exits(0);
    host.crash_daemon();
    let site = Site::new(&host, "ctx", dockerfile);
    assert_eq!(cached(&site.build(&["-t", "x"])), 1);
    host.docker(["rmi", "x"]).ok();
    assert_eq!(cached(&site.build(&["-t", "x"])), 1);
    host.docker(["rmi", "x"]).ok();
    host.docker(["builder", "prune", "-af"]).says("Total");
    assert_eq!(cached(&site.build(&["-t", "x"])), 0);
}

#[test]
fn stages_are_skipped_copied_from_and_targeted() {
    let host = Host::with_busybox();
    let site = Site::new(
        &host,
        "ctx",
        "ARG BASE=busybox\nFROM $BASE AS build\nRUN mkdir /out && echo made > /out/file && ln -s file /out/link\n\
         FROM busybox AS never\nRUN exit 1\n\
         FROM scratch AS export\nCOPY --from=build /out /\n\
         FROM busybox AS last\nCOPY --from=export /file /from-stage\nCOPY --from=0 /out/link /from-number\n\
         COPY --from=busybox /bin/busybox /from-image\n",
    );
    site.build(&["-t", "last"]).exits(0);
    assert_eq!(
        site.run("last", "cat /from-stage /from-number; ls /from-image"),
        "made\nmade\n/from-image"
    );
    site.build(&["-t", "x", "--target", "export"]).exits(0);
    assert_eq!(host.inspect("x", "{{len .RootFS.Layers}}"), "1");
    let Engine::Wharf = host.engine() else { return };
    site.build(&["--target", "exprot"]).fails("did you mean export?");
    site.build(&["--target", "never"]).fails("returned a non-zero code: 1");
}

#[test]
fn arguments_have_their_scopes() {
    let host = Host::with_busybox();
    let site = Site::new(
        &host,
        "ctx",
        "ARG GLOBAL=g\nFROM busybox\nARG GLOBAL\nARG OWN=o\nARG HIDDEN=arg\nENV HIDDEN=env\n\
         RUN echo $GLOBAL $OWN $HIDDEN ${HTTP_PROXY:-none} > /args\nARG TARGETARCH\nENV ARCH=$TARGETARCH PLUS=${OWN:+plus}\n",
    );
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(site.run("x", "cat /args; echo $PLUS"), "g o env none\nplus");
    site.build(&["-t", "x", "--build-arg", "OWN=mine", "--build-arg", "HTTP_PROXY=p"]).exits(0);
    assert_eq!(site.run("x", "cat /args"), "g mine env p");
    assert!(!host.docker(["history", "--no-trunc", "x"]).ok().contains("HTTP_PROXY=p"));
    site.build(&["--build-arg", "NOPE=1"]).says("NOPE");
}

#[test]
fn a_failing_command_gives_its_status_and_place() {
    let host = Host::with_busybox();
    let site = Site::new(&host, "ctx", "FROM busybox\nRUN echo before && exit 7\n");
    let failed = site.build(&[]);
    failed.exits(7);
    assert!(failed.stderr.contains("returned a non-zero code: 7"), "{failed}");
    assert!(failed.stdout.contains("before"), "{failed}");
    site.file("Dockerfile", "FROM busybox\nRUNN x\n");
    let Engine::Wharf = host.engine() else { return };
    site.build(&[]).fails("unknown instruction: RUNN (did you mean RUN?)");
    site.build(&[]).fails("line 2");
    site.file("Dockerfile", "FROM busybox\nCOPY nothing /\n");
    site.build(&[]).fails("\"/nothing\": not found");
    host.assert_clean();
}

/// What the classic builder of docker refuses: wharf reads today's syntax on every door.
#[test]
fn todays_syntax_works_without_buildx() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let site = Site::new(
        &host,
        "ctx",
        "# syntax=docker/dockerfile:1\nFROM busybox AS src\nRUN mkdir -p /s/sub && echo s > /s/sub/f\n\
         FROM busybox\nARG WHO=world\nRUN <<EOF\nset -e\necho \"hello $WHO\" > /sh\nEOF\n\
         RUN <<EOF\n#!/bin/busybox ash\necho script > /script\nEOF\n\
         COPY <<one.conf <<\"two.conf\" /etc/app/\nwho=$WHO\none.conf\nwho=$WHO\ntwo.conf\n\
         RUN --mount=type=bind,from=src,source=/s,target=/mnt cat /mnt/sub/f > /bound\n\
         RUN --mount=type=bind,target=/ctx,rw touch /ctx/new && cat /ctx/a.txt > /ctx-a\n\
         RUN --mount=type=cache,target=/cache,id=c1 echo x >> /cache/log; wc -l < /cache/log > /count\n\
         RUN --mount=type=tmpfs,target=/scratch,size=1m df /scratch | grep -q tmpfs && touch /scratch/y\n\
         RUN --network=none ! ip addr | grep -q eth0\n\
         COPY --chmod=0640 --chown=7:8 a.txt /owned\nCOPY --link a.txt /linked/\n\
         COPY --parents d/./e/*.txt /parents/\nCOPY --exclude=*.md d /excluded/\n",
    );
    site.file("a.txt", "A").file("d/e/x.txt", "x").file("d/e/y.md", "y").file("d/r.md", "r");
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(site.run("x", "cat /sh /script /bound /ctx-a"), "hello world\nscript\ns\nA");
    assert_eq!(site.run("x", "cat /etc/app/one.conf /etc/app/two.conf"), "who=world\nwho=$WHO");
    assert_eq!(site.run("x", "cat /count; ls /mnt /ctx /cache /scratch 2>/dev/null; true"), "1");
    assert_eq!(site.run("x", "stat -c '%a %u %g' /owned; cat /linked/a.txt"), "640 7 8\nA");
    assert_eq!(
        site.run("x", "find /parents /excluded | sort"),
        "/excluded\n/excluded/e\n/excluded/e/x.txt\n/excluded/e/y.md\n/parents\n/parents/e\n/parents/e/x.txt"
    );
    let again = site.build(&["-t", "y", "--no-cache"]);
    again.exits(0);
    assert_eq!(site.run("y", "cat /count"), "2");
    host.assert_clean();
}

#[test]
fn equal_inputs_give_equal_images() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox\nARG SOURCE_DATE_EPOCH\nCOPY a /a\nRUN mkdir /d && date > /dev/null && echo x > /d/f\n",
    );
    site.file("a", "one");
    let args = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    site.build(&[&args[..], &["-t", "one"]].concat()).exits(0);
    site.file("a", "one");
    site.build(&[&args[..], &["-t", "two"]].concat()).exits(0);
    assert_eq!(host.inspect("one", "{{.Id}}"), host.inspect("two", "{{.Id}}"));
    assert_eq!(host.inspect("one", "{{.Created}}"), "2023-11-14T22:13:20Z");
}

#[test]
fn archives_are_added_unpacked_and_triggers_run_once() {
    let host = Host::with_busybox();
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox\nADD t.tar.gz /in/\nADD plain /in/\nONBUILD RUN echo t >> /trigger\n",
    );
    let tar = std::process::Command::new("tar")
        .args(["-czf", "t.tar.gz", "--transform", "s,.*,packed,", "Dockerfile"])
        .current_dir(&site.dir)
        .status()
        .unwrap();
    assert!(tar.success());
    site.file("plain", "p");
    site.build(&["-t", "base"]).exits(0);
    assert_eq!(site.run("base", "ls /in; ls /trigger 2>/dev/null; true"), "packed\nplain");
    let child = Site::new(&host, "child", "FROM base\n");
    child.build(&["-t", "child"]).exits(0);
    assert_eq!(child.run("child", "cat /trigger"), "t");
    Site::new(&host, "grand", "FROM child\n").build(&["-t", "grand"]).exits(0);
    assert_eq!(child.run("grand", "cat /trigger"), "t");
}

#[test]
fn ignored_files_stay_out() {
    let host = Host::with_busybox();
    let site = Site::new(&host, "ctx", "FROM busybox\nCOPY . /all\n");
    site.file(".dockerignore", "*.log\n!keep.log\nsecret\n").file("a.log", "").file("keep.log", "");
    site.file("secret/key", "k").file("b", "");
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(
        site.run("x", "cd /all && find . -type f | sort"),
        "./.dockerignore\n./Dockerfile\n./b\n./keep.log"
    );
}

#[test]
fn a_site_on_nginx_is_built_and_served() {
    let host = Host::start();
    host.load(&wharf_test::image::nginx());
    let site = Site::new(
        &host,
        "ctx",
        "FROM nginx\nMAINTAINER me@example.com\nCOPY --chmod=0644 index.html /usr/share/nginx/html/index.html\n\
         ENV TZ=Asia/Shanghai\nEXPOSE 80\n",
    );
    let Engine::Wharf = host.engine() else { return };
    site.file("index.html", "<h1>built here</h1>");
    site.build(&["-t", "site"]).exits(0);
    assert_eq!(host.inspect("site", "{{.Author}}"), "me@example.com");
    host.docker(["run", "-d", "-p", "92:80", "site"]).ok();
    let served = wharf_test::settles(|| {
        let page = host.get("127.0.0.1:92", "/").ok()?;
        page.text().contains("built here").then_some(())
    });
    assert!(served, "{}", host.log());
}

#[test]
fn hostile_contexts_and_stages_stay_inside() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox AS evil\nRUN ln -s /../../../../etc /etc2 && ln -s /proc/self/root /self && rm -rf /tmp && ln -s /../../../.. /tmp\n\
         FROM evil\nCOPY a /tmp/planted\nCOPY --from=evil /etc2 /copied\n\
         RUN test -e /planted && test ! -e /copied/debian_version\n",
    );
    site.file("a", "x");
    std::os::unix::fs::symlink("/etc/hostname", site.dir.join("out")).unwrap();
    site.build(&["-t", "x"]).exits(0);
    site.file("Dockerfile", "FROM busybox\nCOPY out /x\n");
    site.build(&[]).fails("not found");
    site.file("Dockerfile", "FROM busybox\nCOPY ../../../etc/passwd /x\n");
    site.build(&[]).fails("not found");
    let mut tar = wharf_test::image::Tar::default();
    tar.file("Dockerfile", 0o644, b"FROM busybox\n");
    tar.file("../../escape", 0o644, b"x");
    let reply = host.api("POST", "/v1.47/build", &tar.finish()).unwrap();
    assert_eq!(reply.status, 400, "{:?}", String::from_utf8_lossy(&reply.body));
    host.assert_clean();
}

/// Whoever sends first and looks for an answer then finds it, and no broken pipe.
#[test]
fn what_is_refused_before_it_was_sent_is_refused_in_words() {
    let host = Host::start();
    let Engine::Wharf = host.engine() else { return };
    let much = vec![0; 24 << 20];
    let refusals =
        [("/build?version=9", 400), ("/build?ulimits=x", 400), ("/images/load?platform=x", 400)];
    for (target, status) in refusals {
        for _ in 0..3 {
            let reply = host.api("POST", target, &much).unwrap();
            assert_eq!(reply.status, status, "{target}");
        }
    }
}
