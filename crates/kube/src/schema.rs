//! The types of every built-in kind, read once from the compact tables in `tables/`.
//!
//! A table has one line per type (`Name [kind] [atomic]`), below it one indented line per field
//! (`jsonName protobufNumber type flags…`) in the order in which the API prints them, and `#Name a b c`
//! for an enumeration. `[]T` is a list, `{}T` a map from strings, `*T` a pointer: present-but-zero
//! differs from absent. A field named `~` is embedded: its own fields appear in the parent's JSON
//! and in a message of their own in protobuf.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Index of a type in the [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u32);

/// Index of an enumeration in the [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnumId(u32);

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Ty {
    /// A string.
    Str,
    /// A string of a closed set.
    Enum(EnumId),
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// A double.
    F64,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A quantity such as `100m`.
    Quantity,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    /// A duration such as `1h0m0s`.
    Duration,
    /// A number or a string.
    IntOrString,
    /// Any object, kept as it is.
    Raw,
    /// Any JSON value, kept as it is.
    Json,
    /// A set of fields of server-side apply.
    Fields,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or a list of them.
    SchemaOrList,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
    /// A type of the tables.
    Struct(TypeId),
    /// A list.
    List(Box<Ty>),
    /// A map from strings.
    Map(Box<Ty>),
}

/// How server-side apply merges a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// As one value.
    Atomic,
    /// As a set of scalars.
    Set,
    /// As a map, by the values of these fields.
    Map(Vec<&'static str>),
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strategy {
    /// Lists are merged element by element instead of replaced.
    pub merge: bool,
    /// Keys that the patch does not name are dropped when it says so.
    pub retain_keys: bool,
    /// The field that identifies an element.
    pub key: Option<&'static str>,
}

/// One field of a type.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Its protobuf number.
    pub number: u32,
    /// What it holds.
    pub ty: Ty,
    /// Whether zero differs from absent.
    pub pointer: bool,
    /// Whether it is printed even when it is zero.
    pub always: bool,
    /// Whether OpenAPI lists it as required.
    pub required: bool,
    /// How apply merges it, where it is a list.
    pub list: Option<ListKind>,
    /// Whether apply takes it, a map or struct, as one value.
    pub atomic: bool,
    /// How a strategic merge patch treats it.
    pub strategy: Strategy,
    /// The default that its declaration names, as JSON.
    pub default: Option<&'static str>,
}

/// A type with fields.
#[derive(Debug)]
pub struct Type {
    /// `package.Name` as the tables write it.
    pub name: &'static str,
    /// Its name in OpenAPI documents.
    pub openapi: String,
    /// Whether it carries `kind` and `apiVersion`.
    pub kind: bool,
    /// Whether apply takes it as one value.
    pub atomic: bool,
    /// All fields, embedded ones spliced in, in the order of the JSON.
    pub fields: Vec<Field>,
    /// Embedded messages: their protobuf number and type.
    pub embedded: Vec<(u32, TypeId)>,
    /// How many of `fields` the type declares itself; the rest come from embedded messages.
    own: Vec<usize>,
    by_name: HashMap<&'static str, usize>,
}

impl Type {
    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.by_name.get(name).map(|i| &self.fields[*i])
    }

    /// The position of a field in `fields`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The fields that are not part of an embedded message.
    pub fn own(&self) -> impl Iterator<Item = &Field> {
        self.own.iter().map(|i| &self.fields[*i])
    }

    /// The name without its package.
    pub fn short(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, n)| n)
    }
}

/// All types.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    enums: Vec<Vec<&'static str>>,
    by_name: HashMap<&'static str, TypeId>,
}

impl Schema {
    /// The tables of Kubernetes 1.36.
    pub fn builtin() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| Loader::default().load(TABLES))
    }

    /// The type named `package.Name`.
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The type behind an id.
    pub fn ty(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// The members of an enumeration.
    pub fn members(&self, id: EnumId) -> &[&'static str] {
        &self.enums[id.0 as usize]
    }

    /// Every type, in the order of the tables.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0u32..).map(TypeId).zip(&self.types)
    }
}

