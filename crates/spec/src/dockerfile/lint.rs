//! The lint rules: BuildKit's, with its names and words.

use std::collections::{BTreeMap, BTreeSet};

use super::instruction::{Instruction, Kind};
use super::lines::Logical;
use super::stage::{Dockerfile, Stage};
use super::{Command, Health, Span};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What is wrong here.
    pub message: String,
    /// First and last line, counted from 1.
    pub lines: (usize, usize),
}

macro_rules! rules {
    ($($name:ident = $slug:literal, $text:literal;)*) => {
        /// The rules.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Rule] = &[$(Rule::$name),*];

            /// Its name, as `# check=skip=` takes it.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$name => stringify!($name)),* }
            }

            /// What it is about.
            pub fn description(self) -> &'static str {
                match self { $(Rule::$name => $text),* }
            }

            /// Where it is explained.
            pub fn url(self) -> String {
                let slug = match self { $(Rule::$name => $slug),* };
                format!("https://docs.docker.com/go/dockerfile/rule/{slug}/")
            }
        }
    };
}

rules! {
    StageNameCasing = "stage-name-casing", "Stage names should be lowercase";
    FromAsCasing = "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword";
    NoEmptyContinuation = "no-empty-continuation", "Empty continuation lines will become errors in a future release";
    ConsistentInstructionCasing = "consistent-instruction-casing", "All commands within the Dockerfile should use the same casing (either upper or lower)";
    DuplicateStageName = "duplicate-stage-name", "Stage names should be unique";
    ReservedStageName = "reserved-stage-name", "Reserved words should not be used as stage names";
    JSONArgsRecommended = "json-args-recommended", "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    MaintainerDeprecated = "maintainer-deprecated", "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    UndefinedArgInFrom = "undefined-arg-in-from", "FROM command must use declared ARGs";
    WorkdirRelativePath = "workdir-relative-path", "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    UndefinedVar = "undefined-var", "Variables should be defined before their use";
    MultipleInstructionsDisallowed = "multiple-instructions-disallowed", "Multiple instructions of the same type should not be used in the same stage";
    LegacyKeyValueFormat = "legacy-key-value-format", "Legacy key/value format with whitespace separator should not be used";
    RedundantTargetPlatform = "redundant-target-platform", "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    SecretsUsedInArgOrEnv = "secrets-used-in-arg-or-env", "Sensitive data should not be used in the ARG or ENV commands";
    InvalidDefaultArgInFrom = "invalid-default-arg-in-from", "Default value for global ARG results in an empty or invalid base image name";
    FromPlatformFlagConstDisallowed = "from-platform-flag-const-disallowed", "FROM --platform flag should not use a constant value";
    CopyIgnoredFile = "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore";
    InvalidDefinitionDescription = "invalid-definition-description", "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    ExposeProtoCasing = "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase";
    ExposeInvalidFormat = "expose-invalid-format", "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
}

/// Which rules count: `# check=skip=A,B;error=true`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    skip: BTreeSet<String>,
    skip_all: bool,
    experimental: BTreeSet<String>,
    experimental_all: bool,
    /// Any warning fails the build.
    pub error: bool,
}

impl Check {
    /// Reads the directive, or the build argument `BUILDKIT_DOCKERFILE_CHECK`.
    pub fn parse(text: &str) -> Result<Check, String> {
        let mut check = Check::default();
        for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| {
                format!("invalid check option {part:?}: use skip=, error= or experimental=")
            })?;
            let names = || value.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty());
            match key.trim() {
                "skip" => {
                    check.skip = names().collect();
                    check.skip_all = value.trim() == "all";
                }
                "experimental" => {
                    check.experimental = names().collect();
                    check.experimental_all = value.trim() == "all";
                }
                "error" => {
                    let error = value.trim().parse();
                    check.error = error.map_err(|_| {
                        format!("invalid check option error={value}: use true or false")
                    })?;
                }
                other => {
                    return Err(format!(
                        "invalid check option {other:?}: use skip=, error= or experimental="
                    ));
                }
            }
        }
        Ok(check)
    }

    /// Whether a warning of `rule` is to be told.
    pub fn tells(&self, rule: Rule) -> bool {
        let name = rule.name();
        if rule == Rule::InvalidDefinitionDescription {
            return self.experimental_all || self.experimental.contains(name);
        }
        !self.skip_all && !self.skip.contains(name)
    }
}

/// A warning about lines of `span`.
pub fn warn(rule: Rule, span: Span, message: impl Into<String>) -> Warning {
    Warning { rule, message: message.into(), lines: (span.start.line, span.last_line) }
}

