//! What somebody may have meant who mistyped a word.

/// The candidate that is one or two slips away from `word`: letters left out, added, swapped or mistaken, fewer
/// than a third of them.
pub fn near<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let letters = word.chars().count();
    let slips = |c: &&str| strsim::damerau_levenshtein(word, c);
    let (distance, nearest) =
        candidates.into_iter().map(|c| (slips(&c), c)).min_by_key(|(d, _)| *d)?;
    (distance <= 2 && distance * 3 <= letters.max(3)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let verbs = ["run", "rm", "images", "inspect", "ps"];
        assert_eq!(near("rnu", verbs), Some("run"));
        assert_eq!(near("imagse", verbs), Some("images"));
        assert_eq!(near("inspekt", verbs), Some("inspect"));
        assert_eq!(near("frobnicate", verbs), None);
        assert_eq!(near("xy", verbs), None);
        assert_eq!(near("run", []), None);
    }
}
