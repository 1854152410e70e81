//! How a struct is read, and how it is passed over.

use std::fmt::Write;

use super::emit::{
    condition, deeper, default_value, element_type, field_type, guarded, is_fixed, null_condition,
    plain_runs, plain_versions, rust_name, scalar,
};
use super::table::{Field, Message, Struct};

/// Reads each field into a variable of its own; the struct is made of them at the end.
pub(super) fn decode(out: &mut String, message: &Message, item: &Struct) {
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
pub(super) fn skip(out: &mut String, message: &Message, item: &Struct) {
    let mut one = String::new();
    for fields in plain_runs(message, item) {
        match fields.as_slice() {
            [(field, condition)] if !is_fixed(field) => {
                let step = format!("{};", skip_expression(message, field));
                guarded(&mut one, condition.clone(), &step);
            }
            fields => {
                let widths: Vec<_> = fields.iter().map(width).collect();
                let _ = writeln!(one, "            reader.take({})?;", widths.join(" + "));
            }
        }
    }
    tagged(&mut one, message, item, |field| {
        format!("{{ {}; }}", skip_expression(message, field))
    });
    let one = deeper(&one);
    let _ = writeln!(
        out,
        "            for _ in 0..count {{\n{one}            }}\n            Ok(reader)"
    );
}

/// The bytes of a field of fixed width: none in versions that lack it.
fn width((field, condition): &(&Field, Option<String>)) -> String {
    let (rust, _) = scalar(&field.kind).expect("only numbers and ids are of fixed width");
    match condition {
        Some(condition) => format!("size_of::<{rust}>() * usize::from({condition})"),
        None => format!("size_of::<{rust}>()"),
    }
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