/// What reading alone tells.
pub(crate) fn static_rules(file: &Dockerfile, lines: &[Logical]) -> Vec<Warning> {
    let mut all = Vec::new();
    for line in lines.iter().filter(|l| l.has_empty_continuation) {
        let span = Span { start: line.place(0), last_line: line.last_line };
        all.push(warn(Rule::NoEmptyContinuation, span, "Empty continuation line"));
    }
    casing(file, &mut all);
    for (n, stage) in file.stages.iter().enumerate() {
        stage_rules(stage, &file.stages[..n], &mut all);
        repeated(stage, &mut all);
        let own_shell = stage.instructions.iter().any(|i| matches!(i.kind, Kind::Shell(_)));
        for instruction in &stage.instructions {
            instruction_rules(instruction, own_shell, &mut all);
        }
    }
    for (arg, span) in &file.globals {
        secret("ARG", &arg.name, *span, &mut all);
    }
    all.sort_by_key(|w| w.lines);
    all
}

fn casing(file: &Dockerfile, all: &mut Vec<Warning>) {
    let words = file.stages.iter().flat_map(|s| {
        let own = std::iter::once((s.words.0.as_str(), s.span));
        own.chain(s.instructions.iter().map(|i| (i.keyword.as_str(), i.span)))
    });
    let words: Vec<(&str, Span)> = words.collect();
    let lower = words.iter().filter(|(w, _)| w.chars().all(|c| c.is_lowercase())).count();
    let upper = words.iter().filter(|(w, _)| w.chars().all(|c| c.is_uppercase())).count();
    let (majority, is_odd): (&str, fn(char) -> bool) = match lower > upper {
        true => ("lowercase", |c| !c.is_lowercase()),
        false => ("uppercase", |c| !c.is_uppercase()),
    };
    for (word, span) in words.into_iter().filter(|(w, _)| w.chars().any(is_odd)) {
        let text =
            format!("Command '{word}' should match the case of the command majority ({majority})");
        all.push(warn(Rule::ConsistentInstructionCasing, span, text));
    }
}

fn stage_rules(stage: &Stage, earlier: &[Stage], all: &mut Vec<Warning>) {
    if let Some(name) = &stage.name {
        let lower = name.to_ascii_lowercase();
        if lower != *name {
            let text = format!("Stage name '{name}' should be lowercase");
            all.push(warn(Rule::StageNameCasing, stage.span, text));
        }
        if matches!(lower.as_str(), "scratch" | "context") {
            let text =
                format!("Stage name should not use the same name as reserved stage {name:?}");
            all.push(warn(Rule::ReservedStageName, stage.span, text));
        }
        let same = |s: &Stage| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
        if earlier.iter().any(same) {
            let text = format!("Duplicate stage name {name:?}, stage names should be unique");
            all.push(warn(Rule::DuplicateStageName, stage.span, text));
        }
        let described = |c: &String| c.split_whitespace().next() == Some(name);
        if stage.comments.last().is_some_and(|c| !described(c)) {
            let text = format!(
                "Comment for build stage should follow the format: `# {name} <description>`"
            );
            all.push(warn(Rule::InvalidDefinitionDescription, stage.span, text));
        }
    }
    if let (from, Some(alias)) = &stage.words
        && from.chars().all(char::is_uppercase) != alias.chars().all(char::is_uppercase)
    {
        let text = format!("'{alias}' and '{from}' keywords' casing do not match");
        all.push(warn(Rule::FromAsCasing, stage.span, text));
    }
    match stage.platform.as_deref() {
        Some("$TARGETPLATFORM" | "${TARGETPLATFORM}") => {
            let text = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                stage.platform.as_deref().unwrap_or_default()
            );
            all.push(warn(Rule::RedundantTargetPlatform, stage.span, text));
        }
        // A stage that is called after its platform is meant for that one.
        Some(constant) if !constant.contains('$') && !is_named_after(stage, constant) => {
            let text = format!("FROM --platform flag should not use constant value {constant:?}");
            all.push(warn(Rule::FromPlatformFlagConstDisallowed, stage.span, text));
        }
        _ => {}
    }
}

fn is_named_after(stage: &Stage, platform: &str) -> bool {
    let name = stage.name.as_deref().unwrap_or_default();
    platform.split('/').take(2).any(|part| !part.is_empty() && name.contains(part))
}

/// Of these only the last one of a stage counts.
fn repeated(stage: &Stage, all: &mut Vec<Warning>) {
    let mut last: BTreeMap<&str, Span> = BTreeMap::new();
    for instruction in &stage.instructions {
        let name = match &instruction.kind {
            Kind::Cmd(_) => "CMD",
            Kind::Entrypoint(_) => "ENTRYPOINT",
            Kind::Healthcheck(_) => "HEALTHCHECK",
            _ => continue,
        };
        if let Some(span) = last.insert(name, instruction.span) {
            let text = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            );
            all.push(warn(Rule::MultipleInstructionsDisallowed, span, text));
        }
    }
}

