//! Numbers that mean something, each a type of its own so that two can't be swapped.

use std::fmt;

/// Declares a number with a meaning.
macro_rules! number {
    ($(#[doc = $doc:literal] $name:ident($inner:ty);)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

number! {
    /// A record's place in its partition, from 0 without gaps.
    Offset(i64);
    /// How often a partition has changed its leader.
    LeaderEpoch(i32);
    /// A producer, as the cluster numbered it.
    ProducerId(i64);
    /// An incarnation of a producer.
    ProducerEpoch(i16);
    /// A broker, as clients of a listener see it.
    BrokerId(i32);
}

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// A topic, told apart from any other that ever had its name (KIP-516). All zeros means none.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// No topic.
    pub const ZERO: TopicId = TopicId([0; 16]);

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<TopicId> {
        if text.len() != 22 {
            return None;
        }
        let mut bits = 0_u128;
        for (place, byte) in text.bytes().enumerate() {
            let six = u128::try_from(ALPHABET.iter().position(|letter| *letter == byte)?).ok()?;
            // 22 letters hold 132 bits, the last four of them zero.
            if place < 21 {
                bits = bits << 6 | six;
            } else if six.trailing_zeros() >= 4 {
                bits = bits << 2 | six >> 4;
            } else {
                return None;
            }
        }
        Some(TopicId(bits.to_be_bytes()))
    }
}

/// Base64 for URLs (RFC 4648 §5), as Kafka prints ids.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        let mut text = String::with_capacity(22);
        for place in 0..22_u32 {
            let six = if place < 21 {
                bits >> (122 - 6 * place)
            } else {
                bits << 4
            } & 0x3f;
            let letter = usize::try_from(six)
                .ok()
                .and_then(|place| ALPHABET.get(place));
            text.push(char::from(*letter.unwrap_or(&b'A')));
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_ids_print_as_kafka_prints_them() {
        // Proves the text form against one of Kafka's (Uuid.METADATA_TOPIC_ID is ...AAAAAQ), both ways.
        let mut one = [0; 16];
        one[15] = 1;
        assert_eq!(TopicId(one).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        let id = TopicId(*b"0123456789abcdef");
        assert_eq!(TopicId::parse(&id.to_string()), Some(id));
        for wrong in [
            "",
            "AAAAAAAAAAAAAAAAAAAAAB",
            "AAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAA+Q",
        ] {
            assert_eq!(TopicId::parse(wrong), None, "{wrong}");
        }
    }
}
