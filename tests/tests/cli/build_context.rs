//! `wharf build`: a large context is kept by the engine, and only what changed is sent again.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use wharf_test::eventually;

use crate::build::Site;

const COPY: &str = "FROM busybox\nCOPY . /all\n";

/// More files than are sent without asking what the engine has.
fn site(dockerfile: &str) -> Site {
    let site = Site::new(dockerfile);
    for n in 0..150 {
        site.file(&format!("d/{}/{n}", n % 3), &format!("{n}\n"));
    }
    symlink("d/0", site.dir.join("link")).unwrap();
    site
}

impl Site {
    fn built(&self, script: &str) -> String {
        self.wharf(&["build", "-q", "-t", "x", "."]).exits(0);
        self.host.docker(["run", "--rm", "x", "sh", "-c", script]).ok()
    }

    /// Changes content so that size and time do not tell.
    fn forge(&self, path: &str, content: &str) {
        let path = self.dir.join(path);
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, content).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn what_changed_comes_and_what_did_not_stays() {
    let site = site(COPY);
    let look = "cd /all && find . | sort | md5sum && cat d/1/1 d/0/3 link/3 && readlink link";
    let first = site.built(look);
    assert!(first.ends_with("1\n3\n3\nd/0"), "{first}");
    assert_eq!(site.built(look), first);
    // Of another size, of another time, new, gone, of another kind.
    site.file("d/1/1", "more\n");
    let old = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_000_000_000_007);
    File::options().write(true).open(site.dir.join("d/0/3")).unwrap().set_modified(old).unwrap();
    site.file("new/a", "new");
    fs::remove_file(site.dir.join("d/2/2")).unwrap();
    fs::remove_file(site.dir.join("link")).unwrap();
    site.file("link/3", "no link\n");
    let look = "cd /all && cat d/1/1 new/a link/3 && stat -c %Y d/0/3 && ls d/2 | wc -l";
    assert_eq!(site.built(look), "more\nnewno link\n1000000\n49");
    // What looks the same was not sent: that it stays as it was shows it.
    site.forge("d/1/4", "X\n");
    assert_eq!(site.built("cat /all/d/1/4"), "4");
}

#[test]
fn rules_and_another_dockerfile_change_what_is_kept() {
    let site = site(COPY);
    assert_eq!(site.built("ls /all/d"), "0\n1\n2");
    site.file(".dockerignore", "d/1\n!d/1/7\nother\n");
    assert_eq!(site.built("ls /all/d /all/d/1"), "/all/d:\n0\n1\n2\n\n/all/d/1:\n7");
    site.file("other", "FROM busybox\nCOPY d/0 /zero\n");
    site.wharf(&["build", "-q", "-t", "y", "-f", "other", "."]).exits(0);
    assert_eq!(site.host.docker(["run", "--rm", "y", "sh", "-c", "ls /zero | wc -l"]).ok(), "50");
    // Two at once: who comes second sends everything.
    let both = std::thread::scope(|scope| {
        let build = || site.wharf(&["build", "-q", "--no-cache", "."]);
        [scope.spawn(build), scope.spawn(build)].map(|b| b.join().unwrap())
    });
    assert_eq!(both.map(|b| b.code), [0, 0]);
    // Nothing is left of what was sent; the next build sends it.
    let kept = |count: usize| {
        let dir = site.host.dir().join("data/buildkit/contexts");
        eventually("so many contexts are kept", || {
            (fs::read_dir(&dir).unwrap().count() == count).then_some(())
        });
    };
    kept(1);
    site.wharf(&["builder", "prune", "-af"]).exits(0);
    kept(0);
    assert_eq!(site.built("ls /all/d/1"), "7");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let site = site(COPY);
    site.built("true");
    symlink("/nowhere", site.dir.join("dangling")).unwrap();
    assert_eq!(site.built("readlink /all/dangling"), "/nowhere");
    let name = std::ffi::OsStr::from_bytes(b"not-\xff-utf8");
    fs::write(site.dir.join(name), "").unwrap();
    site.wharf(&["build", "."]).fails("the name is not UTF-8");
}
