//! One logical line to one instruction.

use super::flags::{self, Flags};
use super::form::{self, Json};
use super::instruction::{Copy, HereFile, Instruction, Kind, Pairs, Run};
use super::lines::{self, Logical};
use super::nearest::hint;
use super::stage::{ArgDecl, Dockerfile, Stage};
use super::{Command, DockerfileError, Health, Mount, Source, Span};

const KEYWORDS: &[&str] = &[
    "FROM",
    "ARG",
    "RUN",
    "CMD",
    "LABEL",
    "MAINTAINER",
    "EXPOSE",
    "ENV",
    "ADD",
    "COPY",
    "ENTRYPOINT",
    "VOLUME",
    "USER",
    "WORKDIR",
    "ONBUILD",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "SHELL",
];
const NOT_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

/// Adds what `line` says to `file`.
pub(crate) fn line(
    file: &mut Dockerfile,
    line: &Logical,
    escape: char,
) -> Result<(), DockerfileError> {
    let (keyword, _) = keyword(line);
    if keyword.eq_ignore_ascii_case("FROM") {
        file.stages.push(from(line, escape)?);
        return Ok(());
    }
    let instruction = instruction(line, escape)?;
    match (file.stages.last_mut(), instruction.kind) {
        (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..instruction }),
        (None, Kind::Arg(list)) => {
            file.globals.extend(list.into_iter().map(|a| (a, instruction.span)));
        }
        (None, _) => {
            let text = format!(
                "no build stage in current context: {} comes before the first FROM",
                instruction.keyword
            );
            return Err(DockerfileError::new(line.place(0), text));
        }
    }
    Ok(())
}

/// An instruction other than FROM.
pub(crate) fn instruction(line: &Logical, escape: char) -> Result<Instruction, DockerfileError> {
    let (word, end) = keyword(line);
    let (flags, at) = flags::split(line, end, escape);
    let rest = Rest { line, keyword: word.to_ascii_uppercase(), flags, at, escape };
    let kind = rest.kind()?;
    Ok(Instruction { kind, keyword: word.to_owned(), text: line.text.clone(), span: span(line) })
}

fn keyword(line: &Logical) -> (&str, usize) {
    let end = line.text.find(char::is_whitespace).unwrap_or(line.text.len());
    (&line.text[..end], end)
}

fn span(line: &Logical) -> Span {
    Span { start: line.place(0), last_line: line.last_line }
}

fn from(line: &Logical, escape: char) -> Result<Stage, DockerfileError> {
    let (word, end) = keyword(line);
    let (flags, at) = flags::split(line, end, escape);
    flags.check(&["platform"], &[])?;
    let wrong = |offset: usize, text: String| {
        let mut e = DockerfileError::new(line.place(offset), text);
        e.last_line = line.last_line;
        e
    };
    let words: Vec<&str> = line.text[at..].split_whitespace().collect();
    let (base, name, alias) = match words[..] {
        [base] => (base, None, None),
        [base, alias, name] if alias.eq_ignore_ascii_case("AS") => {
            check_stage_name(name)
                .map_err(|text| wrong(line.text.rfind(name).unwrap_or(at), text))?;
            (base, Some(name.to_owned()), Some(alias.to_owned()))
        }
        _ => {
            return Err(wrong(
                at,
                "FROM requires either one or three arguments: FROM image [AS name]".into(),
            ));
        }
    };
    Ok(Stage {
        base: base.to_owned(),
        platform: flags.text("platform")?,
        name,
        instructions: Vec::new(),
        text: line.text.clone(),
        words: (word.to_owned(), alias),
        span: span(line),
        comments: line.comments.clone(),
    })
}

fn check_stage_name(name: &str) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    let fine = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fine {
        Ok(())
    } else {
        Err(format!(
            "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
        ))
    }
}

/// What is after the keyword.
struct Rest<'a> {
    line: &'a Logical,
    keyword: String,
    flags: Flags<'a>,
    at: usize,
    escape: char,
}

