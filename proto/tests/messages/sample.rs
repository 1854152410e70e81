//! Messages made from their tables at random, byte by byte: a second encoder that knows nothing of the
//! generated one, and remembers where each count and length stands.

use crate::table::{Field, Message, Struct, Versions};

/// A small generator of random numbers (`SplitMix64`), the same run for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `of` times.
    fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// How a count or length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Compact,
    I16,
    I32,
}

/// Where a count or length stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) position: usize,
    pub(crate) size: usize,
    pub(crate) form: Form,
}

/// A message, made.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<Place>,
}

/// What to make.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    /// Any values, arrays of up to three elements.
    Any,
    /// No array empty, no field null, no tagged field left out.
    Full,
    /// As `Any`, with a tagged field in each struct that no table has.
    Unknown,
}

/// Makes `message` in `version`. `Any` and `Unknown` of one seed differ only in the unknown fields.
pub(crate) fn sample(message: &Message, version: i16, make: Make, seed: u64) -> Sample {
    let mut maker = Maker {
        message,
        version,
        flexible: holds(message.flexible, version),
        make,
        random: Random(seed),
        out: Sample {
            bytes: Vec::new(),
            lengths: Vec::new(),
        },
    };
    maker.structure(&message.structs[0], false);
    maker.out
}

fn holds(versions: Versions, version: i16) -> bool {
    (versions.first..=versions.last).contains(&version)
}

struct Maker<'m> {
    message: &'m Message,
    version: i16,
    flexible: bool,
    make: Make,
    random: Random,
    out: Sample,
}

