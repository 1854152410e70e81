//! Writes the Rust of a message: its structs and what they implement.

use std::fmt::Write;

use super::table::{Api, Field, Message, Struct, Versions};
use super::{decode, encode};

/// The module of one message.
pub(crate) fn message(out: &mut String, key: i16, message: &Message) {
    let module = snake(&message.name);
    let _ = writeln!(out, "/// `{}` and what it is made of.", message.name);
    let _ = writeln!(out, "pub mod {module} {{\n    use super::prelude::*;\n");
    let mut seen: Vec<&str> = Vec::new();
    for item in &message.structs {
        // A struct may be used by several fields, described each time in the same words.
        if !seen.contains(&item.name.as_str()) {
            seen.push(&item.name);
            structure(out, message, item);
        }
    }
    let name = &message.name;
    let flexible = if message.flexible.is_empty() {
        i16::MAX
    } else {
        message.flexible.first
    };
    let _ = writeln!(
        out,
        "    impl<'a> Message<'a> for {name}{} {{\n        const KEY: i16 = {key};\n        const NAME: &'static str = \"{name}\";\n        \
         const FIRST: i16 = {};\n        const LAST: i16 = {};\n        const FLEXIBLE_FROM: i16 = {flexible};\n    }}\n}}",
        lifetime(message, name),
        message.versions.first,
        message.versions.last,
    );
    let _ = writeln!(out, "pub use {module}::{name};\n");
}

/// The enum of all APIs and what is known of each.
pub(crate) fn apis(out: &mut String, apis: &[Api]) {
    out.push_str("/// An API, by its key.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(i16)]\npub enum ApiKey {\n");
    for api in apis {
        let _ = writeln!(
            out,
            "    /// `{}`.\n    {} = {},",
            api.name, api.name, api.key
        );
    }
    out.push_str("}\n\nimpl ApiKey {\n    /// Every API with a message table, by key.\n    pub const ALL: &[ApiKey] = &[\n");
    for api in apis {
        let _ = writeln!(out, "        ApiKey::{},", api.name);
    }
    out.push_str("    ];\n\n    /// What the message table says of it.\n    pub fn info(self) -> ApiInfo {\n        match self {\n");
    for Api { name, request, .. } in apis {
        let flexible = if request.flexible.is_empty() {
            i16::MAX
        } else {
            request.flexible.first
        };
        let Versions { first, last } = request.versions;
        let _ = writeln!(
            out,
            "            ApiKey::{name} => ApiInfo {{ name: \"{name}\", first: {first}, last: {last}, flexible_from: {flexible} }},"
        );
    }
    out.push_str("        }\n    }\n}\n");
}

/// The macro that hands the names of all messages to another.
pub(crate) fn every_message(out: &mut String, apis: &[Api]) {
    out.push_str(
        "/// Calls a macro with the name of every message, requests and responses, by key: for tests and fuzzers,\n\
         /// which must not forget one.\n#[macro_export]\nmacro_rules! every_message {\n    ($then:ident) => {\n        $then! {\n",
    );
    for Api {
        request, response, ..
    } in apis
    {
        let _ = writeln!(out, "            {} {}", request.name, response.name);
    }
    out.push_str("        }\n    };\n}\n");
}

/// `snake_case` of a CamelCase name.
pub(crate) fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && !letters[at - 1].is_uppercase();
        let before_lower = at > 0 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

pub(super) fn scalar(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        "bool" => ("bool", "bool"),
        "int8" => ("i8", "i8"),
        "int16" => ("i16", "i16"),
        "uint16" => ("u16", "u16"),
        "int32" => ("i32", "i32"),
        "uint32" => ("u32", "u32"),
        "int64" => ("i64", "i64"),
        "float64" => ("f64", "f64"),
        "uuid" => ("TopicId", "uuid"),
        _ => return None,
    })
}

/// Whether a struct borrows from the frame.
fn borrows(message: &Message, name: &str) -> bool {
    let item = message.structs.iter().find(|item| item.name == name);
    let item = item.unwrap_or_else(|| panic!("{}: no struct {name}", message.name));
    item.fields.iter().any(|field| {
        field.is_array
            || match field.kind.as_str() {
                "string" | "bytes" | "records" => true,
                kind => scalar(kind).is_none() && borrows(message, kind),
            }
    })
}

fn lifetime(message: &Message, name: &str) -> &'static str {
    if borrows(message, name) { "<'a>" } else { "" }
}

pub(super) fn element_type(message: &Message, kind: &str) -> String {
    match kind {
        "string" => "Cow<'a, str>".to_owned(),
        "bytes" => "Cow<'a, [u8]>".to_owned(),
        "records" => "Records<'a>".to_owned(),
        kind => match scalar(kind) {
            Some((rust, _)) => rust.to_owned(),
            None => format!("{kind}{}", lifetime(message, kind)),
        },
    }
}

pub(super) fn is_optional(field: &Field) -> bool {
    !field.null.is_empty() && field.kind != "records"
}

pub(super) fn field_type(message: &Message, field: &Field) -> String {
    let mut rust = element_type(message, &field.kind);
    if field.is_array {
        rust = format!("Array<'a, {rust}>");
    }
    if is_optional(field) {
        format!("Option<{rust}>")
    } else {
        rust
    }
}

