//! How one setting is typed and bounded, in Kafka's terms and with Kafka's sentences.

/// A setting's type. The numbers are those of `DescribeConfigs`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32 bits.
    Int = 3,
    /// 16 bits.
    Short = 4,
    /// 64 bits.
    Long = 5,
    /// A real number.
    Double = 6,
    /// Texts with commas between.
    List = 7,
    /// The name of a Java class.
    Class = 8,
    /// Text that is never shown.
    Password = 9,
}

impl Kind {
    /// The number in `DescribeConfigs`.
    pub fn code(self) -> i8 {
        self as i8
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::String => "STRING",
            Kind::Int => "INT",
            Kind::Short => "SHORT",
            Kind::Long => "LONG",
            Kind::Double => "DOUBLE",
            Kind::List => "LIST",
            Kind::Class => "CLASS",
            Kind::Password => "PASSWORD",
        }
    }
}

/// What a setting does here.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What its documentation says.
    Has {
        /// The name of the test that shows it.
        test: &'static str,
    },
    /// Nothing: only its default is accepted, any other value is refused with the reason.
    Refused {
        /// The name of the test that shows the refusal.
        test: &'static str,
    },
    /// Nothing: it names what does not exist here. Its documentation says so; where it can be
    /// changed, the value is kept and shown.
    Absent,
}

/// Which values of the type are good.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Bound {
    /// All.
    Any,
    /// This and above.
    AtLeast(i64),
    /// These and between.
    Between(i64, i64),
    /// These and between, or one other.
    BetweenOr(i64, i64, i64),
    /// These and between, of a real number.
    Real(f64, f64),
    /// One of these texts; each of these where the type is a list.
    OneOf(&'static [&'static str]),
    /// A list of `partition:broker`, or `*`.
    ThrottledReplicas,
}

/// Judges a value.
///
/// # Errors
/// With Kafka's sentence on what is wrong with it.
pub fn check(name: &str, kind: Kind, bound: Bound, value: &str) -> Result<(), String> {
    let value = value.trim();
    judge(name, kind, bound, value)
        .map_err(|why| format!("Invalid value {value} for configuration {name}: {why}"))
}

fn judge(name: &str, kind: Kind, bound: Bound, value: &str) -> Result<(), String> {
    let number = match kind {
        Kind::Boolean => {
            return match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => Err("Expected value to be either true or false".to_owned()),
            };
        }
        Kind::Double => return real(value, bound),
        Kind::List => return list(name, bound, value),
        Kind::String | Kind::Class | Kind::Password => return text(bound, value),
        Kind::Int => value.parse::<i32>().map(i64::from).ok(),
        Kind::Short => value.parse::<i16>().map(i64::from).ok(),
        Kind::Long => value.parse::<i64>().ok(),
    };
    let Some(number) = number else {
        return Err(format!("Not a number of type {}", kind.name()));
    };
    match bound {
        Bound::AtLeast(least) | Bound::Between(least, _) if number < least => {
            Err(format!("Value must be at least {least}"))
        }
        Bound::Between(_, most) if number > most => {
            Err(format!("Value must be no more than {most}"))
        }
        Bound::BetweenOr(least, most, other)
            if number != other && !(least..=most).contains(&number) =>
        {
            Err(format!(
                "Value must be between {least} and {most} or equal to {other}"
            ))
        }
        _ => Ok(()),
    }
}

fn real(value: &str, bound: Bound) -> Result<(), String> {
    let Ok(number) = value.parse::<f64>() else {
        return Err("Not a number of type DOUBLE".to_owned());
    };
    match bound {
        Bound::Real(least, _) if number < least => Err(format!("Value must be at least {least}")),
        Bound::Real(_, most) if number > most => Err(format!("Value must be no more than {most}")),
        Bound::Real(..) if number.is_nan() => Err("Not a number of type DOUBLE".to_owned()),
        _ => Ok(()),
    }
}

fn text(bound: Bound, value: &str) -> Result<(), String> {
    match bound {
        Bound::OneOf(names) if !names.contains(&value) => {
            Err(format!("String must be one of: {}", names.join(", ")))
        }
        _ => Ok(()),
    }
}

fn list(name: &str, bound: Bound, value: &str) -> Result<(), String> {
    let items = list_items(value);
    for (at, item) in items.iter().enumerate() {
        match bound {
            Bound::OneOf(names) if !names.contains(item) => {
                return Err(format!("String must be one of: {}", names.join(", ")));
            }
            Bound::ThrottledReplicas if !is_throttled_replica(item) && items != ["*"] => {
                return Err(
                    "must be the literal '*' or a list of replicas in the following format: \
                     [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                        .to_owned(),
                );
            }
            _ => {}
        }
        if items.iter().take(at).any(|earlier| earlier == item) {
            return Err(format!(
                "Configuration '{name}' values must not be duplicated."
            ));
        }
    }
    Ok(())
}

fn is_throttled_replica(item: &str) -> bool {
    item.split_once(':').is_some_and(|(partition, broker)| {
        partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
    })
}

