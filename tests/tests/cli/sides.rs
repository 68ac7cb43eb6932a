//! Two command lines, one engine: runs the same words through both and compares what they answer.

use std::path::Path;
use std::process::Command;

use wharf_test::{Host, Output, tools};

/// A host and the two programs that talk to it.
pub(crate) struct Sides {
    pub(crate) host: Host,
}

/// One of the two.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Docker,
    Wharf,
}

/// What a command answered, without what differs from run to run.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Sides {
    pub(crate) fn start() -> Sides {
        let host = Host::with_busybox();
        for name in ["docker", "wharf"] {
            std::fs::create_dir(host.dir().join(name)).unwrap();
        }
        Sides { host }
    }

    /// The program, in a folder of its own.
    pub(crate) fn command(&self, side: Side) -> Command {
        let (program, folder) = match side {
            Side::Docker => (tools::path("docker"), "docker"),
            Side::Wharf => (tools::wharf(), "wharf"),
        };
        let mut c = self.host.client(program);
        c.current_dir(self.host.dir().join(folder));
        c
    }

    /// Runs each line through docker, then through wharf. Lines that only read, or fail: what they make all the
    /// same is removed, except for the containers named in `keep`.
    #[track_caller]
    pub(crate) fn read(&self, keep: &[&str], lines: &[&str]) {
        let mut wrong = Vec::new();
        for line in lines {
            let [docker, wharf] = [Side::Docker, Side::Wharf].map(|side| {
                let answer = self.run(side, line);
                self.remove_containers(keep);
                answer
            });
            difference(line, &docker, &wharf, &mut wrong);
        }
        self.clean();
        finish(&wrong);
    }

    /// Runs the whole script through docker, cleans up, and runs it through wharf.
    #[track_caller]
    pub(crate) fn change(&self, lines: &[&str]) {
        let [docker, wharf] = [Side::Docker, Side::Wharf].map(|side| {
            let answers: Vec<Answer> = lines.iter().map(|line| self.run(side, line)).collect();
            self.clean();
            answers
        });
        let mut wrong = Vec::new();
        for (line, (docker, wharf)) in lines.iter().zip(docker.iter().zip(&wharf)) {
            difference(line, docker, wharf, &mut wrong);
        }
        let [docker, wharf] = ["docker", "wharf"].map(|side| files(&self.host.dir().join(side)));
        if docker != wharf {
            wrong.push(format!("files\n  docker: {docker:?}\n  wharf:  {wharf:?}"));
        }
        finish(&wrong);
    }

    fn run(&self, side: Side, line: &str) -> Answer {
        let (line, input) = line.split_once(" <<< ").unwrap_or((line, ""));
        let input = input.replace("\\n", "\n");
        let output = Output::run(self.command(side).args(words(line)), input.as_bytes());
        Answer {
            code: output.code,
            stdout: settled(&output.stdout),
            stderr: settled(&without_log(&output.stderr)),
        }
    }

    fn remove_containers(&self, keep: &[&str]) {
        let list = self.host.docker(["ps", "-a", "--format", "{{.Names}}"]).lines();
        let more: Vec<String> = list.into_iter().filter(|n| !keep.contains(&n.as_str())).collect();
        if !more.is_empty() {
            let args = ["rm", "-fv"].into_iter().map(str::to_owned).chain(more);
            self.host.docker(args).ok();
        }
    }

    /// Back to a host with busybox and nothing else.
    fn clean(&self) {
        self.remove_containers(&[]);
        self.host.docker(["volume", "prune", "-af"]).ok();
        self.host.docker(["network", "prune", "-f"]).ok();
        let images = self.host.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines();
        for image in images.iter().filter(|i| *i != "busybox:latest") {
            self.host.docker(["rmi", "-f", image]).ok();
        }
    }
}

/// What a side has written: all paths, those of directories with a slash.
fn files(folder: &Path) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(dir) = rest.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(folder).unwrap().display().to_string();
            match entry.file_type().unwrap().is_dir() {
                true => {
                    rest.push(entry.path());
                    found.push(name + "/");
                }
                false => found.push(name),
            }
        }
    }
    found.sort();
    found
}

fn difference(line: &str, docker: &Answer, wharf: &Answer, wrong: &mut Vec<String>) {
    if docker != wharf {
        let (docker, wharf) = (format!("{docker:?}"), format!("{wharf:?}"));
        // What comes before the first difference is of little use, but for some context.
        let same = docker.bytes().zip(wharf.bytes()).take_while(|(a, b)| a == b).count();
        let from = (0..same.saturating_sub(200)).rev().find(|i| docker.is_char_boundary(*i));
        let tail = |text: &str| text[from.unwrap_or(0)..].to_owned();
        wrong.push(format!("`{line}`\n  docker: {}\n  wharf:  {}", tail(&docker), tail(&wharf)));
    }
}

