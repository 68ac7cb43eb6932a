//! When the image of a service is fetched or built: `pull_policy`, `--pull`, `--build`.

use jiff::{SignedDuration, Timestamp};
use wharf_spec::compose::model::Service;
use wharf_spec::docker::ImageInspect;

use crate::cmdline::parse::Given;
use crate::failure::Failure;

/// What is to be done about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Pull,
    Build,
}

/// What a service and the flags ask for, given what is here.
pub(super) fn need(
    given: &Given,
    name: &str,
    service: &Service,
    image: Option<&ImageInspect>,
    now: Timestamp,
) -> Result<Need, Failure> {
    let flag = given.text("pull");
    if !matches!(flag, "" | "policy" | "always" | "missing" | "never" | "build") {
        return Err(Failure::new(format!(
            "invalid --pull option {flag:?}: use always, missing, never or build"
        )));
    }
    let policy = match (flag, service.pull_policy.as_str()) {
        ("" | "policy", "") => "missing",
        ("" | "policy", own) => own,
        (flag, _) => flag,
    };
    let buildable = service.build.is_some();
    let may_build = buildable && !given.on("no-build");
    if buildable && given.on("build") {
        return Ok(Need::Build);
    }
    let there = image.is_some();
    let missing = match (there, buildable) {
        (true, _) => Need::Nothing,
        (false, true) if may_build => Need::Build,
        (false, true) => Need::Nothing,
        (false, false) => Need::Pull,
    };
    Ok(match policy {
        "missing" | "if_not_present" => missing,
        "build" if may_build => Need::Build,
        "build" => missing,
        // An image that is built here is not fetched over it.
        "always" | "refresh" if buildable => missing,
        "always" | "refresh" => Need::Pull,
        "never" if may_build => missing,
        "never" => Need::Nothing,
        policy => {
            let after = interval(policy).ok_or_else(|| {
                Failure::new(format!(
                    "services.{name}.pull_policy: unknown value {policy:?}: use always, missing, never, build, daily, weekly or every_<time>"
                ))
            })?;
            let tagged = image.and_then(|i| i.metadata.last_tag_time.parse::<Timestamp>().ok());
            let old = tagged.is_none_or(|at| now.duration_since(at) > after);
            if there && old && !buildable { Need::Pull } else { missing }
        }
    })
}

/// The time after which an image is fetched again: `daily`, `weekly`, `every_12h`, `every_1w2d`.
fn interval(policy: &str) -> Option<SignedDuration> {
    const DAY: i64 = 24 * 3600;
    let text = match policy {
        "daily" => return Some(SignedDuration::from_secs(DAY)),
        "weekly" => return Some(SignedDuration::from_secs(7 * DAY)),
        other => other.strip_prefix("every_").filter(|t| !t.is_empty())?,
    };
    let (mut total, mut digits) = (0_i64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'w' => 7 * DAY,
            'd' => DAY,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        let count: i64 = std::mem::take(&mut digits).parse().ok()?;
        total = total.checked_add(count.checked_mul(unit)?)?;
    }
    digits.is_empty().then(|| SignedDuration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(policy: &str, age: Option<i64>) -> Result<Need, String> {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let service = Service { pull_policy: policy.to_owned(), ..Service::default() };
        let image = age.map(|seconds| {
            let mut image = ImageInspect::default();
            image.metadata.last_tag_time = (now - SignedDuration::from_secs(seconds)).to_string();
            image
        });
        need(&Given::default(), "web", &service, image.as_ref(), now).map_err(|f| f.text)
    }

    #[test]
    fn images_are_fetched_again_after_their_time() {
        const HOUR: i64 = 3600;
        for (policy, young, old) in [
            ("daily", 23 * HOUR, 25 * HOUR),
            ("weekly", 6 * 24 * HOUR, 8 * 24 * HOUR),
            ("every_12h", 11 * HOUR, 13 * HOUR),
            ("every_1d2h30m", 26 * HOUR, 27 * HOUR),
        ] {
            assert_eq!(says(policy, None), Ok(Need::Pull), "{policy}");
            assert_eq!(says(policy, Some(young)), Ok(Need::Nothing), "{policy}");
            assert_eq!(says(policy, Some(old)), Ok(Need::Pull), "{policy}");
        }
        assert_eq!(says("", Some(1)), Ok(Need::Nothing));
        assert_eq!(says("always", Some(1)), Ok(Need::Pull));
        assert_eq!(says("never", None), Ok(Need::Nothing));
        for wrong in ["sometimes", "every_", "every_h", "every_3", "every_3x"] {
            assert!(says(wrong, Some(1)).is_err_and(|t| t.contains("services.web.pull_policy")));
        }
    }
}