const TABLES: &[&str] = &[
    include_str!("../tables/meta.txt"),
    include_str!("../tables/core.txt"),
    include_str!("../tables/apps.txt"),
    include_str!("../tables/batch.txt"),
    include_str!("../tables/autoscaling1.txt"),
    include_str!("../tables/autoscaling.txt"),
    include_str!("../tables/networking.txt"),
    include_str!("../tables/discovery.txt"),
    include_str!("../tables/policy.txt"),
    include_str!("../tables/rbac.txt"),
    include_str!("../tables/authentication.txt"),
    include_str!("../tables/authorization.txt"),
    include_str!("../tables/admissionregistration.txt"),
    include_str!("../tables/storage.txt"),
    include_str!("../tables/scheduling.txt"),
    include_str!("../tables/coordination.txt"),
    include_str!("../tables/events.txt"),
    include_str!("../tables/node.txt"),
    include_str!("../tables/certificates.txt"),
    include_str!("../tables/flowcontrol.txt"),
    include_str!("../tables/resource.txt"),
    include_str!("../tables/admission.txt"),
    include_str!("../tables/apiextensions.txt"),
    include_str!("../tables/apiregistration.txt"),
];

/// Reads tables. The tables are part of the program, so a mistake in them is a panic that the
/// unit tests see.
#[derive(Default)]
struct Loader {
    types: Vec<Raw>,
    by_name: HashMap<&'static str, TypeId>,
    enums: Vec<Vec<&'static str>>,
    enum_names: HashMap<String, EnumId>,
}

/// A type as its lines say it.
struct Raw {
    package: &'static str,
    name: &'static str,
    openapi: String,
    flags: Vec<&'static str>,
    lines: Vec<&'static str>,
}

