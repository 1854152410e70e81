/* What rdkafka_performance can't do for a comparison: make and remove a topic, count what is in it,
 * produce one record at a time, time each record of a producer that sends all it can, and work at a
 * bounded pace in the background.
 *
 * usage: client BROKERS create TOPIC PARTITIONS [SETTING=VALUE ...]
 *        client BROKERS delete TOPIC
 *        client BROKERS count TOPIC PARTITIONS      prints the records that a consumer got, and their bytes
 *        client BROKERS one TOPIC BYTES COUNT       prints the microseconds of each, a line each
 *        client BROKERS load TOPIC BYTES COUNT      the same, from produce to delivery
 *        client BROKERS feed TOPIC BYTES RATE       produces RATE records a second to all partitions
 *        client BROKERS reread TOPIC PARTITIONS RATE consumes all, again and again, RATE MB a second
 *        client BROKERS bounds TOPIC PARTITIONS     prints the sums of log starts and of log ends
 *
 * `feed` and `reread` print a line when they are at it, and go on until they get SIGTERM.
 *
 * Exit code 0 when all went well, else 1 and a line on stderr.
 */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TIMEOUT_MS 60000
/* Deliveries before the figures begin: connections, metadata, a JVM that compiles. */
#define WARM_UP 1000

static char text[512];

static void fail(const char *what, const char *why) {
        fprintf(stderr, "client: %s: %s\n", what, why);
        exit(1);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
        if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) != RD_KAFKA_CONF_OK)
                fail(name, text);
}

static rd_kafka_t *start(rd_kafka_type_t type, rd_kafka_conf_t *conf) {
        rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof(text));
        if (!rk)
                fail("rd_kafka_new", text);
        return rk;
}

/* Waits for the answer of an admin request and checks each of its results. */
static void await_admin(rd_kafka_queue_t *queue, const char *what) {
        rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS);
        const rd_kafka_topic_result_t **results = NULL;
        size_t count = 0;
        if (!event)
                fail(what, "no answer");
        if (rd_kafka_event_error(event))
                fail(what, rd_kafka_event_error_string(event));
        if (rd_kafka_event_CreateTopics_result(event))
                results = rd_kafka_CreateTopics_result_topics(
                    rd_kafka_event_CreateTopics_result(event), &count);
        else
                results = rd_kafka_DeleteTopics_result_topics(
                    rd_kafka_event_DeleteTopics_result(event), &count);
        for (size_t i = 0; i < count; i++)
                if (rd_kafka_topic_result_error(results[i]))
                        fail(what, rd_kafka_err2name(rd_kafka_topic_result_error(results[i])));
        rd_kafka_event_destroy(event);
}

static void create(rd_kafka_conf_t *conf, const char *topic, int partitions, char **settings) {
        rd_kafka_t *rk          = start(RD_KAFKA_PRODUCER, conf);
        rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
        rd_kafka_NewTopic_t *one =
            rd_kafka_NewTopic_new(topic, partitions, 1, text, sizeof(text));
        const rd_kafka_metadata_t *metadata;
        int led = 0;
        for (; *settings; settings++) {
                char *value = strchr(*settings, '=');
                if (!value)
                        fail("not SETTING=VALUE", *settings);
                *value = 0;
                if (rd_kafka_NewTopic_set_config(one, *settings, value + 1))
                        fail("setting", *settings);
        }
        rd_kafka_CreateTopics(rk, &one, 1, NULL, queue);
        await_admin(queue, "create");
        /* Whether each partition has a leader is known a little later. */
        while (led < partitions) {
                rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
                led                   = 0;
                if (rd_kafka_metadata(rk, 0, rkt, &metadata, TIMEOUT_MS))
                        fail("metadata", topic);
                for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
                        led += metadata->topics[0].partitions[i].leader >= 0;
                rd_kafka_metadata_destroy(metadata);
                rd_kafka_topic_destroy(rkt);
        }
        rd_kafka_NewTopic_destroy(one);
        rd_kafka_queue_destroy(queue);
        rd_kafka_destroy(rk);
}

static void delete (rd_kafka_conf_t *conf, const char *topic) {
        rd_kafka_t *rk            = start(RD_KAFKA_PRODUCER, conf);
        rd_kafka_queue_t *queue   = rd_kafka_queue_new(rk);
        rd_kafka_DeleteTopic_t *one = rd_kafka_DeleteTopic_new(topic);
        rd_kafka_DeleteTopics(rk, &one, 1, NULL, queue);
        await_admin(queue, "delete");
        rd_kafka_DeleteTopic_destroy(one);
        rd_kafka_queue_destroy(queue);
        rd_kafka_destroy(rk);
}

