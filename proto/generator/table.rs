//! The message tables: one file an API, a line a field.
//!
//! ```text
//! api KEY NAME
//! request FIRST-LAST flexible FROM+            (or `flexible none`)
//!   field type versions [null VERSIONS] [tag N VERSIONS] [default VALUE] [ignorable]
//!     a struct's fields are indented below it
//!   struct NAME VERSIONS                       a struct used by several fields
//! response ...
//! ```
//! In a request, `ignorable` fields are left out silently in versions that have no place for them; any other that
//! differs from its default is an error there. In a response all are left out.

/// A range of versions, both ends included; empty if `first > last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) first: i16,
    pub(crate) last: i16,
}

impl Versions {
    const NONE: Versions = Versions { first: 1, last: 0 };

    fn parse(text: &str) -> Versions {
        let number = |text: &str| {
            text.parse()
                .unwrap_or_else(|_| panic!("not a version: {text}"))
        };
        if text == "none" {
            return Versions::NONE;
        }
        if let Some(first) = text.strip_suffix('+') {
            return Versions {
                first: number(first),
                last: i16::MAX,
            };
        }
        match text.split_once('-') {
            Some((first, last)) => Versions {
                first: number(first),
                last: number(last),
            },
            None => Versions {
                first: number(text),
                last: number(text),
            },
        }
    }

    pub(crate) fn within(self, other: Versions) -> Versions {
        Versions {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.first > self.last
    }

    pub(crate) fn covers(self, other: Versions) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Without the `[]` of an array.
    pub(crate) kind: String,
    pub(crate) is_array: bool,
    pub(crate) versions: Versions,
    pub(crate) null: Versions,
    pub(crate) tag: Option<(u32, Versions)>,
    pub(crate) default: Option<String>,
    pub(crate) ignorable: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// `ProduceRequest`.
    pub(crate) name: String,
    pub(crate) versions: Versions,
    pub(crate) flexible: Versions,
    /// The message itself first, then the structs inside.
    pub(crate) structs: Vec<Struct>,
}

#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) key: i16,
    pub(crate) name: String,
    pub(crate) request: Message,
    pub(crate) response: Message,
}

/// Reads one table.
pub(crate) fn parse(text: &str) -> Api {
    let mut lines = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .peekable();
    let head: Vec<&str> = lines
        .next()
        .expect("a table has a head")
        .split_whitespace()
        .collect();
    let [_, key, name] = head.as_slice() else {
        panic!("expected `api KEY NAME`: {head:?}")
    };
    let mut messages = Vec::new();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, versions, _, flexible] = words.as_slice() else {
            panic!("in {name}: {line}")
        };
        let suffix = if *kind == "request" {
            "Request"
        } else {
            "Response"
        };
        let mut message = Message {
            name: format!("{name}{suffix}"),
            versions: Versions::parse(versions),
            flexible: Versions::parse(flexible),
            structs: Vec::new(),
        };
        let mut body = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
            body.push(line);
        }
        let own = message.name.clone();
        collect(own, &body, 2, &mut message.structs);
        messages.push(message);
    }
    let response = messages.pop().expect("a table has a response");
    let request = messages.pop().expect("a table has a request");
    Api {
        key: key.parse().expect("a key is a number"),
        name: (*name).to_owned(),
        request,
        response,
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Collects a struct of the lines at `depth` and, after it, those below.
fn collect(name: String, lines: &[&str], depth: usize, structs: &mut Vec<Struct>) {
    let own = structs.len();
    structs.push(Struct {
        name,
        fields: Vec::new(),
    });
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        assert_eq!(indent(line), depth, "indentation of `{line}`");
        let below = lines[at + 1..]
            .iter()
            .take_while(|line| indent(line) > depth)
            .count();
        let inside = &lines[at + 1..at + 1 + below];
        at += 1 + below;
        if let Some(shared) = line.trim().strip_prefix("struct ") {
            let name = shared
                .split_whitespace()
                .next()
                .expect("a struct has a name");
            collect(name.to_owned(), inside, depth + 2, structs);
            continue;
        }
        let field = parse_field(line);
        if !inside.is_empty() {
            collect(field.kind.clone(), inside, depth + 2, structs);
        }
        structs[own].fields.push(field);
    }
}

fn parse_field(line: &str) -> Field {
    let mut words = line.split_whitespace();
    let mut next = || words.next();
    let name = next().expect("a field has a name").to_owned();
    let kind = next().unwrap_or_else(|| panic!("no type: {line}"));
    let versions = Versions::parse(next().unwrap_or_else(|| panic!("no versions: {line}")));
    let mut field = Field {
        name,
        kind: kind.trim_start_matches("[]").to_owned(),
        is_array: kind.starts_with("[]"),
        versions,
        null: Versions::NONE,
        tag: None,
        default: None,
        ignorable: false,
    };
    while let Some(word) = next() {
        let mut value = || next().unwrap_or_else(|| panic!("`{word}` needs a value: {line}"));
        match word {
            "null" => field.null = Versions::parse(value()),
            "tag" => {
                let number = value().parse().expect("a tag is a number");
                field.tag = Some((number, Versions::parse(value())));
            }
            "default" => field.default = Some(value().to_owned()),
            "ignorable" => field.ignorable = true,
            _ => panic!("unknown word `{word}`: {line}"),
        }
    }
    field
}
