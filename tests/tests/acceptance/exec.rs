//! Ladder step 4: exec.

use wharf_test::Host;

#[test]
fn exec_shares_the_container_and_returns_its_code() {
    let host = Host::with_busybox();
    host.sleeper("box");
    host.docker(["exec", "box", "sh", "-c", "echo made > /note"]).ok();
    assert_eq!(host.docker(["exec", "box", "cat", "/note"]).ok(), "made");
    host.docker(["exec", "box", "sh", "-c", "exit 9"]).exits(9);
    host.docker(["exec", "box", "sh", "-c", "kill -9 $$"]).exits(137);
    host.docker(["exec", "box", "nope"]).exits(127).says_nothing_on_stdout_but("not found");
    host.docker(["exec", "box", "/etc/passwd"]).exits(126);
}

trait Either {
    fn says_nothing_on_stdout_but(&self, text: &str);
}

impl Either for wharf_test::Output {
    /// The engine reports a failed exec inside the stream; which of the two is the client's affair.
    fn says_nothing_on_stdout_but(&self, text: &str) {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert!(all.contains(text), "{self}");
    }
}

#[test]
fn exec_takes_input_user_directory_and_environment() {
    let host = Host::with_busybox();
    host.sleeper("box");
    assert_eq!(host.docker_with(b"piped", ["exec", "-i", "box", "cat"]).ok(), "piped");
    let script = "echo $(id -u) $(pwd) $X";
    let args = ["exec", "-u", "alice", "-w", "/tmp", "-e", "X=7", "box", "sh", "-c", script];
    assert_eq!(host.docker(args).ok(), "1000 /tmp 7");
}

#[test]
fn exec_on_a_terminal() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let mut shell = host.terminal(&["exec", "-it", "box", "sh"]);
    shell.expect("# ");
    shell.send("tty; stty size; exit 2\n");
    shell.expect("/dev/pts/");
    shell.expect("24 80");
    assert_eq!(shell.finish().0, 2);
}

#[test]
fn detached_exec_runs_on() {
    let host = Host::with_busybox();
    host.sleeper("box");
    host.docker(["exec", "-d", "box", "sh", "-c", "mkfifo /pipe; echo done > /pipe"]).ok();
    wharf_test::eventually("the pipe is there", || {
        (host.docker(["exec", "box", "test", "-p", "/pipe"]).code == 0).then_some(())
    });
    assert_eq!(host.docker(["exec", "box", "cat", "/pipe"]).ok(), "done");
}

#[test]
fn exec_needs_a_running_container() {
    let host = Host::with_busybox();
    host.docker(["create", "--name", "box", "busybox"]).ok();
    host.docker(["exec", "box", "true"]).fails("is not running");
    host.docker(["exec", "missing", "true"]).fails("No such container: missing");
    host.sleeper("paused");
    host.docker(["pause", "paused"]).ok();
    host.docker(["exec", "paused", "true"]).fails("is paused");
}

#[test]
fn exec_ends_with_its_container() {
    let host = Host::with_busybox();
    host.sleeper("box");
    let mut exec = host.talk(&["exec", "box", "sh", "-c", "echo on; sleep 1000"]);
    exec.expect("on");
    host.docker(["kill", "box"]).ok();
    assert_eq!(exec.finish().0, 137);
}

#[test]
fn exec_gets_the_limits_and_capabilities_of_the_container() {
    let host = Host::with_busybox();
    host.docker(["run", "-d", "--name", "box", "--cap-drop", "ALL", "busybox", "sleep", "1000"])
        .ok();
    let caps = host.docker(["exec", "box", "grep", "CapEff", "/proc/self/status"]).ok();
    assert!(caps.ends_with("0000000000000000"), "{caps}");
    let full =
        host.docker(["exec", "--privileged", "box", "grep", "CapEff", "/proc/self/status"]).ok();
    assert!(!full.ends_with("0000000000000000"), "{full}");
}

#[test]
fn an_exec_as_somebody_unknown_is_not_made() {
    let host = Host::with_busybox();
    host.sleeper("box");
    for (user, text) in
        [("nobody-knows", "unable to find user"), ("0:none", "unable to find group")]
    {
        let body = format!(r#"{{"User":"{user}","Cmd":["id"]}}"#);
        let made = host.api("POST", "/containers/box/exec", body.as_bytes()).unwrap();
        assert_eq!(made.status, 400);
        assert!(made.text().contains(text), "{}", made.text());
    }
    let made = host.api("POST", "/containers/box/exec", br#"{"Cmd":["true"],"Tty":true}"#).unwrap();
    let id = made.json()["Id"].as_str().unwrap().to_owned();
    host.api("POST", &format!("/exec/{id}/start"), br#"{"Detach":true}"#).unwrap();
    host.docker(["rm", "-f", "box"]).ok();
    let resized = host.api("POST", &format!("/exec/{id}/resize?h=10&w=10"), b"").unwrap();
    assert!([404, 409].contains(&resized.status), "{}", resized.text());
}
