//! Who may do what in which repository: rules, decided without I/O.

use std::fmt;

use serde::Deserialize;

use crate::name::Repository;

/// What somebody wants to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Pull,
    Push,
    Delete,
}

impl Verb {
    /// The word of token scopes.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    /// What a challenge asks for: who pushes also looks whether blobs are there.
    pub(crate) fn scope(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "delete",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// Nobody can be known here.
    Anyone,
    /// Could have said who it is, and did not.
    Anonymous,
    /// A user.
    User(String),
    /// Somebody with a token of a server whose word counts: what it grants is what may be done.
    Granted(Vec<Grant>),
}

/// One line of a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(crate) struct Grant {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Which.
    pub(crate) name: String,
    /// `pull`, `push`, `delete`, `*`.
    #[serde(default)]
    pub(crate) actions: Vec<String>,
}

/// Whom a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Subject {
    /// `*`: everybody, known or not.
    Everybody,
    /// `@users`: everybody who is known.
    Users,
    /// One user.
    User(String),
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        match text.as_str() {
            "*" => Self::Everybody,
            "@users" => Self::Users,
            _ => Self::User(text),
        }
    }
}

/// Who may do what in the repositories that a pattern fits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// A name in which `*` stands for anything within a component and `**` for anything.
    pub repository: String,
    /// Who may pull. Default: nobody.
    #[serde(default)]
    pub pull: Vec<Subject>,
    /// Who may push.
    #[serde(default)]
    pub push: Vec<Subject>,
    /// Who may delete.
    #[serde(default)]
    pub delete: Vec<Subject>,
    /// Tags that, once there, keep their meaning: patterns as for names.
    #[serde(default)]
    pub immutable_tags: Vec<String>,
}

/// Rules in their order: the first that fits a repository decides; where none fits, those who are known may do
/// everything, and everybody may where nobody can be known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    #[serde(default, rename = "rule")]
    all: Vec<Rule>,
}

/// Why a text holds no rules.
#[derive(Debug, thiserror::Error)]
#[error("rules do not parse")]
pub struct RulesError(#[from] toml::de::Error);

impl Rules {
    /// Reads a TOML file of `[[rule]]` tables. Keys that are not known are refused by name.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        Ok(toml::from_str(text)?)
    }

    /// Rules in this order.
    pub fn new(all: Vec<Rule>) -> Self {
        Self { all }
    }

    /// Whether `who` may do that.
    pub(crate) fn allow(&self, who: &Who, verb: Verb, repository: &Repository) -> bool {
        let user = match who {
            Who::Granted(grants) => return is_granted(grants, verb, repository),
            Who::User(user) => Some(user.as_str()),
            Who::Anyone | Who::Anonymous => None,
        };
        let Some(rule) = self.rule(repository) else { return *who != Who::Anonymous };
        let subjects = match verb {
            Verb::Pull => &rule.pull,
            Verb::Push => &rule.push,
            Verb::Delete => &rule.delete,
        };
        subjects.iter().any(|subject| match subject {
            Subject::Everybody => true,
            Subject::Users => user.is_some(),
            Subject::User(name) => user == Some(name),
        })
    }

    /// Whether a tag that exists may not be moved or removed.
    pub(crate) fn is_immutable(&self, repository: &Repository, tag: &str) -> bool {
        let patterns = self.rule(repository).map(|rule| &rule.immutable_tags);
        patterns.into_iter().flatten().any(|pattern| fits(pattern.as_bytes(), tag.as_bytes()))
    }

    fn rule(&self, repository: &Repository) -> Option<&Rule> {
        let name = repository.as_str().as_bytes();
        self.all.iter().find(|rule| fits(rule.repository.as_bytes(), name))
    }
}

fn is_granted(grants: &[Grant], verb: Verb, repository: &Repository) -> bool {
    grants.iter().any(|grant| {
        grant.kind == "repository"
            && grant.name == repository.as_str()
            && grant.actions.iter().any(|action| action == verb.word() || action == "*")
    })
}

impl Who {
    /// Whether it may see the list of all repositories. Of these it sees those that it may pull.
    pub(crate) fn may_list(&self) -> bool {
        match self {
            Self::Granted(grants) => grants.iter().any(|g| {
                g.kind == "registry" && g.name == "catalog" && g.actions.iter().any(|a| a == "*")
            }),
            _ => true,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone | Self::Anonymous => f.write_str("-"),
            Self::User(user) => f.write_str(user),
            Self::Granted(_) => f.write_str("(token)"),
        }
    }
}

/// A pattern in which `*` stops at a slash and `**` does not. Many stars take long; patterns are the administrator's.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|n| fits(rest, &text[n..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=end).any(|n| fits(rest, &text[n..]))
        }
        [first, rest @ ..] => text.first() == Some(first) && fits(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        Repository::parse(name).unwrap()
    }

    #[test]
    fn patterns_know_components() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/**", "team/app/x", true),
            ("**", "a/b", true),
            ("*/b", "a/b", true),
            ("v*", "v1.2", true),
            ("v*", "1", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Rules::parse(
            r#"
            [[rule]]
            repository = "team/secret"
            pull = ["eve"]
            [[rule]]
            repository = "team/**"
            pull = ["*"]
            push = ["@users"]
            delete = ["ann"]
            immutable-tags = ["v*"]
            "#,
        )
        .unwrap();
        let (ann, eve) = (Who::User("ann".into()), Who::User("eve".into()));
        let may = |who: &Who, verb, name: &str| rules.allow(who, verb, &repository(name));
        assert!(may(&Who::Anonymous, Verb::Pull, "team/app"));
        assert!(!may(&Who::Anonymous, Verb::Push, "team/app"));
        assert!(may(&eve, Verb::Push, "team/app") && !may(&eve, Verb::Delete, "team/app"));
        assert!(may(&ann, Verb::Delete, "team/app") && !may(&ann, Verb::Pull, "team/secret"));
        assert!(!may(&eve, Verb::Push, "team/secret"));
        assert!(may(&ann, Verb::Push, "other") && !may(&Who::Anonymous, Verb::Pull, "other"));
        assert!(may(&Who::Anyone, Verb::Delete, "other"));
        assert!(rules.is_immutable(&repository("team/x"), "v1"));
        assert!(!rules.is_immutable(&repository("team/x"), "latest"));
        assert!(Rules::parse("[[rule]]\nrepository = 'x'\nwrite = ['*']").is_err());
    }

    #[test]
    fn tokens_are_taken_at_their_word() {
        let grant =
            Grant { kind: "repository".into(), name: "a".into(), actions: vec!["pull".into()] };
        let who = Who::Granted(vec![grant]);
        let rules = Rules::default();
        assert!(rules.allow(&who, Verb::Pull, &repository("a")));
        assert!(!rules.allow(&who, Verb::Push, &repository("a")));
        assert!(!rules.allow(&who, Verb::Pull, &repository("b")) && !who.may_list());
    }
}
