"""The rows of the comparison: what is done, with how much, and what figure comes out."""

import dataclasses
import re
import subprocess
import typing

# A synced Kafka takes 40 s for the longest row on a slow disk.
RUN_TIMEOUT_S = 300
PRODUCED = re.compile(r"(\d+) delivered \(offset -?\d+, (\d+) failed\) in (\d+)ms")
CONSUMED = re.compile(r"% (\d+) messages \((\d+) bytes\) consumed in (\d+)ms")


class Void(Exception):
    """The run does not count."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row."""

    name: str
    title: str
    unit: str
    run: typing.Callable
    records: int
    record_bytes: int
    partitions: int
    # What must be reached: times Kafka as shipped, times Kafka synced.
    wanted: str
    batch: tuple = ("batch.size=65536", "linger.ms=50")
    disk_bytes: tuple = ()


def call(command):
    """Its standard output; void if it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise Void(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-300:].strip()}")
    return done.stdout


def _client(kit, broker, *words):
    return call([kit.client, broker.bootstrap, *words])


class Topic:
    """A topic for the length of one run."""

    def __init__(self, kit, broker, row):
        self.kit, self.broker, self.row, self.name = kit, broker, row, f"compare-{row.name}"

    def __enter__(self):
        _client(self.kit, self.broker, "create", self.name, self.row.partitions)
        return self

    def __exit__(self, *_):
        _client(self.kit, self.broker, "delete", self.name)

    def holds(self, records, record_bytes):
        """Consumes all partitions from the beginning; offsets are dense and the counts are right, or it is void."""
        found = _client(self.kit, self.broker, "count", self.name, self.row.partitions).split()
        if found != [str(records), str(records * record_bytes)]:
            raise Void(f"{records} records of {record_bytes} were acknowledged, {found[0]} consumed")

    def fill(self):
        """Produces the row's records, acks=all; seconds from the first to the last acknowledgement."""
        row = self.row
        settings = [word for setting in row.batch for word in ("-X", setting)]
        out = call([self.kit.rdkafka_performance, "-P", "-q", "-t", self.name, "-b", self.broker.bootstrap, "-a", -1,
                     "-s", row.record_bytes, "-c", row.records, "-i", 600_000, *settings,
                     "-X", "queue.buffering.max.messages=2000000", "-X", "queue.buffering.max.kbytes=1048576"])
        found = PRODUCED.search(out)
        if not found or (int(found[1]), int(found[2])) != (row.records, 0):
            raise Void(f"not all was delivered: {out[-200:].strip()}")
        return int(found[3]) / 1e3


def bytes_rate(kit, broker, row):
    """MB/s of values."""
    with Topic(kit, broker, row) as topic:
        seconds = topic.fill()
        topic.holds(row.records, row.record_bytes)
    return {"rate": row.records * row.record_bytes / seconds / 1e6}


def record_rate(kit, broker, row):
    """Records/s."""
    with Topic(kit, broker, row) as topic:
        seconds = topic.fill()
        topic.holds(row.records, row.record_bytes)
    return {"rate": row.records / seconds}


def one_at_a_time(kit, broker, row):
    """The median and the 99th percentile, ms, of produce to delivery."""
    return _latency(kit, broker, row, "one")


def under_load(kit, broker, row):
    """The same of a producer that sends all it can."""
    return _latency(kit, broker, row, "load")


def _latency(kit, broker, row, verb):
    with Topic(kit, broker, row) as topic:
        out = _client(kit, broker, verb, topic.name, row.record_bytes, row.records)
        taken = sorted(float(line) / 1e3 for line in out.split())
        if len(taken) != row.records:
            raise Void(f"{len(taken)} of {row.records} were timed")
        topic.holds(row.records + WARM_UP_RECORDS, row.record_bytes)
    return {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100]}


def consume(kit, broker, row):
    """GB/s of values from the first record to the last, of what was just produced."""
    with Topic(kit, broker, row) as topic:
        topic.fill()
        partitions = [word for index in range(row.partitions) for word in ("-p", index)]
        out = call([kit.rdkafka_performance, "-C", "-q", "-t", topic.name, "-b", broker.bootstrap, "-o", "beginning",
                     "-c", row.records, "-i", 600_000, *partitions, "-X", "fetch.message.max.bytes=1048576",
                     "-X", "queued.max.messages.kbytes=1048576"])
        found = CONSUMED.search(out)
        if not found or int(found[1]) < row.records:
            raise Void(f"not all was consumed: {out[-200:].strip()}")
        topic.holds(row.records, row.record_bytes)
    return {"rate": int(found[2]) / (int(found[3]) / 1e3) / 1e9}


# What `client one` and `client load` produce before they time.
WARM_UP_RECORDS = 1_000

ROWS = [
    Row("16-partitions", "1 KiB, 64 KiB batches, 16 partitions", "MB/s", bytes_rate, 400_000, 1_024, 16, "3x, 10x",
        disk_bytes=(65_536, 1 << 20)),
    Row("1000-partitions", "the same over 1,000 partitions", "MB/s", bytes_rate, 300_000, 1_024, 1_000, "3x, 8x"),
    Row("latency", "1 KiB over 16 partitions, produce to acknowledgement with 32 MiB in the client's buffer", "ms", under_load,
        400_000, 1_024, 16, "-"),
    Row("100-bytes", "100 B, 64 KiB batches, 16 partitions", "records/s", record_rate, 2_500_000, 100, 16, "2x, 6x"),
    Row("one-a-batch", "1 KiB, one record a batch, pipelined, 16 partitions", "records/s", record_rate, 12_000, 1_024,
        16, "4x, 20x", batch=("batch.num.messages=1", "linger.ms=0"), disk_bytes=(4_096,)),
    Row("one-at-a-time", "one client, one 1 KiB record at a time", "ms", one_at_a_time, 3_000, 1_024, 1,
        "p50 0.25 ms, p99 0.6 ms", disk_bytes=(4_096,)),
    Row("consume", "consume 16 partitions of 1 KiB records", "GB/s", consume, 500_000, 1_024, 16, "1.2x"),
]


def warm_up(kit, broker):
    """Lets a JVM compile and files come to be, outside of the figures."""
    for row in ROWS:
        if row.run is bytes_rate or row.run is record_rate:
            short = dataclasses.replace(row, name=f"warm-{row.name}", records=max(4_000, row.records // 4))
            short.run(kit, broker, short)