pub(super) fn rust_name(field: &Field) -> String {
    match field.name.as_str() {
        word @ ("type" | "match" | "as" | "ref" | "self") => format!("r#{word}"),
        name => name.to_owned(),
    }
}

pub(super) fn default_value(field: &Field) -> String {
    let default = field.default.as_deref();
    if is_optional(field) {
        // An array that may be null is empty by default, unless the table says null.
        return match (default, field.is_array) {
            (None, true) => "Some(Array::default())".to_owned(),
            (None, false) if field.kind == "string" => "Some(Cow::Borrowed(\"\"))".to_owned(),
            (Some(text), false) if field.kind == "string" && text != "null" => {
                format!("Some(Cow::Borrowed(\"{text}\"))")
            }
            _ => "None".to_owned(),
        };
    }
    match (default, field.kind.as_str()) {
        (Some(text), "string") => format!("Cow::Borrowed(\"{text}\")"),
        (Some(text), kind) if scalar(kind).is_some() && !field.is_array => text.to_owned(),
        _ => "Default::default()".to_owned(),
    }
}

/// `if` condition for `versions` among those of the message; `None` if always true.
pub(super) fn condition(message: &Message, versions: Versions) -> Option<String> {
    let inside = versions.within(message.versions);
    if inside.is_empty() {
        return Some("false".to_owned());
    }
    let from =
        (inside.first > message.versions.first).then(|| format!("version >= {}", inside.first));
    let until =
        (inside.last < message.versions.last).then(|| format!("version <= {}", inside.last));
    match (from, until) {
        (Some(from), Some(until)) => Some(format!("{from} && {until}")),
        (from, until) => from.or(until),
    }
}

/// `if` condition for the versions in which the field may be null; `None` if in all that have it.
pub(super) fn null_condition(message: &Message, field: &Field) -> Option<String> {
    if !is_optional(field) {
        return Some("false".to_owned());
    }
    if field.null.covers(field.versions.within(message.versions)) {
        return None;
    }
    condition(message, field.null.within(field.versions))
}

/// Where the field stands among the others, not tagged.
pub(super) fn plain_versions(field: &Field) -> Versions {
    match field.tag {
        // Tagged in all its versions.
        Some((_, tagged)) if tagged.covers(field.versions) => Versions { first: 1, last: 0 },
        Some((_, tagged)) => Versions {
            first: field.versions.first,
            last: tagged.first - 1,
        },
        None => field.versions,
    }
}

/// Whether the field's width on the wire is known, and that of the Rust type.
pub(super) fn is_fixed(field: &Field) -> bool {
    !field.is_array && scalar(&field.kind).is_some()
}

/// The fields that are not tagged, each with its `if` condition; neighbours of fixed width stand together.
pub(super) fn plain_runs<'m>(
    message: &Message,
    item: &'m Struct,
) -> Vec<Vec<(&'m Field, Option<String>)>> {
    let fields = item.fields.iter();
    let plain = fields.map(|field| (field, condition(message, plain_versions(field))));
    let plain: Vec<_> = plain
        .filter(|(_, condition)| condition.as_deref() != Some("false"))
        .collect();
    plain
        .chunk_by(|(left, _), (right, _)| is_fixed(left) && is_fixed(right))
        .map(<[_]>::to_vec)
        .collect()
}

fn structure(out: &mut String, message: &Message, item: &Struct) {
    let name = &item.name;
    let life = lifetime(message, name);
    let _ = writeln!(
        out,
        "    /// Part of `{}`.\n    #[derive(Debug, Clone, PartialEq)]\n    pub struct {name}{life} {{",
        message.name
    );
    for field in &item.fields {
        let _ = writeln!(
            out,
            "        pub {}: {},",
            rust_name(field),
            field_type(message, field)
        );
    }
    let _ = writeln!(
        out,
        "    }}\n\n    impl Default for {name}{} {{\n        fn default() -> Self {{\n            {name} {{",
        life.replace("'a", "'_")
    );
    for field in &item.fields {
        let _ = writeln!(
            out,
            "                {}: {},",
            rust_name(field),
            default_value(field)
        );
    }
    out.push_str("            }\n        }\n    }\n\n");
    let _ = writeln!(
        out,
        "    impl<'a> Element<'a> for {name}{life} {{\n        #[inline]\n        fn decode(reader: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError> {{\n            let _ = version;"
    );
    decode::decode(out, message, item);
    out.push_str("        }\n\n        #[inline]\n        fn skip(mut reader: Reader<'a>, count: usize, version: i16) -> Result<Reader<'a>, DecodeError> {\n            let _ = version;\n");
    decode::skip(out, message, item);
    out.push_str("        }\n\n        #[inline]\n        fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {\n            let _ = version;\n");
    encode::encode(out, message, item);
    out.push_str("        }\n    }\n\n");
}

pub(super) fn guarded(out: &mut String, condition: Option<String>, body: &str) {
    match condition {
        Some(never) if never == "false" => {}
        Some(condition) => {
            let _ = writeln!(
                out,
                "            if {condition} {{\n                {body}\n            }}"
            );
        }
        None => {
            let _ = writeln!(out, "            {body}");
        }
    }
}

/// Lines of code, one level deeper.
pub(super) fn deeper(lines: &str) -> String {
    lines
        .lines()
        .flat_map(|line| ["    ", line, "\n"])
        .collect()
}
