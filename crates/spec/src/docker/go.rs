//! Go's JSON rules as a trait, functions and one macro.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::{IgnoredAny, MapAccess, Visitor};
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
        IgnoredAny::deserialize(d)?;
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

/// A struct that is filled key by key, as Go's `encoding/json` does it: names are compared without regard to case,
/// an unknown key is ignored, and of a key that comes twice the last counts.
pub trait Fields: Default {
    /// Reads the value of `key` if a field has that name, and says whether one has.
    ///
    /// # Errors
    ///
    /// The value is not what the field holds.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Reads a whole object.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Fields>(d: D) -> Result<T, D::Error> {
    d.deserialize_map(Object(PhantomData))
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Fields> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut value = T::default();
        while let Some(key) = map.next_key::<String>()? {
            if !value.take(&key, &mut map)? {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(value)
    }
}

/// Reads the value at hand into a field, `null` as the zero value.
pub(crate) fn read<'de, A, T>(map: &mut A, field: &mut T) -> Result<bool, A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de> + Default,
{
    *field = map.next_value::<Option<T>>()?.unwrap_or_default();
    Ok(true)
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
/// `= flatten` puts the fields of another such struct among its own.
macro_rules! go_struct {
    ($(#[$meta:meta])* $name:ident { $($body:tt)* }) => {
        go_struct!(@fields [$(#[$meta])* $name] [] [] $($body)*);
    };
    (@fields [$($head:tt)*] [$($done:tt)*] [$($keys:tt)*] $field:ident : $ty:ty = $json:literal ; $($rest:tt)*) => {
        go_struct!(@fields [$($head)*] [$($done)* #[serde(rename = $json)] pub $field: $ty,]
            [$($keys)* $field $json,] $($rest)*);
    };
    (@fields [$($head:tt)*] [$($done:tt)*] [$($keys:tt)*] $field:ident : $ty:ty = $json:literal, omitempty ; $($rest:tt)*) => {
        go_struct!(@fields [$($head)*] [$($done)*
            #[serde(rename = $json, skip_serializing_if = "super::go::omit")] pub $field: $ty,]
            [$($keys)* $field $json,] $($rest)*);
    };
    (@fields [$($head:tt)*] [$($done:tt)*] [$($keys:tt)*] $field:ident : $ty:ty = flatten ; $($rest:tt)*) => {
        go_struct!(@fields [$($head)*] [$($done)* #[serde(flatten)] pub $field: $ty,]
            [$($keys)* $field flatten,] $($rest)*);
    };
    (@fields [$(#[$meta:meta])* $name:ident] [$($done:tt)*] [$($field:ident $key:tt,)*]) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
        pub struct $name { $($done)* }

        impl super::go::Fields for $name {
            fn take<'de, A>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>
            where
                A: serde::de::MapAccess<'de>,
            {
                Ok($(go_struct!(@take (self.$field) key map $key))||*)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                super::go::object(d)
            }
        }
    };
    (@take ($place:expr) $key:ident $map:ident flatten) => {
        super::go::Fields::take(&mut $place, $key, $map)?
    };
    (@take ($place:expr) $key:ident $map:ident $json:literal) => {
        ($key.eq_ignore_ascii_case($json) && super::go::read($map, &mut $place)?)
    };
}