impl Maker<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out.bytes.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out
                .bytes
                .push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        self.out.bytes.push(u8::try_from(value).unwrap());
    }

    fn length(&mut self, length: Option<usize>, fixed: Form) {
        let position = self.out.bytes.len();
        let form = if self.flexible { Form::Compact } else { fixed };
        let signed = length.map_or(-1, |length| i32::try_from(length).unwrap());
        match form {
            Form::Compact => self.varint(u64::try_from(signed + 1).unwrap()),
            Form::I16 => self.put(&i16::try_from(signed).unwrap().to_be_bytes()),
            Form::I32 => self.put(&signed.to_be_bytes()),
        }
        let size = self.out.bytes.len() - position;
        self.out.lengths.push(Place {
            position,
            size,
            form,
        });
    }

    /// `telling`: at least one field must differ from its default, or the struct would be left out.
    fn structure(&mut self, item: &Struct, telling: bool) {
        let mut tagged = Vec::new();
        let mut telling = telling;
        for field in &item.fields {
            match field.tag {
                Some((tag, versions)) if holds(versions, self.version) => tagged.push((tag, field)),
                _ if holds(field.versions, self.version) => {
                    self.value(field, telling);
                    telling = false;
                }
                _ => {}
            }
        }
        if !self.flexible {
            return;
        }
        tagged.retain(|_| self.make == Make::Full || self.random.once_in(2));
        tagged.sort_by_key(|(tag, _)| *tag);
        let unknown = self.make == Make::Unknown;
        self.varint(u64::try_from(tagged.len()).unwrap() + u64::from(unknown));
        for (tag, field) in tagged {
            let outer = std::mem::replace(
                &mut self.out,
                Sample {
                    bytes: Vec::new(),
                    lengths: Vec::new(),
                },
            );
            self.value(field, true);
            let inner = std::mem::replace(&mut self.out, outer);
            self.varint(u64::from(tag));
            self.varint(u64::try_from(inner.bytes.len()).unwrap());
            let moved = self.out.bytes.len();
            let places = inner.lengths.iter();
            self.out.lengths.extend(places.map(|place| Place {
                position: place.position + moved,
                ..*place
            }));
            self.put(&inner.bytes);
        }
        if unknown {
            // Tag 9,999: three bytes that mean nothing.
            self.varint(9_999);
            self.varint(3);
            self.put(b"???");
        }
    }

    /// `telling`: other than the default.
    fn value(&mut self, field: &Field, telling: bool) {
        let may_be_null = holds(field.null, self.version) && !telling && self.make != Make::Full;
        let null = may_be_null && self.random.once_in(4);
        if field.is_array {
            let least = u64::from(telling || self.make == Make::Full);
            let count = (!null).then(|| usize::try_from(least + self.random.below(3)).unwrap());
            self.length(count, Form::I32);
            for _ in 0..count.unwrap_or(0) {
                self.element(&field.kind, None, false);
            }
            return;
        }
        match field.kind.as_str() {
            "string" if null => self.length(None, Form::I16),
            "bytes" | "records" if null => self.length(None, Form::I32),
            kind if holds(field.null, self.version) && !is_plain(kind) => {
                self.put(&[if null { 0xff } else { 1 }]);
                if !null {
                    self.element(kind, None, telling);
                }
            }
            kind => self.element(kind, field.default.as_deref(), telling),
        }
    }

    fn element(&mut self, kind: &str, default: Option<&str>, telling: bool) {
        let most = if self.random.once_in(8) { 200 } else { 12 };
        let some = u64::from(telling || self.make == Make::Full);
        match kind {
            "string" => {
                let letters = some + self.random.below(most);
                let text: String = (0..letters).map(|_| self.letter()).collect();
                self.length(Some(text.len()), Form::I16);
                self.put(text.as_bytes());
            }
            "bytes" | "records" => {
                let bytes: Vec<u8> = (0..some + self.random.below(most))
                    .map(|_| self.random.next().to_be_bytes()[0])
                    .collect();
                self.length(Some(bytes.len()), Form::I32);
                self.put(&bytes);
            }
            "uuid" => {
                let halves = [
                    self.random.next().to_be_bytes(),
                    self.random.next().to_be_bytes(),
                ];
                self.put(&halves.concat());
            }
            "bool" if telling => self.put(&[u8::from(default != Some("true"))]),
            "bool" => {
                let bit = self.random.below(2);
                self.put(&[u8::from(bit == 1)]);
            }
            // Any bits would do for us; NaN would not equal itself.
            "float64" => {
                let whole = u32::try_from(self.random.next() >> 32).unwrap();
                self.put(&(f64::from(whole) / 8.0 + 1.0).to_be_bytes());
            }
            _ => match width(kind) {
                Some(bytes) if telling => {
                    // 2 is no field's default.
                    assert_ne!(default, Some("2"));
                    self.put(&2_u64.to_be_bytes()[8 - bytes..]);
                }
                Some(bytes) => {
                    // Small numbers and those at the edges, as well as any.
                    let number = match self.random.below(4) {
                        0 => self.random.below(3),
                        1 => u64::MAX,
                        2 => u64::MAX >> (65 - 8 * u32::try_from(bytes).unwrap()),
                        _ => self.random.next(),
                    };
                    self.put(&number.to_be_bytes()[8 - bytes..]);
                }
                None => {
                    let message = self.message;
                    let item = message.structs.iter().find(|item| item.name == kind);
                    self.structure(item.unwrap_or_else(|| panic!("no struct {kind}")), telling);
                }
            },
        }
    }

    fn letter(&mut self) -> char {
        const LETTERS: [char; 8] = ['a', 'k', 'Z', '7', '_', '.', 'ü', '界'];
        LETTERS[usize::try_from(self.random.below(8)).unwrap()]
    }
}

fn is_plain(kind: &str) -> bool {
    matches!(
        kind,
        "string" | "bytes" | "records" | "uuid" | "bool" | "float64"
    ) || width(kind).is_some()
}

fn width(kind: &str) -> Option<usize> {
    Some(match kind {
        "int8" => 1,
        "int16" | "uint16" => 2,
        "int32" | "uint32" => 4,
        "int64" => 8,
        _ => return None,
    })
}
