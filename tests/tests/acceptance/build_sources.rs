//! What builds take from elsewhere: web servers, repositories, caches; and what hostile ones try.

use std::fs;
use std::path::PathBuf;

use wharf_test::host::Engine;
use wharf_test::web::{Answer, Web, git};
use wharf_test::{Host, Output};

use crate::build::{Site, cached};

/// A repository below the host's folder, served by a web server on the host.
struct Repository {
    dir: PathBuf,
}

impl Repository {
    fn new(host: &Host, name: &str) -> Repository {
        Repository::with(host, name, "sha1")
    }

    /// One whose objects are named by that hash.
    fn with(host: &Host, name: &str, format: &str) -> Repository {
        let dir = host.dir().join("repositories").join(name);
        fs::create_dir_all(&dir).unwrap();
        let repository = Repository { dir };
        repository.git(&["init", "-q", "-b", "main", &format!("--object-format={format}"), "."]);
        repository
    }

    fn git(&self, args: &[&str]) -> String {
        Output::of(git(&self.dir).args(args), b"").ok()
    }

    /// A commit with these files.
    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            let path = self.dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

fn serve(host: &Host, authorization: Option<&str>) -> Web {
    Web::git(host.init(), host.dir().join("repositories"), authorization)
}

#[test]
fn repositories_are_contexts() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let repository = Repository::new(&host, "app.git");
    repository.commit(&[
        ("Dockerfile", "FROM busybox\nCOPY f run /\n"),
        ("f", "one"),
        ("run", "r"),
    ]);
    repository.git(&["tag", "-a", "v1", "-m", "one"]);
    let files =
        [("f", "two"), ("sub/Dockerfile", "FROM busybox\nCOPY . /sub\n"), ("sub/deep/g", "g")];
    repository.commit(&files);
    repository.git(&["branch", "other"]);
    let web = serve(&host, None);
    let url = format!("http://{}/app.git", web.address);
    let site = Site::new(&host, "unused", "");
    let build = |at: &str| {
        let mut command = host.client(wharf_test::tools::wharf());
        Output::of(command.args(["build", "-t", "x"]).arg(format!("{url}{at}")), b"")
    };
    build("").exits(0);
    assert_eq!(site.run("x", "cat /f; stat -c '%a %u %Y' /f"), "two644 0 1700000000");
    for (at, expected) in [("#v1", "one"), ("#other", "two"), ("#refs/heads/main", "two")] {
        build(at).exits(0);
        assert_eq!(site.run("x", "cat /f"), expected, "{at}");
    }
    build("#main:sub").exits(0);
    assert_eq!(site.run("x", "cd /sub; find . -type f | sort"), "./Dockerfile\n./deep/g");
    build("#nope").fails("\"nope\" is no branch, tag or commit there");
    build("#main:none").fails("there is no directory \"none\"");
    build("#--upload-pack=touch /tmp/x").fails("cannot be the name of a branch");
    build("#main:../../../etc").fails("there is no directory \"etc\"");
    host.assert_clean();
}

