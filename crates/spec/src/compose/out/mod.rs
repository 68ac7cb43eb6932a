//! A project as YAML and JSON, to the byte as Go's libraries print it.
//!
//! The bytes matter: the hash of a service's JSON decides whether its containers are replaced, and
//! two tools that print it differently would replace each other's containers.

mod json;
pub(super) mod number;
mod yaml;

/// Which notation a value is written for; a few attributes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON, as the hash is made of and `config --format json` prints.
    Json,
    /// YAML, as `config` prints.
    Yaml,
}

/// What is written: the order of a mapping is that of its entries.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number of 32 bits, which is printed shorter than one of 64.
    Single(f32),
    /// A number of 64 bits.
    Double(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Out>),
    /// A mapping.
    Map(Vec<(String, Out)>),
}

impl Out {
    /// JSON without spaces.
    pub fn compact(&self) -> String {
        json::write(self, None)
    }

    /// JSON over several lines, indented by two.
    pub fn pretty(&self) -> String {
        json::write(self, Some(0))
    }

    /// A YAML document.
    pub fn yaml(&self) -> String {
        yaml::write(self)
    }

    /// Sorts the entries of a mapping that has no order of its own, as each notation does.
    pub(super) fn sorted(mut entries: Vec<(String, Out)>, form: Form) -> Out {
        match form {
            Form::Json => entries.sort_by(|a, b| a.0.cmp(&b.0)),
            Form::Yaml => entries.sort_by(|a, b| yaml::order(&a.0, &b.0)),
        }
        Out::Map(entries)
    }
}

impl super::Node {
    /// The tree as it is.
    pub fn written(&self, form: Form) -> Out {
        use super::Value;
        match &self.value {
            Value::Null => Out::Null,
            Value::Bool(b) => Out::Bool(*b),
            Value::Int(n) => Out::Int(*n),
            Value::Float(n) => Out::Double(*n),
            Value::Text(text) => Out::Text(text.clone()),
            Value::List(list) => Out::List(list.iter().map(|n| n.written(form)).collect()),
            Value::Map(map) => {
                let entries = map.iter().map(|(k, n)| (k.clone(), n.written(form)));
                Out::sorted(entries.collect(), form)
            }
        }
    }
}
