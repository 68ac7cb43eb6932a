//! API versions: parsing, the range that is served, and the texts for what lies outside.

use std::fmt;
use std::str::FromStr;

/// `major.minor` of the Engine API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u16,
    minor: u16,
}

/// The newest version that is served, and what an unversioned path means.
pub(crate) const MAX: ApiVersion = v(53);
/// The oldest version that is served.
pub(crate) const MIN: ApiVersion = v(24);

/// Version `1.minor`.
pub(crate) const fn v(minor: u16) -> ApiVersion {
    ApiVersion { major: 1, minor }
}

/// A version that this engine does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RangeError {
    /// Below [`MIN`].
    #[error(
        "client version {0} is too old. Minimum supported API version is {MIN}, please upgrade your client to a newer version"
    )]
    TooOld(ApiVersion),
    /// Above [`MAX`].
    #[error("client version {0} is too new. Maximum supported API version is {MAX}")]
    TooNew(ApiVersion),
}

impl ApiVersion {
    /// Refuses what is not served.
    pub(crate) fn check(self) -> Result<(), RangeError> {
        match self {
            _ if self < MIN => Err(RangeError::TooOld(self)),
            _ if self > MAX => Err(RangeError::TooNew(self)),
            _ => Ok(()),
        }
    }

    /// Splits `/v1.41/rest` into its version and `/rest`. A path without version means [`MAX`].
    pub(crate) fn split(path: &str) -> (ApiVersion, &str) {
        let versioned = path.strip_prefix("/v").and_then(|rest| {
            let end = rest.find('/').unwrap_or(rest.len());
            Some((rest[..end].parse().ok()?, &rest[end..]))
        });
        versioned.unwrap_or((MAX, path))
    }
}

impl FromStr for ApiVersion {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<ApiVersion, Self::Err> {
        let (major, minor) = s.split_once('.').unwrap_or((s, "0"));
        Ok(ApiVersion { major: major.parse()?, minor: minor.parse()? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_split_from_paths() {
        assert_eq!(ApiVersion::split("/v1.41/info"), (v(41), "/info"));
        assert_eq!(ApiVersion::split("/info"), (MAX, "/info"));
        assert_eq!(ApiVersion::split("/version"), (MAX, "/version"));
        assert_eq!(ApiVersion::split("/volumes/v1.1"), (MAX, "/volumes/v1.1"));
        assert_eq!(ApiVersion::split("/v1.24"), (v(24), ""));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(v(9) < v(24) && v(100) > v(53));
        v(24).check().unwrap();
        MAX.check().unwrap();
    }

    #[test]
    fn texts_outside_the_range() {
        assert_eq!(
            v(23).check().unwrap_err().to_string(),
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert_eq!(
            "1.99".parse::<ApiVersion>().unwrap().check().unwrap_err().to_string(),
            "client version 1.99 is too new. Maximum supported API version is 1.53"
        );
    }
}