#[test]
fn repositories_are_added() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let repository = Repository::new(&host, "lib.git");
    let first = repository.commit(&[("a", "1"), ("d/b", "2")]);
    std::os::unix::fs::symlink("d", repository.dir.join("link")).unwrap();
    let second = repository.commit(&[("a", &"long enough to be a delta\n".repeat(200))]);
    let third =
        repository.commit(&[("a", &("x".to_owned() + &"long enough to be a delta\n".repeat(200)))]);
    let web = serve(&host, None);
    let url = format!("http://{}/lib.git", web.address);
    let site = Site::new(
        &host,
        "ctx",
        &format!(
            "FROM busybox\nADD {url} /plain\nADD --keep-git-dir=true {url}#main /kept\nADD {url}#main:d /sub\n\
             ADD --checksum={third} {url}#main /checked\nADD --chown=7:8 --exclude=d {url}#{first} /old\n"
        ),
    );
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(
        site.run(
            "x",
            "ls -A /plain /sub; cat /link /plain/link/b /sub/b /old/a 2>/dev/null; wc -c < /plain/a"
        ),
        "/plain:\na\nd\nlink\n\n/sub:\nb\n2215201"
    );
    assert_eq!(site.run("x", "stat -c '%u %g' /old/a; ls /old; readlink /plain/link"), "7 8\na\nd");
    // git itself finds the kept repository whole and unchanged.
    let container = host.docker(["create", "x"]).ok();
    let to = host.dir().join("kept");
    host.docker(["cp", &format!("{container}:/kept"), to.to_str().unwrap()]).exits(0);
    let ask =
        |args: &[&str]| Output::of(git(&to).args(["-c", "safe.directory=*"]).args(args), b"").ok();
    assert_eq!(ask(&["rev-parse", "HEAD"]), third);
    assert_eq!(ask(&["status", "--porcelain"]), "");
    assert_eq!(ask(&["fsck", "--no-dangling"]), "");
    assert_eq!(ask(&["rev-list", "HEAD"]), third);
    let asked = web.requests().iter().filter(|r| r.starts_with("POST")).count();
    assert_eq!(cached(&site.build(&["-t", "x"])), 5);
    // What has not changed is not fetched again: one question for each ADD.
    let again = web.requests().iter().filter(|r| r.starts_with("POST")).count();
    assert_eq!(again - asked, 5);
    repository.commit(&[("a", "new")]);
    site.file("Dockerfile", &format!("FROM busybox\nADD --checksum={second} {url}#main /x\n"));
    site.build(&[]).fails("checksum mismatch");
    site.file("Dockerfile", "FROM busybox\nADD git@example.com:a/b.git /x\n");
    site.build(&[]).fails("clone it in a RUN --mount=type=ssh");
    host.assert_clean();
}

#[test]
fn repositories_have_long_names_and_daemons() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let web = serve(&host, None);
    let daemon = Web::git_daemon(host.init(), &host.dir().join("repositories"));
    for format in ["sha1", "sha256"] {
        let name = format!("{format}.git");
        let repository = Repository::with(&host, &name, format);
        let text = "long enough to be a delta\n".repeat(200);
        let first = repository.commit(&[("Dockerfile", "FROM busybox\nCOPY a /a\n"), ("a", &text)]);
        let last = repository.commit(&[("a", &format!("x{text}")), ("d/b", "2")]);
        for url in [format!("http://{}/{name}", web.address), format!("git://{daemon}/{name}")] {
            let site = Site::new(
                &host,
                "ctx",
                &format!(
                    "FROM busybox\nADD --keep-git-dir=true {url} /kept\nADD {url}#{first} /old\n"
                ),
            );
            site.build(&["-t", "x", "--no-cache"]).exits(0);
            assert_eq!(
                site.run("x", "wc -c < /kept/a; cat /kept/d/b; wc -c < /old/a"),
                "5201\n25200"
            );
            let container = host.docker(["create", "x"]).ok();
            let to = host.dir().join("kept");
            host.docker(["cp", &format!("{container}:/kept"), to.to_str().unwrap()]).exits(0);
            let ask = |args: &[&str]| {
                Output::of(git(&to).args(["-c", "safe.directory=*"]).args(args), b"").ok()
            };
            assert_eq!(ask(&["rev-parse", "HEAD"]), last, "{url}");
            assert_eq!(ask(&["status", "--porcelain"]), "", "{url}");
            assert_eq!(ask(&["fsck", "--no-dangling"]), "", "{url}");
            fs::remove_dir_all(&to).unwrap();
            let mut command = host.client(wharf_test::tools::wharf());
            let built = Output::of(command.args(["build", "-t", "y", &format!("{url}#main")]), b"");
            built.exits(0);
            assert_eq!(site.run("y", "wc -c < /a"), "5201");
        }
    }
    let build =
        |url: &str| Output::of(host.client(wharf_test::tools::wharf()).args(["build", url]), b"");
    build(&format!("git://{daemon}/none.git")).fails("access denied or repository not exported");
    build("git://127.0.0.1:1/x.git").fails("cannot reach the server");
    build(&format!("git://me@{daemon}/x.git")).fails("a user, which git:// has none of");
    host.assert_clean();
}

