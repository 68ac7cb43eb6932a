//! `.dockerignore`, and the patterns that it shares with COPY: Go's `filepath.Match` with `**`.

/// A compiled pattern. Matching takes time proportional to pattern times path, whatever they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
    /// Components of the pattern: a path is matched against as many leading ones of its own.
    depth: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Some,
    /// `**` at the end.
    All,
    /// `**/`: any number of whole directories.
    Dirs,
    /// `[a-z]`, `[^a]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Why a pattern is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {0:?}")]
pub struct PatternError(pub String);

impl Pattern {
    /// Compiles; no normalisation is done.
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let bad = || PatternError(text.to_owned());
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if chars.peek() == Some(&'*') => {
                    chars.next();
                    if chars.peek() == Some(&'/') {
                        chars.next();
                    }
                    if chars.peek().is_none() { Token::All } else { Token::Dirs }
                }
                '*' => Token::Some,
                '?' => Token::One,
                '\\' => Token::Char(chars.next().ok_or_else(bad)?),
                '[' => class(&mut chars).ok_or_else(bad)?,
                c => Token::Char(c),
            });
        }
        Ok(Pattern { tokens, depth: text.split('/').count() })
    }

    /// Whether it fits all of `path`, which is relative and clean.
    pub fn matches(&self, path: &str) -> bool {
        let n = self.tokens.len();
        // One flag per token: whether matching may go on from there.
        let mut here = vec![false; n + 1];
        here[0] = true;
        self.skip_empty(&mut here);
        // Inside the directories that a `**/` takes.
        let mut inside = vec![false; n];
        for c in path.chars() {
            let mut next = vec![false; n + 1];
            let mut next_inside = vec![false; n];
            for (i, token) in self.tokens.iter().enumerate() {
                if *token == Token::Dirs && (here[i] || inside[i]) {
                    next_inside[i] = true;
                    next[i + 1] |= c == '/';
                }
                if !here[i] {
                    continue;
                }
                match token {
                    Token::Char(wanted) => next[i + 1] |= *wanted == c,
                    Token::One => next[i + 1] |= c != '/',
                    Token::Some => next[i] |= c != '/',
                    Token::All => next[i] = true,
                    Token::Dirs => {}
                    Token::Class { negated, ranges } => {
                        let hit = ranges.iter().any(|(a, b)| (*a..=*b).contains(&c));
                        next[i + 1] |= c != '/' && hit != *negated;
                    }
                }
            }
            self.skip_empty(&mut next);
            (here, inside) = (next, next_inside);
        }
        here[n]
    }

    /// Tokens that may stand for nothing are passed.
    fn skip_empty(&self, here: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if here[i] && matches!(token, Token::Some | Token::All | Token::Dirs) {
                here[i + 1] = true;
            }
        }
    }

    /// Whether it fits `path` or a directory above it.
    pub fn matches_or_parent(&self, path: &str) -> bool {
        if self.matches(path) {
            return true;
        }
        let ends = path.match_indices('/').map(|(i, _)| &path[..i]);
        match self.tokens.iter().any(|t| matches!(t, Token::All | Token::Dirs)) {
            true => ends.into_iter().any(|parent| self.matches(parent)),
            // Without `**` only the parent with as many components can fit.
            false => {
                ends.into_iter().nth(self.depth.saturating_sub(1)).is_some_and(|p| self.matches(p))
            }
        }
    }

    /// Whether it has no wildcard: it names one path.
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|t| matches!(t, Token::Char(_)))
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = matches!(chars.peek(), Some('^' | '!'));
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next()? {
            ']' if !ranges.is_empty() => break,
            '\\' => chars.next()?,
            c => c,
        };
        let mut high = low;
        if chars.peek() == Some(&'-') {
            chars.next();
            high = match chars.next()? {
                '\\' => chars.next()?,
                ']' => return None,
                c => c,
            };
        }
        ranges.push((low, high));
    }
    Some(Token::Class { negated, ranges })
}

/// The rules of a `.dockerignore`: the last that fits decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// `!`: takes back.
    includes: bool,
    pattern: Pattern,
    /// What a path must begin with, up to the first wildcard.
    literal: String,
    text: String,
}

