//! What goes wrong, and what people read then.

use crate::Site;

#[test]
fn a_failed_step_is_shown_in_its_place() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN echo said; exit 7\nRUN true\n");
    let failed = site.build(&["ctx"]);
    failed.fails(
        "process \"/bin/sh -c echo said; exit 7\" did not complete successfully: exit code: 7",
    );
    failed.fails("Dockerfile:2").fails("   2 | >>> RUN echo said; exit 7").fails("said");
}

#[test]
fn a_dockerfile_that_does_not_read_points_at_the_line() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\n\nCOPPY a b\n");
    let failed = site.build(&["ctx"]);
    failed
        .fails("dockerfile parse error on line 3: unknown instruction: COPPY")
        .fails(">>> COPPY a b");
    site.build(&["-f", "ctx/None", "ctx"]).fails("None: no such file or directory");
}

#[test]
fn foreign_frontends_are_refused_and_docker_s_is_built_in() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "# syntax=docker/dockerfile:1.7-labs\nFROM busybox\n");
    site.build(&["ctx"]).exits(0);
    site.build(&["--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1", "ctx"]).exits(0);
    site.file("ctx/Dockerfile", "# syntax=example.com/other:1\nwhatever\n");
    site.build(&["ctx"]).fails("the frontend example.com/other:1 is not docker/dockerfile");
    site.build(&["--build-arg", "BUILDKIT_SYNTAX=x/y", "ctx"]).fails("the frontend x/y");
}

#[test]
fn warnings_are_counted_and_checks_name_them() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox AS Big\nMAINTAINER me\n");
    let built = site.build(&["ctx"]);
    built.exits(0);
    assert!(built.stderr.contains("2 warnings found"), "{built}");
    let checked = site.buildx(&["build", "--check", "ctx"]);
    checked.exits(1);
    assert!(checked.stdout.contains("WARNING: StageNameCasing"), "{checked}");
    assert!(checked.stdout.contains("WARNING: MaintainerDeprecated"), "{checked}");
    site.file("ctx/Dockerfile", "FROM busybox\n");
    site.buildx(&["build", "--check", "ctx"]).exits(0);
    // What only a builder knows: the base image's platform, the ignored files.
    site.file("ctx/.dockerignore", "secret\n");
    site.file("ctx/Dockerfile", "FROM busybox\nCOPY secret /\nRUN exit 1\n");
    let checked = site.buildx(&["build", "--check", "ctx"]);
    checked.exits(1);
    assert!(checked.stdout.contains("WARNING: CopyIgnoredFile"), "{checked}");
    assert!(!checked.stderr.contains("RUN exit 1"), "nothing is carried out: {checked}");
    site.file("ctx/Dockerfile", "FROM busybox\nCOPPY a b\n");
    site.buildx(&["build", "--check", "ctx"]).fails("unknown instruction: COPPY");
}

#[test]
fn what_is_not_done_says_what_to_do() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN --device=x true\n")
        .file("two/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        .file("file/Dockerfile", "FROM busybox\nRUN --mount=target=/f,source=Dockerfile,rw true\n");
    site.build(&["ctx"]).fails("docker run --device");
    let syntax = ["--build-arg", "BUILDKIT_SYNTAX=me/frontend", "two"];
    site.build(&syntax).fails("build what it makes with docker/dockerfile");
    let both = ["--platform", "linux/amd64,linux/arm64", "-o", "type=tar,dest=x.tar", "two"];
    site.build(&both).fails("give one --platform");
    site.build(&["file"]).fails("mount its directory with rw");
    site.build(&["--allow", "device=x", "two"]).fails("use network.host or security.insecure");
}

#[test]
fn attestations_without_a_place_are_refused() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\n");
    site.build(&["--sbom=true", "ctx"]).fails("build with --sbom=false");
    for output in ["type=image", "type=local,dest=x"] {
        site.build(&["--provenance=mode=max", "-o", output, "ctx"]).fails("use --output type=oci");
    }
    site.build(&["--provenance=mode=all", "-o", "type=oci,dest=x", "ctx"]).fails("use min or max");
    site.build(&["--provenance=false", "ctx"]).exits(0);
}

#[test]
fn outlines_and_targets_are_listed() {
    let site = Site::start();
    let dockerfile = "FROM busybox AS tools\nARG VERSION=1\nRUN --mount=type=secret,id=s true\nFROM tools AS app\n";
    site.file("ctx/Dockerfile", dockerfile);
    site.buildx(&["build", "--call", "targets", "ctx"]).says("app (default)");
    let outline = site.buildx(&["build", "--call", "outline", "--build-arg", "VERSION=2", "ctx"]);
    outline.says("VERSION").says("2");
    let json = site.buildx(&["build", "--call", "outline,format=json", "ctx"]).json();
    assert_eq!(json["secrets"][0]["name"], "s");
}

#[test]
fn what_needs_permission_asks_for_it() {
    let site = Site::start();
    site.file("ctx/Dockerfile", "FROM busybox\nRUN --network=host true\n");
    site.build(&["ctx"]).fails("network.host");
    site.build(&["--allow", "network.host", "ctx"]).exits(0);
}

/// From the lint tests of BuildKit's Dockerfile frontend.
#[test]
fn warnings_are_told_once_and_by_name() {
    let site = Site::start();
    let warned = |dockerfile: &str, args: &[&str], rule: &str| {
        site.file("ctx/Dockerfile", dockerfile);
        let built = site.build(&[args, &["ctx"]].concat());
        (built.code, built.stderr.matches(&format!("WARN: {rule}")).count(), built)
    };
    let both = ["--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=x.tar"];
    let scratch = "FROM scratch\nMAINTAINER me\nCOPY Dockerfile /\n";
    let (code, times, built) = warned(scratch, &both, "MaintainerDeprecated");
    assert_eq!((code, times), (0, 1), "{built}");
    let default = "ARG VERSION\nFROM busybox:$VERSION\n";
    let given = ["--build-arg", "VERSION=latest"];
    let (code, times, built) = warned(default, &given, "InvalidDefaultArgInFrom");
    assert_eq!((code, times), (0, 1), "{built}");
    // One that must be given has no default to judge.
    let insists = "ARG VERSION=${OTHER:?missing}\nFROM busybox:$VERSION\n";
    assert_eq!(warned(insists, &given, "InvalidDefaultArgInFrom").0, 0);
    let (_, times, built) = warned(
        "FROM --platform=linux/amd64 busybox AS for-amd64\n",
        &[],
        "FromPlatformFlagConstDisallowed",
    );
    assert_eq!(times, 0, "{built}");
    let (_, _, built) = warned("# check=error=true\nFROM busybox as b\n", &[], "FromAsCasing");
    built.fails("lint violation found for rules: FromAsCasing");
}
