//! The file as a whole: global arguments, stages, and what reading alone finds odd.

use super::instruction::Instruction;
use super::lines::Directives;
use super::{DockerfileError, Span, Warning, lint, parse};

/// `NAME` or `NAME=default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDecl {
    /// The name.
    pub name: String,
    /// The default, as written.
    pub default: Option<String>,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What it starts from, as written: `scratch`, a stage, an image.
    pub base: String,
    /// `--platform`, as written.
    pub platform: Option<String>,
    /// Its name, as written; names are equal whatever their case.
    pub name: Option<String>,
    /// Its instructions.
    pub instructions: Vec<Instruction>,
    /// The `FROM` line, continuation lines joined.
    pub text: String,
    /// The word `FROM` as written, and the word `AS`.
    pub words: (String, Option<String>),
    /// Where its `FROM` is.
    pub span: Span,
    /// Comments directly above.
    pub comments: Vec<String>,
}

/// A Dockerfile that reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dockerfile {
    /// `# syntax=`, with its line.
    pub syntax: Option<(String, usize)>,
    /// `# check=`.
    pub check: Option<String>,
    /// The escape character.
    pub escape: char,
    /// `ARG`s before the first `FROM`.
    pub globals: Vec<(ArgDecl, Span)>,
    /// The stages, at least one.
    pub stages: Vec<Stage>,
    /// What can be told without knowing any value.
    pub warnings: Vec<Warning>,
}

impl Dockerfile {
    /// Reads a whole file.
    pub fn parse(text: &str) -> Result<Dockerfile, DockerfileError> {
        let (directives, lines) = super::lines::read(text)?;
        let Directives { syntax, check, .. } = directives.clone();
        let escape = directives.escape_char();
        let mut file = Dockerfile { syntax, check, escape, ..Dockerfile::default() };
        for line in &lines {
            parse::line(&mut file, line, escape)?;
        }
        if file.stages.is_empty() {
            let at = super::Place { line: text.lines().count().max(1), column: 1 };
            let what = if lines.is_empty() {
                "file with no instructions"
            } else {
                "no build stage in current context"
            };
            return Err(DockerfileError::new(at, what));
        }
        file.warnings = lint::static_rules(&file, &lines);
        Ok(file)
    }

    /// One instruction by itself, as an image's `ONBUILD` holds it.
    pub fn parse_trigger(text: &str) -> Result<Instruction, DockerfileError> {
        let (_, lines) = super::lines::read(text)?;
        match &lines[..] {
            [line] => parse::instruction(line, '\\'),
            _ => Err(DockerfileError::new(
                super::Place { line: 1, column: 1 },
                "a trigger is one instruction",
            )),
        }
    }

    /// The stage of that name, or number, before stage `before`.
    pub fn stage_before(&self, name: &str, before: usize) -> Option<usize> {
        let named = |s: &Stage| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
        let before = before.min(self.stages.len());
        // A later stage of the same name hides an earlier one.
        self.stages[..before]
            .iter()
            .rposition(named)
            .or_else(|| name.parse::<usize>().ok().filter(|n| *n < before))
    }
}