static rd_kafka_t *start_consumer(rd_kafka_conf_t *conf) {
        set(conf, "group.id", "comparison");
        set(conf, "enable.auto.commit", "false");
        set(conf, "enable.partition.eof", "true");
        rd_kafka_t *rk = start(RD_KAFKA_CONSUMER, conf);
        rd_kafka_poll_set_consumer(rk);
        return rk;
}

static void assign_from_beginning(rd_kafka_t *rk, const char *topic, int partitions) {
        rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(partitions);
        for (int i = 0; i < partitions; i++)
                rd_kafka_topic_partition_list_add(all, topic, i)->offset =
                    RD_KAFKA_OFFSET_BEGINNING;
        if (rd_kafka_assign(rk, all))
                fail("assign", topic);
        rd_kafka_topic_partition_list_destroy(all);
}

static void count(rd_kafka_conf_t *conf, const char *topic, int partitions) {
        int64_t *next    = calloc((size_t)partitions, sizeof(*next));
        uint64_t records = 0, bytes = 0;
        int ended      = 0;
        rd_kafka_t *rk = start_consumer(conf);
        assign_from_beginning(rk, topic, partitions);
        while (ended < partitions) {
                rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, TIMEOUT_MS);
                if (!message)
                        fail("count", "nothing came");
                if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
                        ended++;
                } else if (message->err) {
                        fail("count", rd_kafka_message_errstr(message));
                } else {
                        /* Dense from 0: nothing is missing in between, and nothing came twice. */
                        if (message->offset != next[message->partition]++)
                                fail("count", "offsets are not dense");
                        records++;
                        bytes += message->len;
                }
                rd_kafka_message_destroy(message);
        }
        printf("%" PRIu64 " %" PRIu64 "\n", records, bytes);
        rd_kafka_consumer_close(rk);
        rd_kafka_destroy(rk);
        free(next);
}

static double now_us(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int delivered;
/* If it is there: the microseconds of each delivery. */
static int64_t *latencies;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
        (void)rk, (void)opaque;
        if (message->err)
                fail("delivery", rd_kafka_err2str(message->err));
        if (latencies)
                latencies[delivered] = rd_kafka_message_latency(message);
        delivered++;
}

/* A producer to one topic, and what it sends. */
struct producer {
        rd_kafka_t *rk;
        rd_kafka_topic_t *topic;
        char *payload;
        size_t bytes;
};

static struct producer start_producer(rd_kafka_conf_t *conf, const char *topic, size_t bytes,
                                      const char *linger_ms) {
        struct producer all = {.payload = malloc(bytes), .bytes = bytes};
        memset(all.payload, 'x', bytes);
        set(conf, "linger.ms", linger_ms);
        set(conf, "acks", "-1");
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
        all.rk    = start(RD_KAFKA_PRODUCER, conf);
        all.topic = rd_kafka_topic_new(all.rk, topic, NULL);
        return all;
}

/* One record; 0 when the client's buffer is full. */
static int produce(const struct producer *to, int partition) {
        if (!rd_kafka_produce(to->topic, partition, RD_KAFKA_MSG_F_COPY, to->payload, to->bytes,
                              NULL, 0, NULL))
                return 1;
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
                fail("produce", rd_kafka_err2str(rd_kafka_last_error()));
        return 0;
}

static void end_producer(struct producer *all) {
        rd_kafka_topic_destroy(all->topic);
        rd_kafka_destroy(all->rk);
        free(all->payload);
}

static void one(rd_kafka_conf_t *conf, const char *topic, size_t bytes, int wanted) {
        struct producer to = start_producer(conf, topic, bytes, "0");
        for (int i = 0; i < WARM_UP + wanted; i++) {
                double began = now_us();
                if (!produce(&to, 0))
                        fail("one", "the buffer is full");
                while (delivered <= i)
                        rd_kafka_poll(to.rk, 1000);
                if (i >= WARM_UP)
                        printf("%.1f\n", now_us() - began);
        }
        end_producer(&to);
}

/* As kafka-producer-perf-test does: the client's buffer of 32 MiB is always full. */
static void load(rd_kafka_conf_t *conf, const char *topic, size_t bytes, int wanted) {
        int all   = WARM_UP + wanted;
        latencies = calloc((size_t)all, sizeof(*latencies));
        set(conf, "batch.size", "65536");
        set(conf, "queue.buffering.max.kbytes", "32768");
        struct producer to = start_producer(conf, topic, bytes, "50");
        for (int i = 0; i < all;) {
                if (produce(&to, RD_KAFKA_PARTITION_UA))
                        i++;
                else
                        rd_kafka_poll(to.rk, 1);
                rd_kafka_poll(to.rk, 0);
        }
        while (delivered < all)
                rd_kafka_poll(to.rk, 1000);
        for (int i = WARM_UP; i < all; i++)
                printf("%" PRId64 "\n", latencies[i]);
        end_producer(&to);
        free(latencies);
}