/// The items of a list's text: none where it is empty.
pub fn list_items(value: &str) -> Vec<&str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect()
}

/// The known name nearest to an unknown one, if it is near enough to have been meant.
pub fn suggestion<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: f64 = 0.85;
    // A client's name may be as long as its request; comparing costs the product of the lengths.
    if unknown.len() > super::topic_name::NAME_BYTES_MAX {
        return None;
    }
    known
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .filter(|(nearness, _)| *nearness >= NEAR)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

/// One setting as Kafka 4.3.1 describes it.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KafkaSetting {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) default: Option<&'static str>,
}

/// The settings that Kafka 4.3.1 describes of `owner`: "broker" or "topic".
#[cfg(test)]
pub(crate) fn kafka_settings(owner: &str) -> Vec<KafkaSetting> {
    let table = include_str!("kafka-4.3.1.tsv");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut settings = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let [of, name, kind, default] = fields[..] else {
            panic!("four fields: {line}");
        };
        if of == owner {
            settings.push(KafkaSetting {
                name,
                kind,
                default: (default != "\\N").then_some(default),
            });
        }
    }
    assert!(settings.len() > 30, "{} {owner} settings", settings.len());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn values_are_judged_as_kafka_does() {
        // Proves the border of each type and bound, and Kafka's sentences.
        const CODECS: Bound = Bound::OneOf(&["gzip", "zstd"]);
        const POLICIES: Bound = Bound::OneOf(&["compact", "delete"]);
        let cases: &[(Kind, Bound, &str, &str)] = &[
            (Kind::Boolean, Bound::Any, "true", ""),
            (Kind::Boolean, Bound::Any, "TRUE", ""),
            (Kind::Boolean, Bound::Any, "1", "either true or false"),
            (Kind::Int, Bound::AtLeast(0), "0", ""),
            (Kind::Int, Bound::AtLeast(0), " 5 ", ""),
            (
                Kind::Int,
                Bound::AtLeast(0),
                "-1",
                "Value must be at least 0",
            ),
            (
                Kind::Int,
                Bound::Any,
                "2147483648",
                "Not a number of type INT",
            ),
            (
                Kind::Short,
                Bound::Any,
                "32768",
                "Not a number of type SHORT",
            ),
            (Kind::Long, Bound::AtLeast(-1), "9223372036854775807", ""),
            (
                Kind::Long,
                Bound::Any,
                "9223372036854775808",
                "Not a number of type LONG",
            ),
            (Kind::Long, Bound::Any, "", "Not a number of type LONG"),
            (Kind::Int, Bound::Between(1, 17), "17", ""),
            (
                Kind::Int,
                Bound::Between(1, 17),
                "18",
                "Value must be no more than 17",
            ),
            (Kind::Int, Bound::BetweenOr(1, 9, -1), "-1", ""),
            (
                Kind::Int,
                Bound::BetweenOr(1, 9, -1),
                "0",
                "between 1 and 9 or equal to -1",
            ),
            (Kind::Double, Bound::Real(0.0, 1.0), "0.5", ""),
            (
                Kind::Double,
                Bound::Real(0.0, 1.0),
                "1.5",
                "Value must be no more than 1",
            ),
            (Kind::Double, Bound::Real(0.0, 1.0), "NaN", "Not a number"),
            (Kind::String, CODECS, "zstd", ""),
            (
                Kind::String,
                CODECS,
                "brotli",
                "String must be one of: gzip, zstd",
            ),
            (Kind::List, POLICIES, "compact, delete", ""),
            (Kind::List, POLICIES, "", ""),
            (
                Kind::List,
                POLICIES,
                "shred",
                "String must be one of: compact, delete",
            ),
            (
                Kind::List,
                POLICIES,
                "delete,delete",
                "must not be duplicated",
            ),
            (Kind::List, Bound::ThrottledReplicas, "*", ""),
            (Kind::List, Bound::ThrottledReplicas, "0:1,1:1", ""),
            (
                Kind::List,
                Bound::ThrottledReplicas,
                "0-1",
                "must be the literal",
            ),
        ];
        for (kind, bound, value, expected) in cases {
            match check("x.y", *kind, *bound, value) {
                Ok(()) => assert_eq!(*expected, "", "{value:?} as {kind:?} {bound:?}"),
                Err(why) => {
                    assert!(
                        !expected.is_empty() && why.contains(expected),
                        "{value:?}: {why}"
                    );
                    assert!(why.starts_with("Invalid value "), "{why}");
                }
            }
        }
    }

    #[test]
    fn a_suggestion_is_near_or_absent() {
        // Proves that a slip is mended and that nonsense is not guessed at.
        let known = || ["retention.ms", "segment.ms"].into_iter();
        assert_eq!(suggestion("retenton.ms", known()), Some("retention.ms"));
        assert_eq!(suggestion("colour", known()), None);
        assert_eq!(suggestion(&"retention.ms".repeat(99), known()), None);
    }
}
