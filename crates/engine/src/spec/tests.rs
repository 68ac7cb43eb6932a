use super::*;
use wharf_spec::docker::StrList;

struct Case {
    config: ContainerConfig,
    host: HostConfig,
    namespaces: Namespaces,
}

fn case() -> Case {
    let new = || Namespace::New;
    Case {
        config: ContainerConfig {
            cmd: Some(StrList(vec!["true".into()])),
            ..ContainerConfig::default()
        },
        host: HostConfig::default(),
        namespaces: Namespaces {
            net: Namespace::Join("/proc/1/ns/net".into()),
            ipc: new(),
            pid: new(),
            uts: new(),
            cgroup: Namespace::Host,
        },
    }
}

fn spec(case: &Case) -> Result<Spec> {
    let user = ResolvedUser { uid: 0, gid: 0, groups: vec![0], home: "/root".into() };
    let facts = Facts::read().unwrap();
    build(Input {
        config: &case.config,
        host: &case.host,
        hostname: "box",
        user: &user,
        mounts: &[],
        shm: Shm::Own(1),
        namespaces: &case.namespaces,
        devices: devices::devices(&case.host)?,
        links: &[],
        cgroup: "/t/x".into(),
        facts: &facts,
        defaults: Defaults { no_new_privileges: false, ulimits: &[], seccomp: None },
    })
}

#[test]
fn an_ordinary_container_is_confined() {
    let s = spec(&case()).unwrap();
    let linux = s.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_some());
    let kinds: Vec<_> = linux.namespaces().iter().flatten().map(LinuxNamespace::typ).collect();
    assert!(
        kinds.contains(&LinuxNamespaceType::Pid) && !kinds.contains(&LinuxNamespaceType::Cgroup)
    );
    assert_eq!(s.hostname().as_deref(), Some("box"));
    let process = s.process().as_ref().unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["true"]);
    assert_eq!(process.cwd(), std::path::Path::new("/"));
    assert!(process.env().as_ref().unwrap().contains(&"HOME=/root".to_owned()));
}

#[test]
fn privileged_lifts_the_filter_and_unconfined_too() {
    let mut c = case();
    c.host.privileged = true;
    assert!(spec(&c).unwrap().linux().as_ref().unwrap().seccomp().is_none());
    c.host.security_opt = Some(vec!["seccomp=builtin".into()]);
    assert!(spec(&c).unwrap().linux().as_ref().unwrap().seccomp().is_some());
    c.host.privileged = false;
    c.host.security_opt = Some(vec!["seccomp=unconfined".into()]);
    assert!(spec(&c).unwrap().linux().as_ref().unwrap().seccomp().is_none());
}

#[test]
fn the_host_s_name_is_left_alone() {
    let mut c = case();
    c.namespaces.uts = Namespace::Host;
    c.config.domainname = "example".into();
    let s = spec(&c).unwrap();
    assert_eq!((s.hostname(), s.domainname()), (&None, &None));
}

#[test]
fn values_out_of_range_are_refused() {
    let mut c = case();
    c.host.oom_score_adj = 2000;
    assert!(spec(&c).unwrap_err().message().contains("oom score adj"));
}
