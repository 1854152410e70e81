//! What a stranger may send: nothing of it may panic, allocate, or be believed.

use allocation_counter::measure;

use crate::each_version;
use crate::sample::{Form, Make, Place, Random, sample};

/// Bytes of memory that reading may take, whatever the bytes say.
const ALLOCATED_MAX: u64 = 0;

/// Replaces a count or length.
fn with_length(bytes: &[u8], place: Place, said: &[u8]) -> Vec<u8> {
    let (before, rest) = bytes.split_at(place.position);
    [before, said, &rest[place.size..]].concat()
}

#[test]
fn reading_allocates_nothing() {
    // Proves the codec's promise for every message and version: reading costs no memory, however full.
    each_version(|message, subject, version| {
        let full = sample(message, version, Make::Full, 1);
        let used = measure(|| assert!((subject.decode)(&full.bytes, version).is_ok()));
        assert_eq!(
            used.bytes_total, ALLOCATED_MAX,
            "{} {version}",
            message.name
        );
    });
}

#[test]
fn counts_that_lie_are_refused_without_memory() {
    // Proves fault row 28 at every count and length of every message, nested ones too: 2^31 - 1, a compact
    // 2^32 - 2, negative lengths other than null, and varints of six and ten bytes.
    each_version(|message, subject, version| {
        let full = sample(message, version, Make::Full, 1);
        for place in &full.lengths {
            let lies: &[&[u8]] = match place.form {
                Form::Compact => &[
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0x80, 0x80, 0x80, 0x80, 0x08],
                    &[0xff, 0xff, 0xff, 0xff, 0x1f],
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                ],
                Form::I16 => &[&[0x7f, 0xff], &[0xff, 0xfe], &[0x80, 0x00]],
                Form::I32 => &[
                    &[0x7f, 0xff, 0xff, 0xff],
                    &[0xff, 0xff, 0xff, 0xfe],
                    &[0x80, 0, 0, 0],
                ],
            };
            for said in lies {
                let bytes = with_length(&full.bytes, *place, said);
                let used = measure(|| {
                    let read = (subject.decode)(&bytes, version);
                    assert!(
                        read.is_err(),
                        "{} {version}: {said:?} at {}",
                        message.name,
                        place.position
                    );
                });
                assert_eq!(
                    used.bytes_total, ALLOCATED_MAX,
                    "{} {version}",
                    message.name
                );
            }
        }
    });
}

#[test]
fn a_message_cut_anywhere_is_refused() {
    // Proves that no prefix of a message is taken for one, and that none makes reading panic.
    each_version(|message, subject, version| {
        let full = sample(message, version, Make::Full, 1);
        for end in 0..full.bytes.len() {
            let read = (subject.decode)(&full.bytes[..end], version);
            assert!(
                read.is_err(),
                "{} {version}: {end} of {} bytes",
                message.name,
                full.bytes.len()
            );
        }
        let longer = [full.bytes.as_slice(), &[0]].concat();
        assert!(
            (subject.decode)(&longer, version).is_err(),
            "{} {version}: a byte more",
            message.name
        );
    });
}

#[test]
fn damaged_messages_are_read_or_refused() {
    // Proves that random damage and random bytes never panic nor allocate, that passing over a message checks
    // what reading it does, and that what is still read can be walked and written.
    const SEEDS: u64 = 60;
    each_version(|message, subject, version| {
        for seed in 0..SEEDS {
            let mut random = Random(seed ^ 0xdead);
            let mut bytes = sample(message, version, Make::Any, seed).bytes;
            if seed % 4 == 0 {
                bytes = (0..random.below(100))
                    .map(|_| random.next().to_be_bytes()[0])
                    .collect();
            }
            for _ in 0..=random.below(3) {
                let place = usize::try_from(random.next() >> 1).unwrap() % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = random.next().to_be_bytes()[0];
                }
            }
            let mut read = Ok(());
            let used = measure(|| read = (subject.decode)(&bytes, version));
            let at = format!("{} {version}, seed {seed}", message.name);
            let [left, skipped] = (subject.left)(&bytes, version);
            assert_eq!(
                left, skipped,
                "{at}: what is read must be what is passed over"
            );
            assert_eq!(used.bytes_total, ALLOCATED_MAX, "{at}");
            if read.is_ok() {
                assert!((subject.recode)(&bytes, version).is_ok(), "{at}");
            }
        }
    });
}