#[track_caller]
fn finish(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A line as a shell splits it: blanks, both quotes, and backslashes inside double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = line.chars();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (None, ' ') => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(q), c) if c == q => quote = None,
            (Some('"'), '\\') => match letters.next() {
                Some(c @ ('"' | '\\')) => word.get_or_insert_default().push(c),
                other => word.get_or_insert_default().extend(['\\'].into_iter().chain(other)),
            },
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What wharf's help tells of verbs that docker does not have.
const OWN: &[&str] =
    &["Add an interface to a running container", "Take an interface away that attach added"];

/// Docker's own log lines on standard error say again what the line after them says, and the exit
/// status of a refused `network rm` twice. Verbs of wharf's own are no difference.
fn without_log(stderr: &str) -> String {
    let noise = |line: &&str| {
        line.starts_with("time=\"")
            || *line == "exit status 1"
            || OWN.iter().any(|about| line.ends_with(about))
    };
    stderr.lines().filter(|l| !noise(l)).map(|l| format!("{l}\n")).collect()
}

/// The text without what differs from run to run: ids, times, ages, the program's name, and how wide a
/// column of them is.
fn settled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let fresh = !out.ends_with(|c: char| c.is_ascii_alphanumeric());
        match fresh.then(|| variable(rest)).flatten() {
            Some((name, length)) => {
                out.push_str(name);
                rest = &rest[length..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    while out.contains("   ") {
        out = out.replace("   ", "  ");
    }
    out.replace("docker", "wharf").replace("Docker", "wharf")
}

/// What `text` begins with, if that is different every time: a name for it, and its length.
fn variable(text: &str) -> Option<(&'static str, usize)> {
    let run = |of: fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    let hex = run(|c| matches!(c, '0'..='9' | 'a'..='f'));
    let ends = !text[hex..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    match hex {
        64 if ends => return Some(("ID64", 64)),
        12 if ends => return Some(("ID12", 12)),
        _ => (),
    }
    for phrase in ["Less than a second", "About a minute"] {
        if text.starts_with(phrase) {
            return Some(("AGE", phrase.len()));
        }
    }
    let digits = run(|c| c.is_ascii_digit());
    for unit in [" seconds", " second", " minutes", " minute"] {
        if digits > 0 && text[digits..].starts_with(unit) {
            return Some(("AGE", digits + unit.len()));
        }
    }
    time(text).map(|length| ("TIME", length))
}

/// The length of `2024-01-02T03:04:05.6Z` and of `2024-01-02 03:04:05 +0000 UTC`.
fn time(text: &str) -> Option<usize> {
    const SHAPE: &str = "0000-00-00?00:00:00";
    let like = |(c, s): (char, char)| match s {
        '0' => c.is_ascii_digit(),
        '?' => matches!(c, 'T' | ' '),
        _ => c == s,
    };
    let is_time = text.is_char_boundary(SHAPE.len())
        && text.len() >= SHAPE.len()
        && text.chars().zip(SHAPE.chars()).all(like);
    if !is_time {
        return None;
    }
    let mut length = SHAPE.len();
    let part =
        |at: usize, of: fn(char) -> bool| text[at..].find(|c| !of(c)).unwrap_or(text.len() - at);
    if text[length..].starts_with('.') {
        length += 1 + part(length + 1, |c| c.is_ascii_digit());
    }
    for zone in [" +0000 UTC", "+00:00", "Z"] {
        if text[length..].starts_with(zone) {
            return Some(length + zone.len());
        }
    }
    Some(length)
}

#[test]
fn lines_are_split_as_a_shell_does() {
    assert_eq!(words(r#"a -f "{{.X}} \"y\"" 'b c' """#), ["a", "-f", "{{.X}} \"y\"", "b c", ""]);
}

#[test]
fn what_changes_is_settled() {
    let id = "0123456789ab";
    assert_eq!(settled(&format!("{id}   Up 3 seconds (docker)")), "ID12  Up AGE (wharf)");
    assert_eq!(settled("2024-01-02T03:04:05.678Z 2024-01-02 03:04:05 +0000 UTC"), "TIME TIME");
    assert_eq!(settled("deadbeef 12 kB"), "deadbeef 12 kB");
}