impl Rest<'_> {
    fn kind(&self) -> Result<Kind, DockerfileError> {
        match self.keyword.as_str() {
            "RUN" => self.run().map(Kind::Run),
            "COPY" | "ADD" => self.copy().map(|c| Kind::Copy(Box::new(c))),
            "HEALTHCHECK" => self.health().map(Kind::Healthcheck),
            "ONBUILD" => self.onbuild().map(Kind::Onbuild),
            _ => {
                self.flags.check(&[], &[])?;
                self.simple()
            }
        }
    }

    fn simple(&self) -> Result<Kind, DockerfileError> {
        let text = self.text();
        match self.keyword.as_str() {
            "CMD" => self.command(text).map(Kind::Cmd),
            "ENTRYPOINT" => self.command(text).map(Kind::Entrypoint),
            "ENV" => self.pairs().map(Kind::Env),
            "LABEL" => self.pairs().map(Kind::Label),
            "ARG" => self.args().map(Kind::Arg),
            "MAINTAINER" => self.one("exactly one argument").map(Kind::Maintainer),
            "WORKDIR" => self.one("exactly one argument").map(Kind::Workdir),
            "USER" => self.one("exactly one argument").map(Kind::User),
            "STOPSIGNAL" => self.one("exactly one argument").map(Kind::StopSignal),
            "EXPOSE" => self.list(false).map(Kind::Expose),
            "VOLUME" => self.list(true).map(Kind::Volume),
            "SHELL" => match form::json(text) {
                Json::Strings(words) if !words.is_empty() => Ok(Kind::Shell(words)),
                Json::Strings(_) => Err(self.error("SHELL requires at least one argument")),
                _ => Err(self.error("SHELL requires the arguments to be in JSON form")),
            },
            _ => {
                let known = KEYWORDS.iter().copied();
                let word = &self.keyword;
                let text = format!("unknown instruction: {word}{}", hint(word, known));
                Err(DockerfileError::new(self.line.place(0), text))
            }
        }
    }

    fn text(&self) -> &str {
        self.line.text[self.at..].trim_end()
    }

    /// About the arguments.
    fn error(&self, message: impl Into<String>) -> DockerfileError {
        let mut e =
            DockerfileError::new(self.line.place(self.at.min(self.line.text.len())), message);
        e.last_line = self.line.last_line;
        e
    }

    fn command(&self, text: &str) -> Result<Command, DockerfileError> {
        form::command(text).ok_or_else(|| self.error(NOT_STRINGS))
    }

    fn one(&self, what: &str) -> Result<String, DockerfileError> {
        match self.text() {
            "" => Err(self.error(format!("{} requires {what}", self.keyword))),
            text => Ok(text.to_owned()),
        }
    }

    fn list(&self, json: bool) -> Result<Vec<String>, DockerfileError> {
        let words = match form::json(self.text()) {
            Json::Strings(words) if json => words,
            Json::Mixed if json => return Err(self.error(NOT_STRINGS)),
            _ => form::words(self.text(), self.escape),
        };
        if words.is_empty() {
            return Err(self.error(format!("{} requires at least one argument", self.keyword)));
        }
        if json && words.iter().any(|w| w.trim().is_empty()) {
            return Err(self.error("VOLUME specified can not be an empty string"));
        }
        Ok(words)
    }

    fn pairs(&self) -> Result<Pairs, DockerfileError> {
        let words = form::words(self.text(), self.escape);
        let Some(first) = words.first() else {
            return Err(self.error(format!("{} requires at least one argument", self.keyword)));
        };
        if !first.contains('=') {
            let (name, value) = self.text().split_once(char::is_whitespace).ok_or_else(|| {
                self.error(format!(
                    "{} must have two arguments: {first} has no value",
                    self.keyword
                ))
            })?;
            return Ok(Pairs {
                pairs: vec![(name.to_owned(), value.trim_start().to_owned())],
                legacy: true,
            });
        }
        let mut pairs = Vec::with_capacity(words.len());
        for word in &words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(self.error(format!(
                    "syntax error - can't find = in {word:?}. Must be of the form: name=value"
                )));
            };
            if name.is_empty() {
                return Err(self.error(format!("{} names can not be blank", self.keyword)));
            }
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Ok(Pairs { pairs, legacy: false })
    }

    fn args(&self) -> Result<Vec<ArgDecl>, DockerfileError> {
        let words = form::words(self.text(), self.escape);
        if words.is_empty() {
            return Err(self.error("ARG requires at least one argument"));
        }
        let decl = |word: &String| match word.split_once('=') {
            Some(("", _)) => Err(self.error("ARG names can not be blank")),
            Some((name, value)) => Ok(ArgDecl { name: name.into(), default: Some(value.into()) }),
            None => Ok(ArgDecl { name: word.clone(), default: None }),
        };
        words.iter().map(decl).collect()
    }

    fn run(&self) -> Result<Run, DockerfileError> {
        self.flags.check(&["mount", "network", "security", "device"], &["mount", "device"])?;
        if let Some((_, flag)) = self.flags.all("device")?.into_iter().next() {
            let text = "RUN --device is not supported by wharf: devices are given to containers (docker run --device), not to builds";
            return Err(self.flags.error(flag, text.into()));
        }
        let mut mounts = Vec::new();
        for (value, flag) in self.flags.all("mount")? {
            mounts.push(Mount::parse(&value).map_err(|text| self.flags.error(flag, text))?);
        }
        let choice = |name: &str, known: &[&str]| -> Result<Option<String>, DockerfileError> {
            let Some((value, flag)) = self.flags.all(name)?.into_iter().next() else {
                return Ok(None);
            };
            if known.contains(&value.as_str()) {
                return Ok(Some(value));
            }
            let hint = hint(&value, known.iter().copied());
            Err(self.flags.error(flag, format!("unsupported {name} mode {value:?}{hint}")))
        };
        let network = choice("network", &["default", "none", "host"])?;
        let security = choice("security", &["sandbox", "insecure"])?;
        if self.text().is_empty() {
            return Err(self.error("RUN requires at least one argument"));
        }
        let command = self.command(self.text())?;
        if matches!(&command, Command::Exec(words) if words.is_empty()) {
            return Err(self.error("RUN requires at least one argument"));
        }
        let heredocs = self.line.heredocs.iter().map(here_file).collect();
        Ok(Run { command, heredocs, mounts, network, security })
    }

    fn copy(&self) -> Result<Copy, DockerfileError> {
        let is_add = self.keyword == "ADD";
        let known: &[&str] = match is_add {
            true => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
            false => &["from", "chown", "chmod", "link", "exclude", "parents"],
        };
        self.flags.check(known, &["exclude"])?;
        let words = match form::json(self.text()) {
            Json::Strings(words) => words,
            Json::Mixed => return Err(self.error(NOT_STRINGS)),
            Json::No => form::words(self.text(), self.escape),
        };
        let Some((dest, sources)) = words.split_last().filter(|(_, s)| !s.is_empty()) else {
            return Err(self.error(format!(
                "{} requires at least two arguments: sources and a destination",
                self.keyword
            )));
        };
        let mut documents = self.line.heredocs.iter();
        let source = |word: &String| match lines::heredoc_word(word).and_then(|_| documents.next())
        {
            Some(document) => Source::Here(here_file(document)),
            None => Source::Path(word.clone()),
        };
        let sources = sources.iter().map(source).collect();
        Ok(Copy {
            is_add,
            sources,
            dest: dest.clone(),
            from: self.flags.text("from")?,
            chown: self.flags.text("chown")?,
            chmod: self.flags.text("chmod")?,
            link: self.flags.truth("link")?.unwrap_or(false),
            parents: self.flags.truth("parents")?.unwrap_or(false),
            exclude: self.flags.all("exclude")?.into_iter().map(|(v, _)| v).collect(),
            checksum: self.flags.text("checksum")?,
            keep_git_dir: self.flags.truth("keep-git-dir")?.unwrap_or(false),
            unpack: self.flags.truth("unpack")?,
        })
    }

    fn health(&self) -> Result<Health, DockerfileError> {
        let known = ["interval", "timeout", "start-period", "start-interval", "retries"];
        self.flags.check(&known, &[])?;
        let time = |name: &str| -> Result<i64, DockerfileError> {
            let Some((value, flag)) = self.flags.all(name)?.into_iter().next() else {
                return Ok(0);
            };
            let nanos = form::duration(&value).filter(|n| *n == 0 || *n >= 1_000_000);
            nanos.ok_or_else(|| {
                let text = format!("invalid duration {value:?} for --{name}: use 30s, 1m30s and the like, at least 1ms");
                self.flags.error(flag, text)
            })
        };
        let times =
            (time("interval")?, time("timeout")?, time("start-period")?, time("start-interval")?);
        let retries = match self.flags.all("retries")?.into_iter().next() {
            None => 0,
            Some((value, flag)) => {
                value.parse::<i32>().ok().filter(|n| *n >= 0).ok_or_else(|| {
                    self.flags.error(
                        flag,
                        format!("--retries must be a number of at least 0, not {value:?}"),
                    )
                })?
            }
        };
        let text = self.text();
        let (kind, command) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if command.trim().is_empty() => Ok(Health::None),
            "NONE" => Err(self.error("HEALTHCHECK NONE takes no arguments")),
            "CMD" if command.trim().is_empty() => {
                Err(self.error("missing command after HEALTHCHECK CMD"))
            }
            "CMD" => Ok(Health::Check {
                command: self.command(command.trim())?,
                interval: times.0,
                timeout: times.1,
                start_period: times.2,
                start_interval: times.3,
                retries: i64::from(retries),
            }),
            "" => Err(self.error("HEALTHCHECK requires at least one argument")),
            other => Err(self.error(format!(
                "unknown type {other:?} in HEALTHCHECK (try CMD){}",
                hint(other, ["CMD", "NONE"])
            ))),
        }
    }

    /// The trigger is checked here and kept as text.
    fn onbuild(&self) -> Result<String, DockerfileError> {
        // What looks like a flag belongs to the trigger.
        let (_, end) = keyword(self.line);
        let text = self.line.text[end..].trim();
        let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        match word.as_str() {
            "" => return Err(self.error("ONBUILD requires at least one argument")),
            "ONBUILD" => {
                return Err(self.error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
            }
            "FROM" | "MAINTAINER" => {
                return Err(self.error(format!("{word} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        let start = self.line.text.len() - self.line.text[end..].trim_start().len();
        let inner = Logical {
            text: text.to_owned(),
            pieces: vec![(0, self.line.place(start))],
            heredocs: self.line.heredocs.clone(),
            ..self.line.clone()
        };
        instruction(&inner, self.escape)?;
        let mut whole = text.to_owned();
        for document in &self.line.heredocs {
            whole.push_str(&format!("\n{}{}", document.content, document.name));
        }
        Ok(whole)
    }
}

fn here_file(document: &lines::Heredoc) -> HereFile {
    let content = match document.chomp {
        true => lines::chomp(&document.content),
        false => document.content.clone(),
    };
    HereFile { name: document.name.clone(), content, expand: document.expand }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    fn first(text: &str) -> Result<Kind, DockerfileError> {
        let file = Dockerfile::parse(&format!("FROM a\n{text}"))?;
        Ok(file.stages[0].instructions[0].kind.clone())
    }

    #[track_caller]
    fn fails(text: &str, line: usize, column: usize, message: &str) {
        let e = Dockerfile::parse(text).unwrap_err();
        assert!(e.message.contains(message), "{text:?}: {}", e.message);
        assert_eq!(e.at, Place { line, column }, "{text:?}");
    }

    #[test]
    fn stages_and_globals() {
        let file = Dockerfile::parse(
            "ARG V=1\nFROM --platform=$P a:$V AS Build\nRUN x\nFROM build\nFROM scratch AS build\nFROM 0",
        )
        .unwrap();
        assert_eq!(file.globals[0].0, ArgDecl { name: "V".into(), default: Some("1".into()) });
        assert_eq!(file.stages[0].name.as_deref(), Some("Build"));
        assert_eq!(file.stages[0].platform.as_deref(), Some("$P"));
        assert_eq!(file.stage_before("build", 1), Some(0));
        assert_eq!(file.stage_before("BUILD", 4), Some(2));
        assert_eq!(file.stage_before("1", 3), Some(1));
        assert_eq!(file.stage_before("3", 3), None);
    }

    #[test]
    fn copies_have_sources_flags_and_documents() {
        let Ok(Kind::Copy(c)) =
            first("COPY --from=x --chown=a:b --link --exclude=*.o --exclude=y a b /c/")
        else {
            panic!("no copy");
        };
        assert!(c.link && !c.is_add && c.exclude == ["*.o", "y"]);
        assert_eq!((c.from.as_deref(), c.sources.len(), c.dest.as_str()), (Some("x"), 2, "/c/"));
        let Ok(Kind::Copy(c)) = first("COPY <<a <<\"b\" /d/\n$x\na\n$y\nb\n") else {
            panic!("no copy");
        };
        let Source::Here(a) = &c.sources[0] else { panic!("no document") };
        assert_eq!((a.content.as_str(), a.expand), ("$x\n", true));
        assert!(matches!(&c.sources[1], Source::Here(b) if !b.expand));
        let Ok(Kind::Copy(c)) = first("ADD [\"a b\", \"/c d\"]") else { panic!("no copy") };
        assert_eq!(c.sources, [Source::Path("a b".into())]);
    }

    #[test]
    fn values_keep_their_variables() {
        let Ok(Kind::Env(p)) = first("ENV A=\"$B c\" D=e\\ f") else { panic!("no env") };
        assert_eq!(p.pairs, [("A".into(), "\"$B c\"".into()), ("D".into(), "e\\ f".into())]);
        let Ok(Kind::Env(p)) = first("ENV A  b  c") else { panic!("no env") };
        assert!(p.legacy && p.pairs == [("A".into(), "b  c".into())]);
        let Ok(Kind::Onbuild(t)) = first("ONBUILD COPY --chown=1 . /x") else {
            panic!("no trigger")
        };
        assert_eq!(t, "COPY --chown=1 . /x");
        assert!(matches!(
            first("HEALTHCHECK --interval=5s --retries=2 CMD [\"x\"]"),
            Ok(Kind::Healthcheck(Health::Check { interval: 5_000_000_000, retries: 2, .. }))
        ));
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        fails("FROM a\nRUNN x", 2, 1, "unknown instruction: RUNN (did you mean RUN?)");
        fails("FROM a\nCOPY --chwon=1 a b", 2, 6, "unknown flag: --chwon (did you mean chown?)");
        fails("FROM a\nRUN --mount=type=cahce,target=/x y", 2, 5, "(did you mean cache?)");
        fails("FROM a b", 1, 6, "FROM requires either one or three arguments");
        fails("FROM a AS 1x", 1, 11, "invalid name for build stage");
        fails("RUN x", 1, 1, "no build stage in current context");
        fails("FROM a\nCOPY a", 2, 6, "requires at least two arguments");
        fails("FROM a\nENV A=1 B", 2, 5, "can't find = in \"B\"");
        fails("FROM a\nCMD [1]", 2, 5, "comprised of strings only");
        fails("FROM a\nONBUILD FROM b", 2, 9, "isn't allowed as an ONBUILD trigger");
        fails("FROM a\nONBUILD COPY --frm=x a b", 2, 14, "unknown flag: --frm");
        fails("FROM a\nHEALTHCHECK CND x", 2, 13, "(try CMD)");
        fails("# nothing\n", 1, 1, "file with no instructions");
        fails("ARG a\n", 1, 1, "no build stage");
        fails("FROM a\nRUN --network=hots x", 2, 5, "did you mean host?");
    }
}
