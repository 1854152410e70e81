import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * The Java client: idempotent produce with every codec, assign without a group, seek by time. The
 * records are those of ../python/records.py.
 */
public final class RoundTrip {
    private static final int COUNT = 10_000;
    private static final int PARTITIONS = 3;
    private static final int STEP_MS = 10;
    private static final long DEADLINE_S = 60;

    /** One record as it was meant and as it must come back; its text compares every field. */
    private record Item(int partition, long offset, long timestampMs, byte[] key, byte[] value, List<Header> headers) {
        String text() {
            String all = headers.stream().map(h -> h.key() + "=" + Arrays.toString(h.value())).collect(Collectors.joining(","));
            return partition + "/" + offset + "@" + timestampMs + " " + Arrays.toString(key) + " " + Arrays.toString(value) + " " + all;
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static List<Item> items(long base, String codec) {
        List<Item> all = new ArrayList<>(COUNT);
        for (int i = 0; i < COUNT; i++) {
            List<Header> headers = List.of(new RecordHeader("n", bytes("" + i)), new RecordHeader("d", bytes("1")),
                new RecordHeader("d", bytes("2")), new RecordHeader("empty", new byte[0]), new RecordHeader("null", (byte[]) null));
            byte[] value = switch (i % 1000) {
                case 1 -> null;
                case 2 -> new byte[0];
                default -> bytes(codec + "-" + i + "-" + "x".repeat(i % 200));
            };
            byte[] key = i % 1000 == 0 ? null : bytes("key-" + i);
            all.add(new Item(i % PARTITIONS, i / PARTITIONS, base + (long) i * STEP_MS, key, value, headers));
        }
        return all;
    }

    private static void equal(String what, Object wanted, Object got) {
        if (!wanted.equals(got)) {
            throw new AssertionError(what + ": wanted " + wanted + ", got " + got);
        }
    }

    private static void compare(List<Item> wanted, List<Item> got) {
        Comparator<Item> order = Comparator.comparingInt(Item::partition); // stable: order of arrival within each
        List<Item> left = wanted.stream().sorted(order).toList();
        List<Item> right = got.stream().sorted(order).toList();
        for (int i = 0; i < Math.min(left.size(), right.size()); i++) {
            equal("record", left.get(i).text(), right.get(i).text());
        }
        equal("records", left.size(), right.size());
    }

    private static void produce(String bootstrap, String topic, String codec, List<Item> all) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "compression.type", codec,
            "enable.idempotence", true, "acks", "all", "linger.ms", 5);
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (Item item : all) {
                sent.add(producer.send(new ProducerRecord<>(topic, item.partition, item.timestampMs, item.key, item.value, item.headers)));
            }
            for (int i = 0; i < sent.size(); i++) {
                RecordMetadata at = sent.get(i).get(DEADLINE_S, TimeUnit.SECONDS);
                equal("delivered at", all.get(i).partition + "/" + all.get(i).offset, at.partition() + "/" + at.offset());
            }
        }
    }

    private static List<Item> consume(KafkaConsumer<byte[], byte[]> consumer, Map<TopicPartition, Long> offsets, int count) {
        consumer.assign(offsets.keySet());
        offsets.forEach(consumer::seek);
        List<Item> got = new ArrayList<>();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(DEADLINE_S);
        while (got.size() < count && System.nanoTime() < deadline) {
            for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(500))) {
                equal("timestamp type", TimestampType.CREATE_TIME, r.timestampType());
                got.add(new Item(r.partition(), r.offset(), r.timestamp(), r.key(), r.value(), List.of(r.headers().toArray())));
            }
        }
        return got;
    }

    private static void roundTrip(String bootstrap, Admin admin, String codec) throws Exception {
        long base = System.currentTimeMillis() - 2L * COUNT * STEP_MS;
        String topic = "clients-java-" + codec + "-" + System.nanoTime();
        admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1))).all().get(DEADLINE_S, TimeUnit.SECONDS);
        List<Item> all = items(base, codec);
        produce(bootstrap, topic, codec, all);

        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", false, "auto.offset.reset", "none");
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Map<TopicPartition, Long> beginning = new HashMap<>();
            Map<TopicPartition, Long> times = new HashMap<>();
            Map<TopicPartition, Long> middle = new HashMap<>();
            for (int p = 0; p < PARTITIONS; p++) {
                beginning.put(new TopicPartition(topic, p), 0L);
                times.put(new TopicPartition(topic, p), base + (long) COUNT / 2 * STEP_MS + 1);
            }
            for (int i = COUNT / 2 + 1; i <= COUNT / 2 + PARTITIONS; i++) {
                middle.put(new TopicPartition(topic, i % PARTITIONS), (long) (i / PARTITIONS));
            }
            compare(all, consume(consumer, beginning, COUNT));
            Map<TopicPartition, Long> found = new HashMap<>();
            consumer.offsetsForTimes(times).forEach((partition, at) -> found.put(partition, at.offset()));
            equal("offsets by timestamp", middle, found);
            List<Item> later = all.stream().filter(r -> r.offset >= middle.get(new TopicPartition(topic, r.partition))).toList();
            compare(later, consume(consumer, middle, later.size()));
        }
        admin.deleteTopics(List.of(topic)).all().get(DEADLINE_S, TimeUnit.SECONDS);
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
        while (admin.listTopics().names().get().contains(topic)) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError("the deleted topic is still listed");
            }
            Thread.sleep(50);
        }
    }

    public static void main(String[] arguments) {
        String name = "java " + AppInfoParser.getVersion();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                roundTrip(arguments[0], admin, codec);
            }
            System.out.println(name + ": PASS");
        } catch (Throwable error) {
            String text = error.toString().replaceAll("\\s+", " ");
            System.out.println(name + ": FAIL " + text.substring(0, Math.min(600, text.length())));
            System.exit(1);
        }
    }
}
