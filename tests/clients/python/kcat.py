"""kcat (librdkafka, by its command line): produce with every codec, consume whole and by time.

kcat can neither create nor delete a topic, nor set a partition and a timestamp for each record: the
topic is made and deleted through confluent-kafka-python, one kcat run fills one partition, and the
timestamps checked are those that kcat gave.
"""

import re
import subprocess
import sys
import time

from confluent_kafka.admin import AdminClient, NewTopic

import records

# Fields apart by \x01 (a key or value here never holds it), records by lines.
FORMAT = "%p\x01%o\x01%T\x01%k\x01%s\x01%h\n"
HEADERS = "kind=kcat,empty="


def kcat(arguments, stdin=None):
    """Runs kcat; its standard output."""
    done = subprocess.run(["kcat", *arguments], input=stdin, capture_output=True, timeout=records.DEADLINE_S,
                          check=False)
    if done.returncode != 0:
        raise AssertionError(f"kcat {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()[-300:]}")
    return done.stdout.decode()


def consume(bootstrap, topic, start):
    """All records from `start` (kcat's -o) to the ends, as fields."""
    text = kcat(["-b", bootstrap, "-C", "-t", topic, "-o", start, "-e", "-q", "-f", FORMAT])
    rows = [line.split("\x01") for line in text.splitlines()]
    rows = [(int(row[0]), int(row[1]), int(row[2]), *row[3:]) for row in rows]
    return sorted(rows)


def round_trip(bootstrap, codec):
    """One codec, from topic creation to deletion."""
    topic = records.topic_name("kcat", codec)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, records.PARTITIONS, 1)], operation_timeout=30)[topic].result()
    expected = [r for r in records.records(records.base_ms(), codec) if r.key and r.value]
    started = int(time.time() * 1000)
    for partition in range(records.PARTITIONS):
        lines = b"".join(r.key + b"\x01" + r.value + b"\n" for r in expected if r.partition == partition)
        kcat(["-b", bootstrap, "-P", "-t", topic, "-p", str(partition), "-z", codec, "-K", "\x01", "-H", "kind=kcat",
              "-H", "empty=", "-X", "enable.idempotence=true", "-X", "acks=all"], lines)
    ended = int(time.time() * 1000)

    got = consume(bootstrap, topic, "beginning")
    wanted = []
    for partition in range(records.PARTITIONS):
        own = [r for r in expected if r.partition == partition]
        wanted += [(partition, at, r.key.decode(), r.value.decode(), HEADERS) for at, r in enumerate(own)]
    for want, have in zip(wanted, got):
        records.equal("record", want, (have[0], have[1], *have[3:]))
        if not started <= have[2] <= ended:
            raise AssertionError(f"timestamp {have[2]} is not between {started} and {ended}")
    records.equal("records", len(wanted), len(got))

    middle = got[len(got) // 2][2]
    later = consume(bootstrap, topic, f"s@{middle}")
    records.equal("records from a timestamp on", after(got, middle), later)

    listing = kcat(["-b", bootstrap, "-L", "-t", topic])
    records.equal("partitions listed", records.PARTITIONS, len(re.findall(r"partition \d+, leader", listing)))
    admin.delete_topics([topic], operation_timeout=30)[topic].result()


def after(rows, when):
    """The rows from each partition's first one whose timestamp is `when` or later."""
    kept, reached = [], set()
    for row in rows:
        if row[2] >= when:
            reached.add(row[0])
        if row[0] in reached:
            kept.append(row)
    return kept


def main(bootstrap):
    """All codecs."""
    for codec in records.CODECS:
        round_trip(bootstrap, codec)


if __name__ == "__main__":
    found = re.search(r"Version (\S+) .*librdkafka (\S+)", kcat(["-V"]), re.S)
    records.report("kcat", f"{found[1]}-librdkafka-{found[2]}", lambda: main(sys.argv[1]))
