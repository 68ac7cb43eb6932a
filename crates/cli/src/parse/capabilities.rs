//! `--cap-add` and `--cap-drop`: one form for each name, and who wins.

use std::collections::BTreeSet;

const ALL: &str = "ALL";

/// What is really added and dropped, sorted, each name as the kernel's headers have it: `ALL` makes
/// its neighbours pointless, and what is added is not dropped.
pub fn effective(add: &[String], drop: &[String]) -> (Vec<String>, Vec<String>) {
    let (add, drop) = (names(add), names(drop));
    let drop = drop.into_iter().filter(|name| !add.contains(name)).collect();
    (add.into_iter().collect(), drop)
}

fn names(given: &[String]) -> BTreeSet<String> {
    let set: BTreeSet<String> = given.iter().map(|name| normal(name)).collect();
    if set.contains(ALL) { [ALL.to_owned()].into() } else { set }
}

fn normal(name: &str) -> String {
    let name = name.trim().to_uppercase();
    match name.as_str() {
        ALL => name,
        known if known.starts_with("CAP_") => name,
        bare => format!("CAP_{bare}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], expected: (&[&str], &[&str])) {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(effective(&owned(add), &owned(drop)), (owned(expected.0), owned(expected.1)));
    }

    #[test]
    fn names_have_one_form() {
        check(&["net_admin", "CAP_CHOWN"], &[], (&["CAP_CHOWN", "CAP_NET_ADMIN"], &[]));
    }

    #[test]
    fn all_stands_for_all_and_adding_wins() {
        check(&["all", "chown"], &["MKNOD", "mknod"], (&["ALL"], &["CAP_MKNOD"]));
        check(&["mknod"], &["MKNOD", "chown"], (&["CAP_MKNOD"], &["CAP_CHOWN"]));
    }
}
