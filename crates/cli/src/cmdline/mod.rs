//! What the command line looks like: flags, verbs, groups, all as data.

pub mod help;
pub mod near;
pub mod parse;
pub mod tree;

use std::future::Future;
use std::pin::Pin;

use crate::app::Call;
use crate::failure::Failure;
pub use crate::parse::item::Item;

/// What a flag's value is; decides how it is checked and what the help calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A switch, `--x` or `--x=false`.
    Bool,
    /// One string; the last one wins.
    Str,
    /// A signed number.
    Int,
    /// An unsigned number.
    Uint,
    /// An unsigned number up to 65535.
    Uint16,
    /// A size such as `512m`.
    Bytes,
    /// A Go duration such as `1m30s`.
    Duration,
    /// A number of CPUs such as `1.5`.
    Decimal,
    /// A size in bytes, or -1 for no limit.
    Swap,
    /// Any number of strings.
    List,
    /// Any number of strings of one form.
    ListOf(Item),
    /// Any number of strings, each split at commas.
    Strings,
    /// Any number of `key=value`.
    Map,
    /// Any number of kernel parameters.
    Sysctls,
    /// Any number of `key=value`, each split at commas.
    StrMap,
    /// Any number of `key=value` filters.
    Filter,
    /// Any number of `type=soft[:hard]`.
    Ulimit,
    /// Any number of mount specifications.
    Mount,
    /// Any number of network names or specifications.
    Network,
    /// Any number of GPU requests.
    Gpus,
}

impl Kind {
    /// What the help prints after the flag's name.
    pub fn value_name(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Str => "string",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Uint16 => "uint16",
            Self::Bytes | Self::Swap => "bytes",
            Self::Duration => "duration",
            Self::Decimal => "decimal",
            Self::List | Self::ListOf(_) => "list",
            Self::Strings => "strings",
            Self::Map | Self::Sysctls => "map",
            Self::StrMap => "stringToString",
            Self::Filter => "filter",
            Self::Ulimit => "ulimit",
            Self::Mount => "mount",
            Self::Network => "network",
            Self::Gpus => "gpu-request",
        }
    }
}

/// One flag of a verb.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// How its value is read.
    pub kind: Kind,
    /// The one-letter form, or empty.
    pub short: &'static str,
    /// The long form without dashes.
    pub long: &'static str,
    /// The help text, its default in brackets at the end.
    pub help: &'static str,
    /// The flag that this one is another name of, which also hides it from the help.
    pub same_as: Option<&'static str>,
}

impl Flag {
    /// Whether the help names it: not another name, and not for another system.
    pub fn is_shown(&self) -> bool {
        self.same_as.is_none() && !self.help.ends_with("(Windows only)")
    }
}

/// A flag as the tables write it.
pub const fn flag(kind: Kind, short: &'static str, long: &'static str, help: &'static str) -> Flag {
    Flag { kind, short, long, help, same_as: None }
}

/// An older name of another flag; accepted, not shown.
pub const fn alias(kind: Kind, long: &'static str, same_as: &'static str) -> Flag {
    Flag { kind, short: "", long, help: "", same_as: Some(same_as) }
}

/// An older name that is on its way out; whoever uses it is told.
pub const fn deprecated(kind: Kind, long: &'static str, same_as: &'static str) -> Flag {
    Flag { kind, short: "", long, help: "deprecated", same_as: Some(same_as) }
}

impl Flag {
    /// The name to use instead, if this one is on its way out.
    pub fn replacement(&self) -> Option<&'static str> {
        self.same_as.filter(|_| !self.help.is_empty())
    }
}

/// How many arguments a verb takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Args {
    /// Whatever is given.
    Any,
    /// None at all.
    None,
    /// That many or more.
    AtLeast(usize),
    /// That many or fewer.
    AtMost(usize),
    /// Exactly that many.
    Exactly(usize),
    /// Between the two, inclusive.
    Range(usize, usize),
}

/// What a verb's function returns.
pub type Running = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// One verb: how it is called, what it takes, what it does.
pub struct Verb {
    /// All the ways to call it; the first is the shortest.
    pub paths: &'static [&'static str],
    /// The alias list of the help, in docker's order; empty when there is one path.
    pub aliases: &'static [&'static str],
    /// Usage lines after the verb's own name.
    pub usage: &'static [&'static str],
    /// What it does: one line, and sometimes more below.
    pub about: &'static str,
    /// How many arguments it takes.
    pub args: Args,
    /// Whether flags may follow arguments.
    pub interspersed: bool,
    /// Its flags, in groups that verbs share.
    pub flags: &'static [&'static [Flag]],
    /// What it does.
    pub run: fn(Call) -> Running,
}

impl Verb {
    /// All flags, sorted as the help prints them.
    pub fn sorted_flags(&self) -> Vec<&'static Flag> {
        let mut all: Vec<_> = self.flags.iter().flat_map(|g| g.iter()).collect();
        all.sort_by_key(|f| f.long);
        all
    }

    /// The flag with this long name.
    pub fn long(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().flat_map(|g| g.iter()).find(|f| f.long == name)
    }

    /// The flag with this letter.
    pub fn short(&self, letter: char) -> Option<&'static Flag> {
        let mut buf = [0; 4];
        let letter: &str = letter.encode_utf8(&mut buf);
        self.flags.iter().flat_map(|g| g.iter()).find(|f| f.short == letter)
    }
}

/// A word that only introduces other words, such as `container`.
pub struct Group {
    /// The word.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
}
