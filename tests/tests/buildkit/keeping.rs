//! What stays after a build: cache, sources, history.

use crate::Site;

#[test]
fn disk_use_is_listed_and_pruned() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY f /f\nRUN echo more > /more\n")
        .file("ctx/f", "f");
    site.build(&["ctx"]).exits(0);
    let used = site.buildx(&["du", "--verbose"]).ok();
    for part in ["source.local", "regular", "RUN echo more > /more"] {
        assert!(used.contains(part), "{used}");
    }
    let local = site.buildx(&["du", "--filter", "type=source.local"]).ok();
    assert_eq!(local.lines().count(), 2, "{local}");
    site.buildx(&["prune", "-af"]).says("Total:");
    let rebuilt = site.build(&["ctx"]);
    rebuilt.exits(0);
    assert!(!rebuilt.stderr.contains("RUN echo more > /more\n#6 CACHED"), "{rebuilt}");
}

#[test]
fn a_prune_leaves_what_is_to_be_kept() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN echo kept > /kept\n");
    // What an image shares takes no space of its own.
    site.build(&["-o", "type=cacheonly", "ctx"]).exits(0);
    let nothing = "Total:\t0B";
    for keep in [
        ["--min-free-space", "1"],
        ["--max-used-space", "100gb"],
        ["--reserved-space", "100gb"],
        ["--filter", "until=24h"],
    ] {
        site.buildx(&[&["prune", "-af"], &keep[..]].concat()).says(nothing);
    }
    // More than there is: nothing can stay.
    let pruned = site.buildx(&["prune", "-af", "--min-free-space", "1000000tb"]);
    pruned.exits(0);
    assert!(!pruned.stdout.contains(nothing), "{pruned}");
    let left = site.buildx(&["du", "--filter", "type=regular"]).ok();
    assert_eq!(left.lines().count(), 1, "no more than the head of the table: {left}");
}

#[test]
fn builds_are_remembered_across_a_restart() {
    let mut site = Site::start();
    site.file("good/Dockerfile", "FROM busybox\nRUN echo remembered\n");
    site.file("bad/Dockerfile", "FROM busybox\nRUN exit 3\n");
    site.build(&["good"]).exits(0);
    site.build(&["bad"]).fails("exit code: 3");
    site.host.crash_daemon();
    let list = site.buildx(&["history", "ls"]).ok();
    assert!(list.contains("Completed") && list.contains("Error"), "{list}");
    let logs = site.buildx(&["history", "logs", "--progress", "plain", "^1"]);
    logs.exits(0);
    assert!([&logs.stdout, &logs.stderr].iter().any(|s| s.contains("remembered")), "{logs}");
    let failed = site.buildx(&["history", "ls", "--filter", "status=error"]).ok();
    assert!(failed.contains("Error") && !failed.contains("Completed"), "{failed}");
    site.buildx(&["history", "inspect"]).says("exit code: 3");
    site.buildx(&["history", "rm", "--all"]).exits(0);
    let list = site.buildx(&["history", "ls"]).ok();
    assert!(!list.contains("Completed") && !list.contains("Error"), "{list}");
}

#[test]
fn the_builder_describes_itself() {
    let site = Site::start();
    let shown = site.buildx(&["inspect"]);
    shown.says("Status:           running").says("linux/").says("Max Used Space:");
    site.buildx(&["ls"]).says("docker");
}