#[test]
fn submodules_come_with_their_whole() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let inner = Repository::new(&host, "inner.git").commit(&[("deep", "deep")]);
    let lib = Repository::new(&host, "lib.git");
    let web = serve(&host, None);
    let module = |to: &Repository, path: &str, url: &str, commit: &str| {
        let list = format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
        fs::write(to.dir.join(".gitmodules"), list).unwrap();
        to.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
        to.git(&["add", ".gitmodules"]);
        to.git(&["commit", "-q", "-m", "module"]);
        to.git(&["rev-parse", "HEAD"])
    };
    lib.commit(&[("f", "lib")]);
    let whole = format!("http://{}/inner.git", web.address);
    let commit = module(&lib, "third/inner", &whole, &inner);
    let app = Repository::new(&host, "app.git");
    app.commit(&[("Dockerfile", "FROM busybox\nCOPY . /app\n")]);
    module(&app, "lib", "../lib.git", &commit);
    // What comes later to the module is not what the whole names.
    lib.git(&["commit", "-q", "--allow-empty", "-m", "later"]);
    let site = Site::new(
        &host,
        "ctx",
        &format!("FROM busybox\nADD --keep-git-dir=true http://{}/app.git /app\n", web.address),
    );
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(
        site.run("x", "cd /app/lib && cat f third/inner/deep && ls -A"),
        "libdeep.gitmodules\nf\nthird"
    );
    let container = host.docker(["create", "x"]).ok();
    let to = host.dir().join("kept");
    host.docker(["cp", &format!("{container}:/app"), to.to_str().unwrap()]).exits(0);
    let mut status = git(&to);
    status.args(["-c", "safe.directory=*", "status", "--porcelain"]);
    assert_eq!(Output::of(&mut status, b"").ok(), "");
    let mut command = host.client(wharf_test::tools::wharf());
    command.args(["build", "-t", "y"]).arg(format!("http://{}/app.git#main", web.address));
    Output::of(&mut command, b"").exits(0);
    assert_eq!(site.run("y", "cat /app/lib/third/inner/deep"), "deep");
    host.assert_clean();
}

#[test]
fn hostile_repositories_stay_inside() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let repository = Repository::new(&host, "evil.git");
    std::os::unix::fs::symlink("/etc", repository.dir.join("out")).unwrap();
    repository.commit(&[("Dockerfile", "FROM busybox\n")]);
    let blob = repository.git(&["hash-object", "-w", "Dockerfile"]);
    let tree = |lines: String| {
        let mut make = git(&repository.dir);
        make.args(["mktree", "--missing"]);
        Output::of(&mut make, lines.as_bytes()).ok()
    };
    let branch = |name: &str, tree: &str| {
        let commit = repository.git(&["commit-tree", "-m", "evil", tree]);
        repository.git(&["update-ref", &format!("refs/heads/{name}"), &commit]);
    };
    branch("dotgit", &tree(format!("100644 blob {blob}\t.GIT\n")));
    branch("module", &tree(format!("160000 commit {}\tsub\n", "1".repeat(40))));
    let web = serve(&host, None);
    let build = |at: &str| {
        let url = format!("http://{}/evil.git#{at}", web.address);
        Output::of(host.client(wharf_test::tools::wharf()).args(["build", &url]), b"")
    };
    build("main:out").fails("a link is in its path");
    build("dotgit").fails("forbidden name");
    build("module").fails("the submodule sub has no address in .gitmodules");
    for (name, url) in [("ssh", "ssh://h/x"), ("file", "file:///etc"), ("option", "-u/x")] {
        let list = format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {url}\n");
        fs::write(repository.dir.join("list"), list).unwrap();
        let list = repository.git(&["hash-object", "-w", "list"]);
        let module = format!("160000 commit {}\tsub\n", "1".repeat(40));
        branch(name, &tree(format!("100644 blob {list}\t.gitmodules\n{module}")));
        build(name).fails("wharf fetches http, https and git addresses only");
    }
    host.assert_clean();
}

