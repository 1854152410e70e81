"""What a broker does besides when it has run for months: old records go, small tables are merged, and somebody reads
a backlog that no memory holds."""

import contextlib
import dataclasses
import subprocess
import urllib.request

from comparison.brokers import OURS
from comparison.rows import Void, call

FEED, FEED_PARTITIONS, FEED_BYTES, FEED_RATE = "busy-feed", 16, 1_024, 8_000
# What each of its partitions keeps: 2 s of the feed. Kafka deletes whole segments, and these are as small as they may be.
FEED_SETTINGS = ("retention.bytes=1048576", "segment.bytes=1048576")
BACKLOG, BACKLOG_PARTITIONS, BACKLOG_RECORDS, BACKLOG_BYTES = "busy-backlog", 16, 4_000_000, 1_024
REREAD_MB_PER_S = 50
START_S, STOP_S = 60, 60
COUNTED = ("streambus_merges_total", "streambus_cache_misses_total")


def prepare(kit, broker):
    """Makes the topics and the backlog: 4 GB, more than our broker keeps in memory on such a machine."""
    call([kit.client, broker.bootstrap, "create", FEED, FEED_PARTITIONS, *FEED_SETTINGS])
    call([kit.client, broker.bootstrap, "create", BACKLOG, BACKLOG_PARTITIONS])
    call([kit.rdkafka_performance, "-P", "-q", "-t", BACKLOG, "-b", broker.bootstrap, "-a", -1, "-s", BACKLOG_BYTES,
          "-c", BACKLOG_RECORDS, "-i", 600_000, "-X", "batch.size=65536", "-X", "linger.ms=50",
          "-X", "queue.buffering.max.messages=2000000"])


def beside(row):
    """The same row with all that at work."""
    def run(kit, broker, _):
        with _at_work(kit, broker):
            return row.run(kit, broker, row)
    return dataclasses.replace(row, name=busy_name(row), title=f"{row.title}, busy", run=run, disk_bytes=())


def busy_name(row):
    """Its name when it is busy."""
    return f"{row.name}-busy"


@contextlib.contextmanager
def _at_work(kit, broker):
    before = counters(broker)
    feed = _begin(kit, broker, "feed", FEED, FEED_BYTES, FEED_RATE)
    try:
        reread = _begin(kit, broker, "reread", BACKLOG, BACKLOG_PARTITIONS, REREAD_MB_PER_S)
        try:
            yield
        finally:
            _end(reread)
    finally:
        _end(feed)
    for name, value in counters(broker).items():
        broker.work[name] = broker.work.get(name, 0) + value - before[name]


def _begin(kit, broker, verb, *words):
    command = [str(word) for word in (kit.client, broker.bootstrap, verb, *words)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "going\n":
        process.kill()
        raise Void(f"{verb} ended with {process.wait(STOP_S)} before it began")
    return process


def _end(process):
    process.terminate()
    code = process.wait(STOP_S)
    if code != 0:
        raise Void(f"background work ended with {code}")


def counters(broker):
    """How often what our broker did in the background; of the others nothing is known."""
    if broker.name != OURS:
        return {}
    with urllib.request.urlopen(f"http://{broker.admin}/metrics", timeout=START_S) as answer:
        lines = answer.read().decode().splitlines()
    return {name: sum(float(line.split()[-1]) for line in lines if line.startswith(name)) for name in COUNTED}


def said(kit, broker):
    """One line: what was done beside the rows."""
    start, end = (int(word) for word in call([kit.client, broker.bootstrap, "bounds", FEED, FEED_PARTITIONS]).split())
    known = "".join(f", {name} +{value:,.0f}" for name, value in broker.work.items())
    return f"{broker.name}: {end:,} records fed, {start:,} of them gone by retention{known}"