static volatile sig_atomic_t stopped;

static void on_term(int number) {
        (void)number;
        stopped = 1;
}

/* Says that the work is under way. */
static void going(void) {
        puts("going");
        fflush(stdout);
}

/* Sleeps until `done` of `rate` a second are due, by a clock that began at `began`. */
static void pace(double began, double done, double rate) {
        double early = began + done / rate * 1e6 - now_us();
        if (early > 1000) {
                struct timespec rest = {(time_t)(early / 1e6), (long)early % 1000000 * 1000};
                nanosleep(&rest, NULL);
        }
}

/* Does not wait for room: what a full buffer does not take is not sent later, so the pace holds. */
static void feed(rd_kafka_conf_t *conf, const char *topic, size_t bytes, int rate) {
        set(conf, "sticky.partitioning.linger.ms", "0");
        struct producer to = start_producer(conf, topic, bytes, "50");
        double began       = now_us();
        for (int64_t i = 0; !stopped; i++) {
                int before = delivered;
                produce(&to, RD_KAFKA_PARTITION_UA);
                rd_kafka_poll(to.rk, 0);
                if (!before && delivered)
                        going();
                if (i % 100 == 99)
                        pace(began, (double)i, rate);
        }
        rd_kafka_flush(to.rk, TIMEOUT_MS);
        end_producer(&to);
}

static void reread(rd_kafka_conf_t *conf, const char *topic, int partitions, int mb_per_second) {
        set(conf, "queued.max.messages.kbytes", "16384");
        rd_kafka_t *rk = start_consumer(conf);
        double bytes = 0, began = now_us();
        int ended = partitions;
        while (!stopped) {
                if (ended == partitions) {
                        assign_from_beginning(rk, topic, partitions);
                        ended = 0;
                }
                rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, 100);
                if (!message)
                        continue;
                if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
                        ended++;
                else if (message->err)
                        fail("reread", rd_kafka_message_errstr(message));
                else if (bytes == 0)
                        going();
                bytes += (double)message->len;
                rd_kafka_message_destroy(message);
                pace(began, bytes, mb_per_second * 1e6);
        }
        rd_kafka_consumer_close(rk);
        rd_kafka_destroy(rk);
}

static void bounds(rd_kafka_conf_t *conf, const char *topic, int partitions) {
        rd_kafka_t *rk = start(RD_KAFKA_CONSUMER, conf);
        int64_t low, high, lows = 0, highs = 0;
        for (int i = 0; i < partitions; i++) {
                if (rd_kafka_query_watermark_offsets(rk, topic, i, &low, &high, TIMEOUT_MS))
                        fail("bounds", topic);
                lows += low;
                highs += high;
        }
        printf("%" PRId64 " %" PRId64 "\n", lows, highs);
        rd_kafka_destroy(rk);
}

int main(int argc, char **argv) {
        rd_kafka_conf_t *conf = rd_kafka_conf_new();
        const char *verb      = argc > 3 ? argv[2] : "";
        if (argc > 3)
                set(conf, "bootstrap.servers", argv[1]);
        signal(SIGTERM, on_term);
        if (argc >= 5 && !strcmp(verb, "create"))
                create(conf, argv[3], atoi(argv[4]), argv + 5);
        else if (argc == 4 && !strcmp(verb, "delete"))
                delete (conf, argv[3]);
        else if (argc == 5 && !strcmp(verb, "count"))
                count(conf, argv[3], atoi(argv[4]));
        else if (argc == 6 && !strcmp(verb, "one"))
                one(conf, argv[3], (size_t)atol(argv[4]), atoi(argv[5]));
        else if (argc == 6 && !strcmp(verb, "load"))
                load(conf, argv[3], (size_t)atol(argv[4]), atoi(argv[5]));
        else if (argc == 6 && !strcmp(verb, "feed"))
                feed(conf, argv[3], (size_t)atol(argv[4]), atoi(argv[5]));
        else if (argc == 6 && !strcmp(verb, "reread"))
                reread(conf, argv[3], atoi(argv[4]), atoi(argv[5]));
        else if (argc == 5 && !strcmp(verb, "bounds"))
                bounds(conf, argv[3], atoi(argv[4]));
        else
                fail("usage", "client BROKERS VERB TOPIC ...; see client.c");
        return 0;
}
