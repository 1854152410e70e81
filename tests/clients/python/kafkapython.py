"""kafka-python: idempotent produce with every codec, assign without a group, seek by time."""

import sys
import time

import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

import records


def produce(bootstrap, topic, codec, expected):
    """Sends all records; each answer must name the partition and offset we expect."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, acks="all",
                             compression_type=None if codec == "none" else codec, linger_ms=5)
    sent = [producer.send(topic, value=r.value, key=r.key, partition=r.partition,
                          timestamp_ms=r.timestamp_ms, headers=list(r.headers)) for r in expected]
    producer.flush(records.DEADLINE_S)
    for want, future in zip(expected, sent):
        done = future.get(records.DEADLINE_S)
        records.equal("delivered at", (want.partition, want.offset), (done.partition, done.offset))
    producer.close()


def consume(consumer, topic, offsets, count):
    """`count` records from the given offsets on."""
    consumer.assign([TopicPartition(topic, p) for p in offsets])
    for partition, offset in offsets.items():
        consumer.seek(TopicPartition(topic, partition), offset)
    got, deadline = [], time.monotonic() + records.DEADLINE_S
    while len(got) < count and time.monotonic() < deadline:
        for batch in consumer.poll(timeout_ms=500).values():
            got += [records.Record(m.partition, m.offset, m.timestamp, m.key, m.value, tuple(m.headers))
                    for m in batch]
    return got


def round_trip(bootstrap, codec):
    """One codec, from topic creation to deletion."""
    topic, base = records.topic_name("kafka-python", codec), records.base_ms()
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, records.PARTITIONS, 1)])
    expected = records.records(base, codec, null_header=False)
    produce(bootstrap, topic, codec, expected)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none", enable_auto_commit=False)
    beginning = {p: 0 for p in range(records.PARTITIONS)}
    records.compare(expected, consume(consumer, topic, beginning, records.COUNT))
    when, offsets = records.middle(base)
    found = consumer.offsets_for_times({TopicPartition(topic, p): when for p in offsets})
    records.equal("offsets by timestamp", offsets, {t.partition: at.offset for t, at in found.items()})
    later = records.from_offsets(expected, offsets)
    records.compare(later, consume(consumer, topic, offsets, len(later)))
    consumer.close()
    admin.delete_topics([topic])
    deadline = time.monotonic() + 10
    while topic in admin.list_topics():
        if time.monotonic() > deadline:
            raise AssertionError("the deleted topic is still listed")
        time.sleep(0.05)
    admin.close()


def main(bootstrap):
    """All codecs."""
    for codec in records.CODECS:
        round_trip(bootstrap, codec)


if __name__ == "__main__":
    records.report("kafka-python", kafka.__version__, lambda: main(sys.argv[1]))
