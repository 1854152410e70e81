"""aiokafka: idempotent produce with every codec, assign without a group, seek by time."""

import asyncio
import sys
import time

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import records


async def produce(bootstrap, topic, codec, expected):
    """Sends all records; each answer must name the partition and offset we expect."""
    compression = None if codec == "none" else codec
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, acks="all",
                                compression_type=compression, linger_ms=5) as producer:
        sent = [await producer.send(topic, value=r.value, key=r.key, partition=r.partition,
                                    timestamp_ms=r.timestamp_ms, headers=list(r.headers)) for r in expected]
        for want, future in zip(expected, sent):
            done = await asyncio.wait_for(future, records.DEADLINE_S)
            records.equal("delivered at", (want.partition, want.offset), (done.partition, done.offset))
            records.equal("timestamp type", 0, done.timestamp_type)


async def consume(consumer, topic, offsets, count):
    """`count` records from the given offsets on."""
    consumer.assign([TopicPartition(topic, p) for p in offsets])
    for partition, offset in offsets.items():
        consumer.seek(TopicPartition(topic, partition), offset)
    got, deadline = [], time.monotonic() + records.DEADLINE_S
    while len(got) < count and time.monotonic() < deadline:
        for batch in (await consumer.getmany(timeout_ms=500)).values():
            got += [records.Record(m.partition, m.offset, m.timestamp, m.key, m.value, tuple(m.headers))
                    for m in batch]
    return got


async def round_trip(bootstrap, codec):
    """One codec, from topic creation to deletion."""
    topic, base = records.topic_name("aiokafka", codec), records.base_ms()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, records.PARTITIONS, 1)])
        records.equal("errors of CreateTopics", [(topic, 0)], [entry[:2] for entry in answer.topic_errors])
        expected = records.records(base, codec)
        await produce(bootstrap, topic, codec, expected)
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none",
                                    enable_auto_commit=False) as consumer:
            beginning = {p: 0 for p in range(records.PARTITIONS)}
            records.compare(expected, await consume(consumer, topic, beginning, records.COUNT))
            when, offsets = records.middle(base)
            found = await consumer.offsets_for_times({TopicPartition(topic, p): when for p in offsets})
            records.equal("offsets by timestamp", offsets, {t.partition: at.offset for t, at in found.items()})
            later = records.from_offsets(expected, offsets)
            records.compare(later, await consume(consumer, topic, offsets, len(later)))
            ends = await consumer.end_offsets([TopicPartition(topic, p) for p in offsets])
            records.equal("records in all", records.COUNT, sum(ends.values()))
        answer = await admin.delete_topics([topic])
        records.equal("errors of DeleteTopics", [(topic, 0)], [entry[:2] for entry in answer.topic_error_codes])
        deadline = time.monotonic() + 10
        while topic in await admin.list_topics():
            if time.monotonic() > deadline:
                raise AssertionError("the deleted topic is still listed")
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def main(bootstrap):
    """All codecs."""
    for codec in records.CODECS:
        await round_trip(bootstrap, codec)


if __name__ == "__main__":
    records.report("aiokafka", aiokafka.__version__, lambda: asyncio.run(main(sys.argv[1])))
