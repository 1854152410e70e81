"""confluent-kafka-python (librdkafka): idempotent produce with every codec, assign, seek by time."""

import sys
import time

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import records


def produce(bootstrap, topic, codec, expected):
    """Sends all records; each delivery report must name the partition and offset we expect."""
    wrong = []

    def delivered(want):
        def check(error, message):
            if error is not None:
                wrong.append(str(error))
            elif (message.partition(), message.offset()) != (want.partition, want.offset):
                wrong.append(f"{want} was reported at {message.partition()}/{message.offset()}")
        return check

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True,
                         "compression.type": codec, "linger.ms": 5})
    for want in expected:
        producer.produce(topic, partition=want.partition, key=want.key, value=want.value,
                         headers=list(want.headers), timestamp=want.timestamp_ms, on_delivery=delivered(want))
        producer.poll(0)
    records.equal("records never delivered", 0, producer.flush(records.DEADLINE_S))
    records.equal("wrong deliveries", [], wrong[:3])


def consume(consumer, topic, offsets, count):
    """`count` records from the given offsets on, then the end of every partition."""
    consumer.assign([TopicPartition(topic, p, o) for p, o in offsets.items()])
    got, ended, deadline = [], set(), time.monotonic() + records.DEADLINE_S
    while len(ended) < len(offsets) and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.5):
            if message.error() is not None:
                if message.error().code() != confluent_kafka.KafkaError._PARTITION_EOF:
                    raise AssertionError(str(message.error()))
                ended.add(message.partition())
                continue
            kind, timestamp = message.timestamp()
            records.equal("timestamp type", confluent_kafka.TIMESTAMP_CREATE_TIME, kind)
            got.append(records.Record(message.partition(), message.offset(), timestamp, message.key(),
                                      message.value(), tuple(message.headers() or ())))
    records.equal("records until the end of each partition", count, len(got))
    return got


def round_trip(bootstrap, codec):
    """One codec, from topic creation to deletion."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic, base = records.topic_name("confluent", codec), records.base_ms()
    admin.create_topics([NewTopic(topic, records.PARTITIONS, 1)], operation_timeout=30)[topic].result()
    expected = records.records(base, codec)
    produce(bootstrap, topic, codec, expected)

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "error", "fetch.wait.max.ms": 100})
    beginning = {p: 0 for p in range(records.PARTITIONS)}
    records.compare(expected, consume(consumer, topic, beginning, records.COUNT))
    when, offsets = records.middle(base)
    found = consumer.offsets_for_times([TopicPartition(topic, p, when) for p in offsets], timeout=30)
    records.equal("offsets by timestamp", offsets, {t.partition: t.offset for t in found})
    later = records.from_offsets(expected, offsets)
    got = consume(consumer, topic, offsets, len(later))
    records.compare(later, got)
    consumer.close()

    admin.delete_topics([topic], operation_timeout=30)[topic].result()
    wait_gone(admin, topic)


def wait_gone(admin, topic):
    """Deletion is done when the broker lists the topic no more."""
    deadline = time.monotonic() + 10
    while topic in admin.list_topics(timeout=10).topics:
        if time.monotonic() > deadline:
            raise AssertionError("the deleted topic is still listed")
        time.sleep(0.05)


def main(bootstrap):
    """All codecs."""
    for codec in records.CODECS:
        round_trip(bootstrap, codec)


if __name__ == "__main__":
    records.report("confluent-kafka-python", confluent_kafka.version()[0] if isinstance(
        confluent_kafka.version(), tuple) else confluent_kafka.version(), lambda: main(sys.argv[1]))
