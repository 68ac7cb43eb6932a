//! Go's JSON rules as serde functions and one macro.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// Go maps print sorted by key, and so does this.
pub type Map<T> = BTreeMap<String, T>;

/// What Go prints for a time that was never set.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Go's `struct{}`: printed as `{}`, read from anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Empty, D::Error> {
        serde::de::IgnoredAny::deserialize(d)?;
        Ok(Empty {})
    }
}

/// RFC 3339 with nanoseconds as Go's `RFC3339Nano` prints them: trailing zeros dropped, UTC.
pub fn rfc3339(unix_nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nanos)) {
        Ok(t) => t.to_string(),
        Err(_) => ZERO_TIME.into(),
    }
}

/// RFC 3339 in whole seconds, UTC.
pub fn rfc3339_secs(unix_nanos: i64) -> String {
    rfc3339(unix_nanos.div_euclid(1_000_000_000) * 1_000_000_000)
}

/// Reads `null` as the zero value.
pub(super) fn null<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Go's `omitempty`.
pub(super) trait Zero {
    fn is_zero(&self) -> bool;
}

macro_rules! zero_is_default {
    ($($t:ty),*) => { $(impl Zero for $t {
        fn is_zero(&self) -> bool { *self == <$t>::default() }
    })* };
}

zero_is_default!(bool, i32, i64, u16, u32, u64, f64);

impl Zero for String {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl<T> Zero for Vec<T> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl<T> Zero for Map<T> {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

/// A pointer is empty when nil; what it points to does not matter. For a list or map that Go
/// drops when empty, the field is `Option` and both `None` and an empty value are absent.
impl<T> Zero for Option<T> {
    fn is_zero(&self) -> bool {
        self.is_none()
    }
}

pub(super) fn omit<T: Zero>(value: &T) -> bool {
    value.is_zero()
}

/// Declares a struct of the Engine API: `field: Type = "JsonName";`, with `, omitempty` where Go has it.
macro_rules! go_struct {
    ($(#[$meta:meta])* $name:ident { $($body:tt)* }) => {
        go_struct!(@fields [$(#[$meta])* $name] [] $($body)*);
    };
    (@fields [$($head:tt)*] [$($done:tt)*] $field:ident : $ty:ty = $json:literal ; $($rest:tt)*) => {
        go_struct!(@fields [$($head)*] [$($done)*
            #[serde(rename = $json, deserialize_with = "super::go::null")]
            pub $field: $ty,] $($rest)*);
    };
    (@fields [$($head:tt)*] [$($done:tt)*] $field:ident : $ty:ty = $json:literal, omitempty ; $($rest:tt)*) => {
        go_struct!(@fields [$($head)*] [$($done)*
            #[serde(rename = $json, deserialize_with = "super::go::null", skip_serializing_if = "super::go::omit")]
            pub $field: $ty,] $($rest)*);
    };
    (@fields [$($head:tt)*] [$($done:tt)*] $field:ident : $ty:ty = flatten ; $($rest:tt)*) => {
        go_struct!(@fields [$($head)*] [$($done)* #[serde(flatten)] pub $field: $ty,] $($rest)*);
    };
    (@fields [$(#[$meta:meta])* $name:ident] [$($done:tt)*]) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name { $($done)* }
    };
}