#[test]
fn tokens_open_repositories_and_are_told_to_nobody() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    Repository::new(&host, "private.git").commit(&[("f", "private")]);
    // x-access-token:hush-hush
    let web = serve(&host, Some("Basic eC1hY2Nlc3MtdG9rZW46aHVzaC1odXNo"));
    let files = Web::serve(host.init(), |asked| match asked.header("authorization") {
        // me:hush-hush
        Some("Basic bWU6aHVzaC1odXNo") => Answer::of("opened"),
        _ => Answer::status(401),
    });
    let site = Site::new(
        &host,
        "ctx",
        &format!(
            "FROM busybox\nADD http://{}/private.git /p\nADD http://me:hush-hush@{}/file /file\n",
            web.address, files.address
        ),
    );
    let build = |more: &[&str]| {
        let mut command = host.client(wharf_test::tools::wharf());
        command.args(["build", "-t", "x"]).args(more).arg(&site.dir).env("TOKEN", "hush-hush");
        Output::of(&mut command, b"")
    };
    let refused = build(&[]);
    refused.fails("401");
    let built = build(&["--secret", "id=GIT_AUTH_TOKEN,env=TOKEN"]);
    built.exits(0);
    assert_eq!(site.run("x", "cat /p/f /file"), "privateopened");
    site.file(
        "Dockerfile",
        &format!("FROM busybox\nADD http://me:hush-hush@{}/x#y.git /file\n", "127.0.0.1:1"),
    );
    let unreachable = build(&[]);
    unreachable.fails("127.0.0.1:1");
    let du = Output::of(
        host.client(wharf_test::tools::wharf()).args(["builder", "du", "--verbose"]),
        b"",
    );
    // The client shows lines of its own file; the engine repeats none.
    let told = |output: &Output| -> String {
        let text = output.to_string();
        text.lines().filter(|l| !l.contains(" | ")).collect::<Vec<_>>().join("\n")
    };
    for text in [
        told(&refused),
        told(&built),
        told(&unreachable),
        host.docker(["history", "--no-trunc", "x"]).ok(),
        host.inspect("x", "{{json .}}"),
        du.ok(),
        host.log(),
    ] {
        assert!(!text.contains("hush"), "{text}");
    }
    host.assert_clean();
}