fn instruction_rules(instruction: &Instruction, own_shell: bool, all: &mut Vec<Warning>) {
    let span = instruction.span;
    match &instruction.kind {
        Kind::Maintainer(_) => all.push(warn(
            Rule::MaintainerDeprecated,
            span,
            "Maintainer instruction is deprecated in favor of using label",
        )),
        Kind::Cmd(Command::Shell(text)) | Kind::Entrypoint(Command::Shell(text))
            if !own_shell && !text.is_empty() =>
        {
            let name = instruction.keyword.to_ascii_uppercase();
            let text = format!(
                "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            );
            all.push(warn(Rule::JSONArgsRecommended, span, text));
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            let name = instruction.keyword.to_ascii_uppercase();
            if pairs.legacy {
                let text = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                all.push(warn(Rule::LegacyKeyValueFormat, span, text));
            }
            if matches!(instruction.kind, Kind::Env(_)) {
                pairs.pairs.iter().for_each(|(key, _)| secret("ENV", key, span, all));
            }
        }
        Kind::Arg(list) => list.iter().for_each(|a| secret("ARG", &a.name, span, all)),
        Kind::Expose(ports) => ports.iter().for_each(|p| expose(p, span, all)),
        Kind::Healthcheck(Health::None | Health::Check { .. }) => {}
        _ => {}
    }
}

fn expose(port: &str, span: Span, all: &mut Vec<Warning>) {
    if let Some((_, protocol)) = port.split_once('/')
        && !protocol.contains('$')
        && protocol != protocol.to_ascii_lowercase()
    {
        let text = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        all.push(warn(Rule::ExposeProtoCasing, span, text));
    }
    if port.contains(':') && !port.contains('$') {
        let text = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        all.push(warn(Rule::ExposeInvalidFormat, span, text));
    }
}

fn secret(instruction: &str, name: &str, span: Span, all: &mut Vec<Warning>) {
    const SECRETS: &[&str] = &[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let lower = name.to_ascii_lowercase();
    let has = |list: &[&str]| lower.split('_').any(|part| list.contains(&part));
    if has(SECRETS) && !has(&["public"]) {
        let text = format!(
            "Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"
        );
        all.push(warn(Rule::SecretsUsedInArgOrEnv, span, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, usize)]) {
        let file = Dockerfile::parse(text).unwrap();
        let check = Check::parse(file.check.as_deref().unwrap_or_default()).unwrap();
        let told = file.warnings.iter().filter(|w| check.tells(w.rule));
        let got: Vec<(&str, usize)> = told.map(|w| (w.rule.name(), w.lines.0)).collect();
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn each_rule_finds_its_lines() {
        check("FROM a AS Up\nFROM b AS up", &[("StageNameCasing", 1), ("DuplicateStageName", 2)]);
        check("FROM a as b", &[("FromAsCasing", 1)]);
        check("from a AS b", &[("FromAsCasing", 1)]);
        check("FROM a\nRUN x \\\n\n y", &[("NoEmptyContinuation", 2)]);
        check("FROM a\nrun x\nRUN y", &[("ConsistentInstructionCasing", 2)]);
        check("from a\nrun x\nRUN y", &[("ConsistentInstructionCasing", 3)]);
        check("FROM a AS scratch", &[("ReservedStageName", 1)]);
        check("FROM a\nCMD x", &[("JSONArgsRecommended", 2)]);
        check("FROM a\nSHELL [\"b\"]\nCMD x", &[]);
        check("FROM a\nMAINTAINER me", &[("MaintainerDeprecated", 2)]);
        check("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", &[("MultipleInstructionsDisallowed", 2)]);
        check("FROM a\nENV k v", &[("LegacyKeyValueFormat", 2)]);
        check("FROM --platform=$TARGETPLATFORM a", &[("RedundantTargetPlatform", 1)]);
        check("FROM --platform=linux/amd64 a", &[("FromPlatformFlagConstDisallowed", 1)]);
        check("FROM --platform=linux/amd64 a AS my_amd64_stage", &[]);
        check(
            "FROM a\nARG DB_PASSWORD\nENV PUBLIC_KEY=1 KEYBOARD=2",
            &[("SecretsUsedInArgOrEnv", 2)],
        );
        check("FROM a\nEXPOSE 80/TCP 1:2", &[("ExposeProtoCasing", 2), ("ExposeInvalidFormat", 2)]);
        check(
            "# check=experimental=all\n\n# other text\nFROM a AS b",
            &[("InvalidDefinitionDescription", 4)],
        );
    }

    #[test]
    fn rules_are_skipped_by_name() {
        check(
            "# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER me\nCMD x",
            &[("JSONArgsRecommended", 4)],
        );
        check("# check=skip=all\nFROM a\nMAINTAINER me", &[]);
        assert!(Check::parse("error=true").unwrap().error);
        assert!(Check::parse("nonsense").is_err());
        assert_eq!(Rule::ALL.len(), 21);
    }
}
