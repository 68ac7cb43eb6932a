//! Tokens that a file lists, one line each: token, user, uid, groups.

use crate::authn::jwt::equal;
use crate::user::User;

/// The lines of such a file.
#[derive(Debug, Default)]
pub struct StaticTokens(Vec<(String, User)>);

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the token file: {why}")]
pub struct TokenFileError {
    line: usize,
    why: &'static str,
}

impl StaticTokens {
    /// Reads comma-separated values: `token,user,uid,"group1,group2"`.
    pub fn parse(text: &str) -> Result<StaticTokens, TokenFileError> {
        let mut out = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let wrong = |why| TokenFileError { line: i + 1, why };
            let fields = fields(line).ok_or_else(|| wrong("a quotation mark is not closed"))?;
            let [token, name, uid, more @ ..] = &fields[..] else {
                return Err(wrong("it needs at least a token, a user name and a uid"));
            };
            if token.is_empty() {
                return Err(wrong("the token is empty"));
            }
            let groups = more.first().map_or("", String::as_str).split(',').map(str::trim);
            let groups = groups.filter(|g| !g.is_empty()).map(str::to_owned).collect();
            let mut user = User::new(name.clone(), groups);
            user.uid.clone_from(uid);
            out.push((token.clone(), user));
        }
        Ok(StaticTokens(out))
    }

    /// Whose token it is.
    pub fn user(&self, token: &str) -> Option<&User> {
        self.0.iter().find(|(t, _)| equal(t.as_bytes(), token.as_bytes())).map(|(_, user)| user)
    }
}

fn fields(line: &str) -> Option<Vec<String>> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    out.push(field.trim().to_owned());
    (!quoted).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_users_and_their_groups() {
        let tokens = StaticTokens::parse("t1,alice,1,\"devs,ops\"\n\nt2,bob,2\n").unwrap();
        let alice = tokens.user("t1").unwrap();
        assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice", "1"));
        assert!(alice.is_in("devs") && alice.is_in("ops") && alice.is_in("system:authenticated"));
        assert!(tokens.user("t").is_none() && tokens.user("t2").is_some());
        assert!(StaticTokens::parse("t,bob").is_err());
        assert!(StaticTokens::parse("t,bob,1,\"a").is_err());
    }
}
