//! How a struct is written.

use std::fmt::Write;

use super::emit::{
    condition, deeper, default_value, guarded, is_optional, plain_runs, rust_name, scalar,
};
use super::table::{Field, Message, Struct, Versions};

/// Writes all fields, once it is sure that the version has room for what they say.
pub(super) fn encode(out: &mut String, message: &Message, item: &Struct) {
    for field in &item.fields {
        refuse_absent(out, message, field);
        note_error(out, message, field);
    }
    encode_plain(out, message, item);
    encode_tagged(out, message, item);
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
    for fields in plain_runs(message, item) {
        if let [(field, condition)] = fields.as_slice() {
            guarded(out, condition.clone(), &encode_statement(message, field));
            continue;
        }
        let mut room = Vec::new();
        let mut writes = String::new();
        for (field, condition) in fields {
            let (rust, method) = scalar(&field.kind).expect("runs are of fixed width");
            room.push(format!("size_of::<{rust}>()"));
            let write = format!("run.{method}(self.{});", rust_name(field));
            guarded(&mut writes, condition, &write);
        }
        let _ = writeln!(
            out,
            "            writer.run::<{{ {} }}>(|run| {{\n{}            }});",
            room.join(" + "),
            deeper(&writes)
        );
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

/// Has the writer keep the error codes that a response answers.
fn note_error(out: &mut String, message: &Message, field: &Field) {
    if !message.name.ends_with("Response") || field.name != "error_code" {
        return;
    }
    let note = format!("writer.note_error(self.{});", rust_name(field));
    guarded(out, condition(message, field.versions), &note);
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
