"""The records that every Python program writes and expects back; the other languages make the same.

Record i of 10,000 goes to partition i % 3 with timestamp base + 10 i, so it must come back at offset
i // 3. Every 1,000 records one has a null key, one a null value and one an empty value.
"""

import dataclasses
import sys
import time
import uuid

COUNT = 10_000
PARTITIONS = 3
STEP_MS = 10
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
# Longer than any correct run on a busy machine; the harness has its own limit above it.
DEADLINE_S = 60


@dataclasses.dataclass(frozen=True)
class Record:
    """One record as it was meant and as it must come back."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple


def base_ms():
    """A start that keeps every timestamp in the near past: within any retention, not in the future."""
    return int(time.time() * 1000) - 2 * COUNT * STEP_MS


def record(index, base, codec, null_header):
    """Record `index` of the topic of one codec; some clients can send no header with a null value."""
    value = f"{codec}-{index}-{'x' * (index % 200)}".encode()
    headers = (("n", str(index).encode()), ("d", b"1"), ("d", b"2"), ("empty", b""))
    return Record(
        partition=index % PARTITIONS,
        offset=index // PARTITIONS,
        timestamp_ms=base + index * STEP_MS,
        key=None if index % 1000 == 0 else f"key-{index}".encode(),
        value={1: None, 2: b""}.get(index % 1000, value),
        headers=(*headers, ("null", None)) if null_header else headers,
    )


def records(base, codec, null_header=True):
    """All of them, in the order of production."""
    return [record(index, base, codec, null_header) for index in range(COUNT)]


def topic_name(client, codec):
    """A name no other run uses."""
    return f"clients-{client}-{codec}-{uuid.uuid4().hex[:8]}"


def middle(base):
    """A time between two records, and for each partition the offset that it must be answered with."""
    first = COUNT // 2 + 1
    offsets = {}
    for index in range(first, first + PARTITIONS):
        offsets[index % PARTITIONS] = index // PARTITIONS
    return base + COUNT // 2 * STEP_MS + 1, offsets


def compare(expected, got):
    """Every field of every record, in each partition's order."""
    for partition in range(PARTITIONS):
        wanted = [r for r in expected if r.partition == partition]
        found = [r for r in got if r.partition == partition]
        for want, have in zip(wanted, found):
            if want != have:
                raise AssertionError(f"wanted {want}, got {have}")
        if len(wanted) != len(found):
            raise AssertionError(f"partition {partition}: wanted {len(wanted)} records, got {len(found)}")


def from_offsets(expected, offsets):
    """Those of `expected` that are at or after `offsets` (partition: offset)."""
    return [r for r in expected if r.offset >= offsets[r.partition]]


def equal(what, wanted, got):
    """Says what differs, not only that it does."""
    if wanted != got:
        raise AssertionError(f"{what}: wanted {wanted!r}, got {got!r}")


def report(client, version, work):
    """Runs `work` and prints the program's one line; the exit code says the same."""
    try:
        note = work() or ""
        print(f"{client} {version}: PASS {note}".rstrip())
    except Exception as error:  # noqa: BLE001: whatever a client throws is its result
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{client} {version}: FAIL {text[:600]}")
        sys.exit(1)
