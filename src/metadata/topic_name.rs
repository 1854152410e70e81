//! Which names a topic may have: exactly Kafka's rules, for clients check them too.

/// The longest name: Kafka made room for `-` and a partition number in a file name of 255 bytes.
/// No name reaches a path here, for directories are named by lane.
pub const NAME_BYTES_MAX: usize = 249;

/// The topics that the broker keeps for itself.
pub const INTERNAL: [&str; 3] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
];

/// The log of the controllers, which Kafka shows as a topic in `DescribeQuorum` and nowhere else.
pub const METADATA_LOG: &str = "__cluster_metadata";

/// Whether clients may not create a topic of this name.
pub fn is_reserved(name: &str) -> bool {
    is_internal(name) || name == METADATA_LOG
}

/// Whether the broker keeps a topic of this name for itself.
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Judges a name.
///
/// # Errors
/// With Kafka's sentence on what is wrong with it.
pub fn check(name: &str) -> Result<(), String> {
    let wrong = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > NAME_BYTES_MAX {
        // The name itself stays out of the sentence: it may be as long as the request.
        format!(
            "its length {} is longer than the max allowed length {NAME_BYTES_MAX}",
            name.len()
        )
    } else if !name.bytes().all(is_legal) {
        let shown = name.escape_default();
        format!(
            "'{shown}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        )
    } else {
        return Ok(());
    };
    Err(format!("Topic name is invalid: {wrong}"))
}

fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The name that clashing names have in common: metrics show `.` as `_`, so Kafka does not let
/// `a.b` and `a_b` stand side by side.
pub fn unified(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        // Proves the border of each rule from both sides.
        let longest = "x".repeat(NAME_BYTES_MAX);
        for good in [
            "a",
            "A-z_0.9",
            "...",
            "__consumer_offsets",
            longest.as_str(),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(NAME_BYTES_MAX + 1);
        for (bad, part) in [
            ("", "empty string"),
            (".", "'.' is not allowed"),
            ("..", "'..' is not allowed"),
            (too_long.as_str(), "longer than the max allowed length 249"),
            ("a/b", "'a/b' contains"),
            ("a\0b", "'a\\u{0}b' contains"),
            ("ü", "contains one or more characters"),
            ("a b", "contains one or more characters"),
        ] {
            let refused = check(bad).expect_err(bad);
            assert!(refused.contains(part), "{refused}");
        }
    }
}