#[test]
fn files_are_fetched_again_only_when_they_change() {
    let host = Host::with_busybox();
    let version = std::sync::Arc::new(wharf_base::sync::Mutex::new("one".to_owned()));
    let current = version.clone();
    let web = Web::serve(host.init(), move |asked| {
        let tag = format!("\"{}\"", current.lock());
        if asked.target != "/dir/file.txt" {
            return Answer::status(404);
        }
        match asked.header("if-none-match") {
            Some(known) if known == tag => Answer::status(304).with("ETag", &tag),
            _ => Answer::of(format!("version {tag}"))
                .with("ETag", &tag)
                .with("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
        }
    });
    let address = format!("http://{}/dir/file.txt", web.address);
    let site = Site::new(
        &host,
        "ctx",
        &format!("FROM busybox\nADD {address} /into/\nADD {address} /as\nRUN cat /as > /made\n"),
    );
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(
        site.run("x", "cat /made; stat -c '%a %u %Y' /into/file.txt"),
        "version \"one\"600 0 1700000000"
    );
    let Engine::Wharf = host.engine() else { return };
    let before = web.requests().len();
    assert_eq!(cached(&site.build(&["-t", "x"])), 3);
    assert_eq!(web.requests().len() - before, 2);
    "two".clone_into(&mut version.lock());
    assert_eq!(cached(&site.build(&["-t", "x"])), 0);
    assert_eq!(site.run("x", "cat /made"), "version \"two\"");
    let sum = wharf_test::image::digest(b"version \"two\"");
    site.file("Dockerfile", &format!("FROM busybox\nADD --checksum={sum} {address} /x\n"));
    site.build(&["-t", "y"]).exits(0);
    // A checksum says all that there is to know: nobody is asked.
    let before = web.requests().len();
    assert_eq!(cached(&site.build(&["-t", "y"])), 1);
    assert_eq!(web.requests().len(), before);
    site.file(
        "Dockerfile",
        &format!("FROM busybox\nADD --checksum={} {address} /x\n", sum.replace('1', "2")),
    );
    site.build(&[]).fails("digest mismatch");
    site.file("Dockerfile", &format!("FROM busybox\nADD {address}x /x\n"));
    site.build(&[]).fails("404");
}

/// bzip2 and xz are told by their content, as gzip is.
/// An archive with the file `packed`, by bzip2 and by xz: machines need not have either.
const BZIP2: &str = concat!(
    "425a68393141592653591157aaaf0000727b80c99000084000478000106e085e00040820005434a69b49827a",
    "46344f504953ca699a468001f6d10e841492108a932d5a49022e0868e99af4968e89ba4edc9a39c146f01468",
    "682b1b33508880fc5dc914e14240455eaabc",
);
const XZ: &str = concat!(
    "fd377a585a000004e6d6b446020021011c00000010cf58cce027ff00585d0038184899cd5c1b573cd9c3b897",
    "d1ee563d1fd81d662295e138633bea68a76d92d6d5061dc7cb21a4b2463d435ea4011b2bc25854837bb9642d",
    "001fcbcffb884dcbf0a2b4527054cc4f9e51893a2c3f3e91d6ffd8109bc00000df87c83f3c47c57500017480",
    "500000003a240d29b1c467fb020000000004595a",
);

#[test]
fn archives_of_every_kind_are_unpacked() {
    let host = Host::with_busybox();
    let site = Site::new(&host, "ctx", "FROM busybox\nADD t.bz2 /bz\nADD named-plain /xz\n");
    for (name, archive) in [("t.bz2", BZIP2), ("named-plain", XZ)] {
        fs::write(site.dir.join(name), hex::decode(archive).unwrap()).unwrap();
    }
    site.build(&["-t", "x"]).exits(0);
    assert_eq!(site.run("x", "cat /bz/packed /xz/packed"), "packed\npacked");
}

#[test]
fn what_was_done_before_is_the_same_image() {
    let host = Host::with_busybox();
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox\nMAINTAINER me\nENV A=b\nRUN echo x > /x\nLABEL c=d\nARG E=f\nEXPOSE 80\nUSER 1\nCMD [\"sh\"]\n",
    );
    let first = site.build(&["-t", "x"]);
    assert_eq!(cached(&first), 0, "{first}");
    let id = host.inspect("x", "{{.Id}}");
    let again = site.build(&["-t", "x"]);
    assert_eq!(cached(&again), 8, "{again}");
    assert_eq!(host.inspect("x", "{{.Id}}"), id);
    // A step that differs and all after it are done anew.
    let other = site.build(&["-t", "x", "--build-arg", "E=g"]);
    assert_eq!(cached(&other), 4, "{other}");
}

/// As with docker's classic builder, `--cache-from` names all that counts.
#[test]
fn named_caches_replace_the_engines_own() {
    let host = Host::with_busybox();
    let site = Site::new(&host, "ctx", "FROM busybox\nENV A=b\nCOPY f /f\nRUN cat /f > /g\n");
    site.file("f", "one").build(&["-t", "one"]).exits(0);
    site.file("f", "two").build(&["-t", "two"]).exits(0);
    site.file("f", "one");
    let by_other = site.build(&["-t", "x", "--cache-from", "two"]);
    assert_eq!(cached(&by_other), 1, "{by_other}");
    let by_own = site.build(&["-t", "x", "--cache-from", "two", "--cache-from", "one"]);
    assert_eq!(cached(&by_own), 3, "{by_own}");
    assert_eq!(host.inspect("x", "{{.Id}}"), host.inspect("one", "{{.Id}}"));
}

#[test]
fn mounts_and_contexts_do_not_lead_out() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let site = Site::new(
        &host,
        "ctx",
        "FROM busybox AS evil\nRUN mkdir /d && ln -s / /d/up && ln -s /../../../.. /d/far && rm -rf /mnt && ln -s /../../.. /mnt\n\
         FROM evil\n\
         RUN --mount=type=cache,id=../../../../escape,target=/mnt/cached echo x > /mnt/cached/f && test -e /cached/f\n\
         RUN --mount=type=bind,from=evil,source=../../d/far,target=/far test -e /far/bin/busybox && test ! -e /far/usr/bin/dpkg\n\
         RUN --mount=type=cache,target=/seeded,from=evil,source=d/far test -e /seeded/bin/busybox\n\
         RUN --mount=type=tmpfs,target=/d/up/tmpfs touch /tmpfs/x\n\
         RUN test ! -e /f && test ! -e /mnt/cached/f\n",
    );
    site.build(&["-t", "x"]).exits(0);
    assert!(!host.dir().join("escape").exists() && !PathBuf::from("/cached").exists());
    site.file(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=bind,source=../../etc/passwd,target=/p cat /p\n",
    );
    site.build(&[]).fails("not found");
    let mut tar = wharf_test::image::Tar::default();
    tar.symlink("out", "/");
    tar.file("out/planted-by-a-context", 0o644, b"x");
    tar.hardlink("hard", "../../../../etc/passwd");
    tar.file("Dockerfile", 0o644, b"FROM busybox\n");
    let reply = host.api("POST", "/v1.47/build", &tar.finish()).unwrap();
    assert!(reply.status >= 400 || reply.text().contains("error"), "{}", reply.text());
    assert!(!PathBuf::from("/planted-by-a-context").exists());
    host.assert_clean();
}