impl Loader {
    fn load(mut self, tables: &[&'static str]) -> Schema {
        for table in tables {
            self.read(table);
        }
        let mut types: Vec<Type> = Vec::with_capacity(self.types.len());
        let raw = std::mem::take(&mut self.types);
        for r in &raw {
            types.push(self.build(&raw, r));
        }
        Schema { types, enums: self.enums, by_name: self.by_name }
    }

    fn read(&mut self, table: &'static str) {
        let (mut package, mut openapi) = ("", "");
        for line in table.lines() {
            if let Some(head) = line.strip_prefix("package ") {
                (package, openapi) = head.split_once(' ').unwrap_or((head, head));
            } else if let Some(members) = line.strip_prefix('#') {
                let (name, members) = members.split_once(' ').unwrap_or((members, ""));
                // Members that are several words stand between commas.
                let between = if members.contains(',') { ',' } else { ' ' };
                let words = members.split(between);
                let id = EnumId(self.enums.len().try_into().unwrap_or(u32::MAX));
                self.enum_names.insert(format!("{package}.{name}"), id);
                self.enums.push(words.map(|w| if w == "\"\"" { "" } else { w }).collect());
            } else if let Some(field) = line.strip_prefix(' ') {
                if let Some(last) = self.types.last_mut() {
                    last.lines.push(field);
                }
            } else {
                self.declare(package, openapi, line);
            }
        }
    }

    fn declare(&mut self, package: &'static str, openapi: &str, line: &'static str) {
        let mut words = line.split(' ');
        let short = words.next().unwrap_or_default();
        let id = TypeId(self.types.len().try_into().unwrap_or(u32::MAX));
        let name: &'static str = format!("{package}.{short}").leak();
        self.by_name.insert(name, id);
        let (openapi, flags) = (format!("{openapi}.{short}"), words.collect());
        self.types.push(Raw { package, name, openapi, flags, lines: Vec::new() });
    }

    fn build(&self, all: &[Raw], r: &Raw) -> Type {
        let (mut fields, mut own, mut embedded) = (Vec::new(), Vec::new(), Vec::new());
        for line in &r.lines {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let number = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let ty = words.next().unwrap_or_default();
            if name == "~" {
                let Ty::Struct(id) = self.ty(r.package, ty) else { panic!("{}: ~ {ty}", r.name) };
                embedded.push((number, id));
                fields.extend(self.build(all, &all[id.0 as usize]).fields);
            } else {
                own.push(fields.len());
                fields.push(self.field(r.package, name, number, ty, words));
            }
        }
        let by_name =
            fields.iter().enumerate().map(|(i, f): (usize, &Field)| (f.name, i)).collect();
        let (kind, atomic) = (r.flags.contains(&"kind"), r.flags.contains(&"atomic"));
        let openapi = r.openapi.clone();
        Type { name: r.name, openapi, kind, atomic, fields, embedded, own, by_name }
    }

    fn field(
        &self,
        package: &str,
        name: &'static str,
        number: u32,
        ty: &str,
        flags: impl Iterator<Item = &'static str>,
    ) -> Field {
        let (pointer, ty) = ty.strip_prefix('*').map_or((false, ty), |t| (true, t));
        let mut f = Field {
            name,
            number,
            ty: self.ty(package, ty),
            pointer,
            always: false,
            required: false,
            list: None,
            atomic: false,
            strategy: Strategy::default(),
            default: None,
        };
        for flag in flags {
            match flag.split_once('=').unwrap_or((flag, "")) {
                ("always", _) => f.always = true,
                ("required", _) => f.required = true,
                ("keys", keys) => f.list = Some(ListKind::Map(keys.split(',').collect())),
                ("list", "set") => f.list = Some(ListKind::Set),
                ("list", _) => f.list = Some(ListKind::Atomic),
                ("map" | "struct", _) => f.atomic = true,
                ("patch", p) => {
                    f.strategy.merge = p.contains("merge");
                    f.strategy.retain_keys = p.contains("retainKeys");
                }
                ("key", k) => f.strategy.key = Some(k),
                ("default", d) => f.default = Some(d),
                _ => panic!("{name}: unknown flag {flag}"),
            }
        }
        f
    }

    fn ty(&self, package: &str, text: &str) -> Ty {
        if let Some(rest) = text.strip_prefix("[]") {
            return Ty::List(Box::new(self.ty(package, rest)));
        }
        if let Some(rest) = text.strip_prefix("{}") {
            return Ty::Map(Box::new(self.ty(package, rest)));
        }
        let qualified =
            |t: &str| if t.contains('.') { t.to_owned() } else { format!("{package}.{t}") };
        if let Some(name) = text.strip_prefix('#') {
            return Ty::Enum(self.enum_names[&qualified(name)]);
        }
        match text {
            "string" => Ty::Str,
            "bool" => Ty::Bool,
            "int32" => Ty::I32,
            "int64" => Ty::I64,
            "float64" => Ty::F64,
            "bytes" => Ty::Bytes,
            "quantity" => Ty::Quantity,
            "time" => Ty::Time,
            "microtime" => Ty::MicroTime,
            "duration" => Ty::Duration,
            "intorstring" => Ty::IntOrString,
            "raw" => Ty::Raw,
            "json" => Ty::Json,
            "fieldsv1" => Ty::Fields,
            "jSONSchemaPropsOrBool" => Ty::SchemaOrBool,
            "jSONSchemaPropsOrArray" => Ty::SchemaOrList,
            "jSONSchemaPropsOrStringArray" => Ty::SchemaOrStrings,
            _ => Ty::Struct(self.by_name[qualified(text).as_str()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_read() {
        let s = Schema::builtin();
        assert!(s.types.len() > 600, "{}", s.types.len());
        let pod = s.ty(s.id("core.PodSpec").unwrap());
        let c = pod.field("containers").unwrap();
        assert_eq!((c.number, c.always, c.required), (2, true, true));
        assert_eq!(c.list, Some(ListKind::Map(vec!["name"])));
        assert_eq!(c.strategy.key, Some("name"));
    }

    #[test]
    fn embedded_fields_are_spliced_in() {
        let s = Schema::builtin();
        let volume = s.ty(s.id("core.Volume").unwrap());
        assert!(volume.field("emptyDir").is_some());
        assert_eq!(volume.own().count(), 1);
        let rule = s.ty(s.id("admissionregistration.NamedRuleWithOperations").unwrap());
        assert!(rule.field("apiGroups").is_some(), "two levels deep");
    }

    #[test]
    fn protobuf_numbers_are_unique_within_a_message() {
        for (_, t) in Schema::builtin().types() {
            let mut seen: Vec<u32> =
                t.own().map(|f| f.number).chain(t.embedded.iter().map(|e| e.0)).collect();
            seen.retain(|n| *n != 0);
            let before = seen.len();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), before, "{}", t.name);
        }
    }
}