impl Ignore {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Ignore, PatternError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|l| !l.starts_with('#')).map(str::trim);
        Ignore::new(lines.filter(|l| !l.is_empty()))
    }

    /// From patterns, `!` in front of those that take back.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, PatternError> {
        let mut rules = Vec::new();
        for text in patterns {
            let (includes, rest) = match text.trim().strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text.trim()),
            };
            if rest.is_empty() && includes {
                return Err(PatternError(text.to_owned()));
            }
            let clean = clean(rest);
            // `/` and `.` name the context itself, which is never ignored.
            if clean.is_empty() {
                continue;
            }
            let literal = clean.split(['*', '?', '[', '\\']).next().unwrap_or_default().to_owned();
            rules.push(Rule {
                includes,
                pattern: Pattern::new(&clean)?,
                literal,
                text: text.trim().to_owned(),
            });
        }
        Ok(Ignore { rules })
    }

    /// Whether `path`, relative and clean, is left out.
    pub fn ignores(&self, path: &str) -> bool {
        self.rule(path).is_some()
    }

    /// The rule that leaves `path` out, as written.
    pub fn rule(&self, path: &str) -> Option<&str> {
        let decisive = self.rules.iter().rev().find(|r| r.pattern.matches_or_parent(path))?;
        (!decisive.includes).then_some(decisive.text.as_str())
    }

    /// Whether something below the ignored directory `dir` may be taken back.
    pub fn may_include_below(&self, dir: &str) -> bool {
        let below = format!("{dir}/");
        let reaches = |r: &Rule| {
            let n = r.literal.len().min(below.len());
            r.literal.as_bytes()[..n] == below.as_bytes()[..n]
        };
        self.rules.iter().any(|r| r.includes && reaches(r))
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules as written.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|r| r.text.as_str())
    }
}

/// Go's `filepath.Clean`, without a slash in front; empty for the root. `..` stops at the root.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn pattern(pattern: &str, path: &str, expected: bool) {
        let got = Pattern::new(pattern).map(|p| p.matches(path));
        assert_eq!(got, Ok(expected), "{pattern} on {path}");
    }

    #[test]
    fn patterns_follow_go() {
        pattern("*.go", "a.go", true);
        pattern("*.go", "d/a.go", false);
        pattern("**", "a/b", true);
        pattern("**/file", "file", true);
        pattern("**/file", "dir/dir/file", true);
        pattern("**/file", "dirfile", false);
        pattern("dir/**", "dir/a/b", true);
        pattern("dir/**", "dir", false);
        pattern("a/**/b", "a/b", true);
        pattern("a/**/b", "a/x/y/b", true);
        pattern("a/**/b", "a/xb", false);
        pattern("a[b-d]e", "ace", true);
        pattern("a[^b-d]e", "ace", false);
        pattern("a\\*b", "a*b", true);
        pattern("a?c", "a/c", false);
        pattern("abc.def", "abcXdef", false);
        pattern("**/foo/bar", "foo/bar", true);
        pattern("*/**/x", "a/x", true);
        assert!(Pattern::new("a[").is_err() && Pattern::new("[]a]").is_ok_and(|p| p.matches("]")));
        assert!(Pattern::new("\\").is_err());
    }

    #[track_caller]
    fn ignored(text: &str, expected: &[(&str, bool)]) {
        let ignore = Ignore::parse(text).unwrap();
        for (path, wanted) in expected {
            assert_eq!(ignore.ignores(path), *wanted, "{path} by {text:?}");
        }
    }

    #[test]
    fn the_last_rule_wins() {
        ignored("*.md\n!README.md\n", &[("a.md", true), ("README.md", false), ("d/a.md", false)]);
        ignored("!README.md\n*.md", &[("README.md", true)]);
        ignored("docs\n!docs/keep", &[("docs", true), ("docs/x", true), ("docs/keep/y", false)]);
        ignored(
            "/node_modules/\n",
            &[("node_modules", true), ("node_modules/a/b", true), ("a/node_modules", false)],
        );
        ignored("**/node_modules", &[("a/node_modules/b", true)]);
        ignored("*\n!src\n", &[("a", true), ("src", false), ("src/x", false)]);
        ignored("# c\n\n  .git \n", &[(".git", true), (".git/x", true), ("# c", false)]);
        ignored("a/../b\n", &[("b", true), ("a", false)]);
        ignored(".\n/\n", &[("a", false)]);
    }

    #[test]
    fn walks_enter_ignored_directories_only_where_something_comes_back() {
        let ignore = Ignore::parse("*\n!src/lib\n").unwrap();
        assert!(ignore.may_include_below("src") && !ignore.may_include_below("other"));
        assert!(ignore.may_include_below("src/lib/deep"));
        let deep = Ignore::parse("*\n!**/x\n").unwrap();
        assert!(deep.may_include_below("anything"));
    }

    #[test]
    fn hostile_patterns_are_matched_in_time() {
        let pattern = Pattern::new(&"*a".repeat(200)).unwrap();
        assert!(!pattern.matches(&"a".repeat(400).replace('a', "b")));
    }
}