/// Two builds share a cache; one keeps turning a directory in it into a link to everything.
#[test]
fn a_shared_cache_is_no_way_out_of_a_build() {
    let host = Host::with_busybox();
    let Engine::Wharf = host.engine() else { return };
    let swap = Site::new(
        &host,
        "swap",
        "FROM busybox\nRUN --mount=type=cache,id=shared,target=/c for i in $(seq 300); do \
         rm -rf /c/d; mkdir /c/d; rm -rf /c/d; ln -s /../../../.. /c/d; done; touch /c/done\n",
    );
    let write = Site::new(
        &host,
        "write",
        "FROM busybox\nRUN --mount=type=cache,id=shared,target=/c n=0; while test ! -e /c/done && test $n -lt 20000; do \
         echo x > /c/d/planted-in-a-race; n=$((n+1)); done 2>/dev/null; true\n",
    );
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| swap.build(&[]));
        write.build(&[]).exits(0);
        swapping.join().unwrap().exits(0);
    });
    assert!(!PathBuf::from("/planted-in-a-race").exists());
    assert!(!host.dir().join("planted-in-a-race").exists());
    // The cache as it is now is exported without following anything.
    let out = host.dir().join("exported");
    let site = Site::new(
        &host,
        "again",
        "FROM busybox\nRUN --mount=type=cache,id=shared,target=/c rm -rf /c/d; ln -s / /c/d\n",
    );
    let mut command = host.client(wharf_test::tools::wharf());
    let to = format!("type=local,dest={},mounts=true", out.display());
    Output::of(command.args(["build", "--cache-to", &to]).arg(&site.dir), b"").exits(0);
    let names = |blob: fs::DirEntry| -> Vec<String> {
        let mut archive = tar::Archive::new(fs::File::open(blob.path()).unwrap());
        let entries = archive.entries().into_iter().flatten().flatten();
        entries.map(|e| e.path().unwrap().display().to_string()).collect()
    };
    let blobs = fs::read_dir(out.join("blobs/sha256")).unwrap().flatten().map(names);
    let mount: Vec<_> = blobs.filter(|names| names.iter().any(|n| n == "done")).collect();
    assert_eq!(mount, [["d", "done"]]);
    host.assert_clean();
}
