"""A real data set through the broker: every row of the npm package vega-datasets' flights-200k.json,
keyed by its distance, into a topic of 6 partitions.

usage: flights.py produce BOOTSTRAP FILE     make the topic, send every row, wait for every answer
       flights.py check BOOTSTRAP FILE       consume all, compare each key's rows, in order, with FILE
Between the two the broker may be killed as often as you like; during `produce` too, for librdkafka
sends again what was not answered and the broker drops what it has already (idempotence).
"""

import hashlib
import json
import sys
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TOPIC = "flights"
PARTITIONS = 6
# A line is printed each time so many rows were acknowledged: the harness kills the broker at one.
PROGRESS_ROWS = 20_000
DEADLINE_S = 120


def rows(file):
    """(key, value) of every row."""
    with open(file, encoding="utf-8") as text:
        for row in json.load(text):
            yield str(row["distance"]).encode(), json.dumps(row, sort_keys=True, separators=(",", ":")).encode()


class Tally:
    """Counts rows and folds each key's rows, in their order, into a checksum."""

    def __init__(self):
        self.count = 0
        self.keys = {}

    def add(self, key, value):
        """Takes the next row of `key`."""
        digest = self.keys.setdefault(key, hashlib.sha256())
        digest.update(len(value).to_bytes(4, "big") + value)
        self.count += 1

    def checksum(self):
        """One checksum of all keys'."""
        every = hashlib.sha256()
        for key in sorted(self.keys):
            every.update(key + b"=" + self.keys[key].digest())
        return every.hexdigest()[:16]

    def line(self):
        """What is printed and compared."""
        return f"{self.count} rows, {len(self.keys)} keys, checksum {self.checksum()}"


def produce(bootstrap, file):
    """Every row is acknowledged when this returns."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)], operation_timeout=30)[TOPIC].result()
    acknowledged, failed = 0, []

    def delivered(error, _message):
        nonlocal acknowledged
        if error is not None:
            failed.append(str(error))
            return
        acknowledged += 1
        if acknowledged % PROGRESS_ROWS == 0:
            print(f"{acknowledged} rows acknowledged", flush=True)

    # A broker that is away is expected here: log_level 2 keeps librdkafka from telling it each time.
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2, "enable.idempotence": True,
                         "compression.type": "lz4", "linger.ms": 5, "message.timeout.ms": DEADLINE_S * 1000, "retry.backoff.ms": 100,
                         "reconnect.backoff.max.ms": 500, "queue.buffering.max.messages": 20_000,
                         # Small batches: a kill finds many of them under way.
                         "batch.num.messages": 500})
    sent = Tally()
    for key, value in rows(file):
        while True:
            try:
                producer.produce(TOPIC, key=key, value=value, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        sent.add(key, value)
        producer.poll(0)
    left = producer.flush(DEADLINE_S)
    if left or failed or acknowledged != sent.count:
        raise AssertionError(f"{acknowledged} of {sent.count} rows acknowledged, {left} left, errors {failed[:3]}")
    print(f"produced {sent.line()}", flush=True)


def check(bootstrap, file):
    """Fails unless each key's rows come back whole, once, and in their order."""
    wanted, found = Tally(), Tally()
    for key, value in rows(file):
        wanted.add(key, value)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": TOPIC, "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(TOPIC, p, 0) for p in range(PARTITIONS)])
    ended, home, deadline = set(), {}, time.monotonic() + DEADLINE_S
    while len(ended) < PARTITIONS:
        if time.monotonic() > deadline:
            raise AssertionError(f"partitions {sorted(set(range(PARTITIONS)) - ended)} never ended; {found.line()}")
        for message in consumer.consume(5000, 0.5):
            if message.error() is None:
                if home.setdefault(message.key(), message.partition()) != message.partition():
                    raise AssertionError(f"key {message.key()} is in two partitions")
                found.add(message.key(), message.value())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise AssertionError(str(message.error()))
    consumer.close()
    if (wanted.line(), wanted.keys.keys()) != (found.line(), found.keys.keys()):
        raise AssertionError(f"the file holds {wanted.line()}; the topic holds {found.line()}")
    print(f"consumed {found.line()} from {PARTITIONS} partitions, as in the file", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("produce", "check"):
        sys.exit(__doc__)
    {"produce": produce, "check": check}[sys.argv[1]](sys.argv[2], sys.argv[3])
