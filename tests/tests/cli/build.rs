//! `wharf build`: what docker's classic client cannot ask for, and the cache verbs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use wharf_test::{Host, Output, tools};

pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) dir: PathBuf,
}

impl Site {
    pub(crate) fn new(dockerfile: &str) -> Site {
        let host = Host::with_busybox();
        let dir = host.dir().join("ctx");
        fs::create_dir(&dir).unwrap();
        let site = Site { host, dir };
        site.file("Dockerfile", dockerfile);
        site
    }

    pub(crate) fn file(&self, path: &str, content: &str) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn wharf(&self, args: &[&str]) -> Output {
        self.with(args, |_| ())
    }

    fn with(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> Output {
        let mut command = self.host.client(tools::wharf());
        command.args(args).current_dir(&self.dir);
        change(&mut command);
        Output::of(&mut command, b"")
    }

    fn run(&self, image: &str, script: &str) -> String {
        self.host.docker(["run", "--rm", image, "sh", "-c", script]).ok()
    }
}

#[test]
fn builds_show_their_steps_and_leave_an_image() {
    let site =
        Site::new("FROM busybox\nRUN echo made > /made && echo seen\nCMD [\"cat\", \"/made\"]\n");
    let built =
        site.wharf(&["build", "-t", "x", "--iidfile", "id", "--metadata-file", "facts", "."]);
    built.exits(0);
    assert!(built.stderr.contains("[stage-0 2/2] RUN echo made"), "{built}");
    assert!(built.stderr.contains("seen") && built.stderr.contains("DONE"), "{built}");
    let again = site.wharf(&["build", "-q", "."]);
    assert_eq!(again.ok(), fs::read_to_string(site.dir.join("id")).unwrap());
    let facts: serde_json::Value =
        serde_json::from_slice(&fs::read(site.dir.join("facts")).unwrap()).unwrap();
    assert_eq!(facts["containerimage.config.digest"], again.ok());
    assert_eq!(site.host.docker(["run", "--rm", "x"]).ok(), "made");
    assert!(site.wharf(&["build", "."]).stderr.contains("CACHED"));
    site.wharf(&["builder", "du", "--verbose"]).says("RUN echo made");
    site.wharf(&["system", "df"]).says("Build Cache");
    site.wharf(&["builder", "prune", "-af"]).says("Total reclaimed space");
    assert!(!site.wharf(&["build", "."]).stderr.contains("#2 CACHED"));
}

#[test]
fn secrets_reach_the_step_and_nothing_else() {
    let site = Site::new(
        "FROM busybox\nRUN --mount=type=secret,id=key cat /run/secrets/key | md5sum > /sum\n\
         RUN --mount=type=secret,id=other,env=WORD,required test \"$WORD\" = hidden\n\
         RUN test ! -e /run/secrets && test -z \"$WORD\"\n",
    );
    site.file("../key", "very secret");
    let args =
        ["build", "-t", "x", "--secret", "id=key,src=../key", "--secret", "id=other,env=TOLD", "."];
    let built = site.with(&args, |c| _ = c.env("TOLD", "hidden"));
    built.exits(0);
    assert_eq!(site.run("x", "cat /sum"), format!("{}  -", md5(b"very secret")));
    for text in [
        site.host.docker(["history", "--no-trunc", "x"]).ok(),
        built.stderr.clone(),
        site.host.inspect("x", "{{json .}}"),
    ] {
        assert!(!text.contains("very secret") && !text.contains("hidden\""), "{text}");
    }
    let saved = site.host.dir().join("x.tar");
    site.host.docker(["save", "-o", saved.to_str().unwrap(), "x"]).ok();
    let bytes = fs::read(saved).unwrap();
    assert!(!bytes.windows(11).any(|w| w == b"very secret"));
    site.wharf(&["build", "--no-cache", "."]).fails("secret other: not found");
}

/// By busybox, so that the test needs no crate for it.
fn md5(bytes: &[u8]) -> String {
    let mut command = Command::new(tools::path("busybox"));
    command.arg("md5sum");
    Output::of(&mut command, bytes).ok().split(' ').next().unwrap().to_owned()
}

#[test]
fn results_go_to_directories_and_archives() {
    let site =
        Site::new("FROM busybox AS b\nRUN echo x > /f\nFROM scratch\nCOPY --from=b /f /dir/f\n");
    site.wharf(&["build", "-o", "out", "."]).exits(0);
    assert_eq!(fs::read_to_string(site.dir.join("out/dir/f")).unwrap(), "x\n");
    let tar = site.wharf(&["build", "-q", "-o", "type=tar,dest=out.tar", "."]);
    tar.exits(0);
    assert!(fs::read(site.dir.join("out.tar")).unwrap().windows(5).any(|w| w == b"dir/f"));
    site.wharf(&["build", "-o", "type=oci,dest=oci.tar", "."]).exits(0);
    site.host.docker(["load", "-i", site.dir.join("oci.tar").to_str().unwrap()]).exits(0);
}

#[test]
fn contexts_have_names_and_stages_their_cache() {
    let site = Site::new(
        "FROM base AS a\nRUN head -c9 /dev/urandom | md5sum > /a\nFROM base AS b\nRUN head -c9 /dev/urandom | md5sum > /b\nFROM base\n\
         COPY --from=more hello /\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    );
    site.file("../more/hello", "hi");
    let args = [
        "build",
        "-t",
        "x",
        "--build-context",
        "more=../more",
        "--build-context",
        "base=docker-image://busybox",
        ".",
    ];
    site.wharf(&args).exits(0);
    assert_eq!(site.run("x", "cat /hello"), "hi");
    let before = (site.run("x", "cat /a"), site.run("x", "cat /b"));
    site.wharf(&[&args[..], &["--no-cache-filter", "b"]].concat()).exits(0);
    assert_eq!(site.run("x", "cat /a"), before.0);
    assert_ne!(site.run("x", "cat /b"), before.1);
    assert_eq!(site.run("x", "ls -a /"), site.run("x", "ls -a / | grep -v wharf"));
}

#[test]
fn an_image_brings_its_cache_along() {
    let site = Site::new(
        "FROM busybox\nRUN head -c9 /dev/urandom | md5sum > /sum\nWORKDIR /w\nRUN true\n",
    );
    site.wharf(&["build", "-t", "x", "--cache-to", "type=inline", "."]).exits(0);
    let sum = site.run("x", "cat /sum");
    site.wharf(&["builder", "prune", "-af"]).exits(0);
    let again = site.wharf(&["build", "-t", "y", "--cache-from", "x", "."]);
    again.exits(0);
    assert_eq!(site.run("y", "cat /sum"), sum);
    // What an image claims is not remembered for builds that did not ask for it.
    site.wharf(&["build", "-t", "z", "."]).exits(0);
    assert_ne!(site.run("z", "cat /sum"), sum);
    let told = site.wharf(&["build", "--cache-from", "busybox", "."]);
    assert!(told.stderr.contains("remembers no steps"), "{told}");
}

#[test]
fn mistakes_are_shown_where_they_are() {
    let site = Site::new("FROM busybox AS Up\nWORKDIR rel\nRUN echo $NOPE\nCOPY $NOPE/x /\n");
    let checked = site.wharf(&["build", "--check", "."]);
    assert_eq!(checked.code, 1, "{checked}");
    for rule in ["StageNameCasing", "WorkdirRelativePath", "UndefinedVar"] {
        assert!(checked.stdout.contains(rule), "{rule}: {checked}");
    }
    assert!(checked.stdout.contains(">>> WORKDIR rel"), "{checked}");
    site.file("Dockerfile", "FROM busybox\nRUN true\nRUN --mount=type=cahce,target=/x true\n");
    let failed = site.wharf(&["build", "."]);
    failed.fails("did you mean cache?");
    assert!(failed.stderr.contains("Dockerfile:3"), "{failed}");
    assert!(failed.stderr.contains("   3 | >>> RUN --mount"), "{failed}");
    site.file("Dockerfile", "FROM busybox\nRUN echo out && exit 9\n");
    let failed = site.wharf(&["build", "."]);
    failed.fails("did not complete successfully: exit code: 9");
    assert!(failed.stderr.contains(">>> RUN echo out"), "{failed}");
    site.file("Dockerfile", "# syntax=example.com/other:1\nFROM busybox\n");
    site.wharf(&["build", "."]).fails("frontend example.com/other:1 is not supported");
    site.wharf(&["build", "--sbom", "true", "."]).fails("--sbom");
}

#[test]
fn dockerfiles_come_from_anywhere() {
    let site = Site::new("FROM busybox\nCOPY . /all\n");
    site.file("../elsewhere", "FROM busybox\nCOPY a /from-elsewhere\n");
    site.file("a", "A");
    site.file("b.log", "B");
    site.file("Dockerfile.dockerignore", "*.log\n");
    site.wharf(&["build", "-t", "x", "."]).exits(0);
    assert_eq!(site.run("x", "ls /all"), "Dockerfile\nDockerfile.dockerignore\na");
    site.wharf(&["build", "-t", "y", "-f", "../elsewhere", "."]).exits(0);
    assert_eq!(site.run("y", "cat /from-elsewhere"), "A");
    let mut command = site.host.client(tools::wharf());
    command.args(["build", "-t", "z", "-"]);
    Output::of(&mut command, b"FROM busybox\nRUN echo z > /z\n").exits(0);
    assert_eq!(site.run("z", "cat /z"), "z");
}
