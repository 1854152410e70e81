//! Writes the Rust of a message: its structs, how they are read and how they are written.

use std::fmt::Write;

use super::table::{Api, Field, Message, Struct, Versions};

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

fn scalar(kind: &str) -> Option<(&'static str, &'static str)> {
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

fn element_type(message: &Message, kind: &str) -> String {
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

fn is_optional(field: &Field) -> bool {
    !field.null.is_empty() && field.kind != "records"
}

fn field_type(message: &Message, field: &Field) -> String {
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

fn rust_name(field: &Field) -> String {
    match field.name.as_str() {
        word @ ("type" | "match" | "as" | "ref" | "self") => format!("r#{word}"),
        name => name.to_owned(),
    }
}

fn default_value(field: &Field) -> String {
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
fn condition(message: &Message, versions: Versions) -> Option<String> {
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

/// Where the field stands among the others, not tagged.
fn plain_versions(field: &Field) -> Versions {
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
    decode(out, message, item);
    out.push_str("        }\n\n        #[inline]\n        fn skip(mut reader: Reader<'a>, count: usize, version: i16) -> Result<Reader<'a>, DecodeError> {\n            let _ = version;\n");
    skip(out, message, item);
    out.push_str("        }\n\n        #[inline]\n        fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {\n            let _ = version;\n");
    for field in &item.fields {
        refuse_absent(out, message, field);
    }
    encode_plain(out, message, item);
    encode_tagged(out, message, item);
    out.push_str("        }\n    }\n\n");
}

fn guarded(out: &mut String, condition: Option<String>, body: &str) {
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

/// Reads each field into a variable of its own; the struct is made of them at the end.
fn decode(out: &mut String, message: &Message, item: &Struct) {
    for field in &item.fields {
        let mutable = if field.tag.is_some() { "mut " } else { "" };
        let read = decode_expression(message, field);
        let default = default_value(field);
        let value = match condition(message, plain_versions(field)).as_deref() {
            None => read,
            Some("false") => default,
            Some(condition) => format!("if {condition} {{ {read} }} else {{ {default} }}"),
        };
        let _ = writeln!(
            out,
            "            let {mutable}{}: {} = {value};",
            rust_name(field),
            field_type(message, field)
        );
    }
    tagged(out, message, item, |field| {
        format!(
            "{} = {}",
            rust_name(field),
            decode_expression(message, field)
        )
    });
    let _ = writeln!(out, "            Ok({} {{", item.name);
    for field in &item.fields {
        let _ = writeln!(out, "                {},", rust_name(field));
    }
    out.push_str("            })\n");
}

/// Passes over what `decode` reads, with the same checks. Neighbours of fixed width are one step.
fn skip(out: &mut String, message: &Message, item: &Struct) {
    out.push_str("            for _ in 0..count {\n");
    let mut fixed: Vec<String> = Vec::new();
    let take = |out: &mut String, fixed: &mut Vec<String>| {
        if !fixed.is_empty() {
            let _ = writeln!(out, "            reader.take({})?;", fixed.join(" + "));
            fixed.clear();
        }
    };
    for field in &item.fields {
        let condition = condition(message, plain_versions(field));
        if condition.as_deref() == Some("false") {
            continue;
        }
        let width = scalar(&field.kind).filter(|_| !field.is_array);
        if let Some((rust, _)) = width {
            let width = format!("size_of::<{rust}>()");
            fixed.push(match condition {
                Some(condition) => format!("{width} * usize::from({condition})"),
                None => width,
            });
            continue;
        }
        take(out, &mut fixed);
        let step = format!("{};", skip_expression(message, field));
        guarded(out, condition, &step);
    }
    take(out, &mut fixed);
    tagged(out, message, item, |field| {
        format!("{{ {}; }}", skip_expression(message, field))
    });
    out.push_str("            }\n            Ok(reader)\n");
}

fn skip_expression(message: &Message, field: &Field) -> String {
    let (null, full) = match (field.is_array, field.kind.as_str()) {
        (false, "string") => (
            "reader.skip_nullable_string()?".to_owned(),
            "reader.skip_string()?".to_owned(),
        ),
        (true, kind) => {
            let element = element_type(message, kind);
            (
                format!("reader.skip_nullable_array::<{element}>(version)?"),
                format!("reader.skip_array::<{element}>(version)?"),
            )
        }
        // Reading these builds nothing.
        (_, "bytes" | "records") => return decode_expression(message, field),
        (_, kind) if scalar(kind).is_some() => return decode_expression(message, field),
        (_, kind) => (
            format!("reader.skip_nullable_struct::<{kind}>(version)?"),
            format!("reader.skip::<{kind}>(1, version)?"),
        ),
    };
    match null_condition(message, field).as_deref() {
        Some("false") => full,
        Some(condition) => format!("if {condition} {{ {null}; }} else {{ {full}; }}"),
        None => null,
    }
}

fn decode_expression(message: &Message, field: &Field) -> String {
    let (null, full) = match (field.is_array, field.kind.as_str()) {
        (true, kind) => {
            let element = element_type(message, kind);
            (
                format!("reader.nullable_array::<{element}>(version)?"),
                format!("reader.array::<{element}>(version)?"),
            )
        }
        (_, "string") => (
            "reader.nullable_string()?".to_owned(),
            "reader.string()?".to_owned(),
        ),
        (_, "bytes") => (
            "reader.nullable_bytes()?".to_owned(),
            "reader.bytes()?".to_owned(),
        ),
        (_, "records") => return "reader.records()?".to_owned(),
        (_, kind) => match scalar(kind) {
            Some((_, method)) => return format!("reader.{method}()?"),
            None => (
                "reader.nullable_struct(version)?".to_owned(),
                format!("{kind}::decode(reader, version)?"),
            ),
        },
    };
    match null_condition(message, field).as_deref() {
        Some("false") => full,
        Some(condition) => format!("if {condition} {{ {null} }} else {{ Some({full}) }}"),
        None => null,
    }
}

/// `if` condition for the versions in which the field may be null; `None` if in all that have it.
fn null_condition(message: &Message, field: &Field) -> Option<String> {
    if !is_optional(field) {
        return Some("false".to_owned());
    }
    if field.null.covers(field.versions.within(message.versions)) {
        return None;
    }
    condition(message, field.null.within(field.versions))
}

/// The tagged fields at the end: what is done with each that the table has.
fn tagged(out: &mut String, message: &Message, item: &Struct, arm: impl Fn(&Field) -> String) {
    if message.flexible.is_empty() {
        return;
    }
    let tagged: Vec<_> = item
        .fields
        .iter()
        .filter_map(|field| field.tag.map(|tag| (field, tag)))
        .collect();
    if tagged.is_empty() {
        out.push_str("            reader.tagged(|_, _| Ok(false))?;\n");
        return;
    }
    out.push_str("            reader.tagged(|tag, reader| {\n                match tag {\n");
    for (field, (number, versions)) in tagged {
        let guard = condition(message, versions)
            .map_or(String::new(), |condition| format!(" if {condition}"));
        let _ = writeln!(
            out,
            "                    {number}{guard} => {},",
            arm(field)
        );
    }
    out.push_str("                    _ => return Ok(false),\n                }\n                Ok(true)\n            })?;\n");
}

/// Whether the field says more than its default does; `None` where that is not checked.
fn says_something(field: &Field) -> Option<String> {
    let name = rust_name(field);
    let place = format!("self.{name}");
    if is_optional(field) {
        return Some(match (default_value(field).as_str(), field.is_array) {
            ("None", _) => format!("{place}.is_some()"),
            (_, true) => format!("{place}.as_ref().is_some_and(|items| !items.is_empty())"),
            _ => format!("{place}.as_deref().is_some_and(|text| !text.is_empty())"),
        });
    }
    if field.is_array {
        return Some(format!("!{place}.is_empty()"));
    }
    match (field.kind.as_str(), field.default.as_deref()) {
        ("records" | "float64", _) => None,
        ("string" | "bytes", None) => Some(format!("!{place}.is_empty()")),
        ("string", Some(text)) => Some(format!("{place} != \"{text}\"")),
        ("bool", default) => Some(if default == Some("true") {
            format!("!{place}")
        } else {
            place
        }),
        ("uuid", _) => Some(format!("{place} != TopicId::ZERO")),
        (kind, default) if scalar(kind).is_some() => {
            Some(format!("{place} != {}", default.unwrap_or("0")))
        }
        (kind, _) => Some(format!("{place} != {kind}::default()")),
    }
}

/// Writes the fields that are not tagged. Neighbours of fixed width are one run.
fn encode_plain(out: &mut String, message: &Message, item: &Struct) {
    let plain = item.fields.iter().filter_map(|field| {
        let condition = condition(message, plain_versions(field));
        (condition.as_deref() != Some("false")).then_some((field, condition))
    });
    let plain: Vec<_> = plain.collect();
    let is_fixed = |field: &Field| !field.is_array && scalar(&field.kind).is_some();
    for fields in plain.chunk_by(|(left, _), (right, _)| is_fixed(left) && is_fixed(right)) {
        if let [(field, condition)] = fields {
            guarded(out, condition.clone(), &encode_statement(message, field));
            continue;
        }
        let widths = fields.iter().filter_map(|(field, _)| scalar(&field.kind));
        let widths: Vec<_> = widths
            .map(|(rust, _)| format!("size_of::<{rust}>()"))
            .collect();
        let _ = writeln!(
            out,
            "            writer.run::<{{ {} }}>(|run| {{",
            widths.join(" + ")
        );
        for (field, condition) in fields {
            let (_, method) = scalar(&field.kind).expect("runs are of fixed width");
            guarded(
                out,
                condition.clone(),
                &format!("run.{method}(self.{});", rust_name(field)),
            );
        }
        out.push_str("            });\n");
    }
}

/// Refuses to leave out what a version has no place for.
fn refuse_absent(out: &mut String, message: &Message, field: &Field) {
    let Some(condition) = condition(message, field.versions) else {
        return;
    };
    let Some(said) = says_something(field) else {
        return;
    };
    // A response tells what its version has room for: a handler fills in all it knows. Only a request must
    // not be sent with less than was asked for.
    if field.ignorable || message.name.ends_with("Response") {
        return;
    }
    let absent = if condition == "false" {
        "true".to_owned()
    } else {
        format!("!({condition})")
    };
    let _ = writeln!(
        out,
        "            if {absent} && {said} {{\n                return Err(EncodeError::NoSuchField {{ field: \"{}\", version }});\n            }}",
        field.name
    );
}

fn encode_statement(message: &Message, field: &Field) -> String {
    let place = format!("self.{}", rust_name(field));
    if field.kind == "records" {
        return format!("writer.records({place})?;");
    }
    if let (Some((_, method)), false) = (scalar(&field.kind), field.is_array) {
        return format!("writer.{method}({place});");
    }
    if !is_optional(field) {
        return match (field.is_array, field.kind.as_str()) {
            (false, "string") => format!("writer.string(Some(&{place}))?;"),
            (false, "bytes") => format!("writer.bytes(Some(&{place}))?;"),
            _ => format!("{place}.encode(writer, version)?;"),
        };
    }
    let all = field.null.covers(field.versions.within(message.versions));
    let null_check = if all {
        String::new()
    } else {
        let condition = condition(message, field.null.within(field.versions)).unwrap_or_default();
        format!(
            "if !({condition}) && {place}.is_none() {{ return Err(EncodeError::Null {{ field: \"{}\", version }}); }} ",
            field.name
        )
    };
    let write = match (field.is_array, field.kind.as_str()) {
        (true, _) => format!(
            "match &{place} {{ Some(items) => items.encode(writer, version)?, None => writer.count(None) }}"
        ),
        (_, "string") => format!("writer.string({place}.as_deref())?;"),
        (_, "bytes") => format!("writer.bytes({place}.as_deref())?;"),
        // Where a struct can't be null there is no byte that says so.
        _ if all => format!("writer.nullable_struct({place}.as_ref(), version)?;"),
        _ => {
            let condition =
                condition(message, field.null.within(field.versions)).unwrap_or_default();
            format!(
                "if {condition} {{ writer.nullable_struct({place}.as_ref(), version)?; }} else if let Some(value) = &{place} {{ value.encode(writer, version)?; }}"
            )
        }
    };
    format!("{null_check}{write}")
}

fn encode_tagged(out: &mut String, message: &Message, item: &Struct) {
    if message.flexible.is_empty() {
        out.push_str("            Ok(())\n");
        return;
    }
    out.push_str(
        "            if !writer.flexible() {\n                return Ok(());\n            }\n",
    );
    let mut tagged: Vec<_> = item
        .fields
        .iter()
        .filter_map(|field| field.tag.map(|tag| (field, tag)))
        .collect();
    tagged.sort_by_key(|(_, (number, _))| *number);
    if tagged.is_empty() {
        out.push_str("            writer.uvarint(0);\n            Ok(())\n");
        return;
    }
    let present = |field: &Field, versions: Versions| {
        let said = says_something(field).unwrap_or_else(|| "true".to_owned());
        condition(message, versions)
            .map_or(said.clone(), |condition| format!("{condition} && {said}"))
    };
    out.push_str("            let mut count = 0;\n");
    for (field, (_, versions)) in &tagged {
        let _ = writeln!(
            out,
            "            count += u32::from({});",
            present(field, *versions)
        );
    }
    out.push_str("            writer.uvarint(count);\n            if count == 0 {\n                return Ok(());\n            }\n");
    for (field, (number, versions)) in &tagged {
        let _ = writeln!(
            out,
            "            if {} {{\n                writer.tagged({number}, |writer| {{\n                    {}\n                    Ok(())\n                }})?;\n            }}",
            present(field, *versions),
            encode_statement(message, field)
        );
    }
    out.push_str("            Ok(())\n");
}
