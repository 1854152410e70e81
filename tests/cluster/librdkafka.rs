//! librdkafka, the client below most languages' clients, through its Rust binding: what it writes is what
//! it reads, for each codec and over a listener of each mode.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::listeners::{counter, scrape};
use crate::overload::fill;
use crate::process::Broker;
use crate::wire::PATIENCE;

const RECORDS: i64 = 10_000;
const PARTITIONS: i32 = 3;
const STEP_MS: i64 = 10;
/// Longer than any correct run on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// One record as it was meant and as it must come back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Record `number`: some keys and values are null or empty, values repeat themselves so that codecs work.
fn expected(number: i64, base_ms: i64) -> Expected {
    let key = (number % 1_000 != 0).then(|| format!("key-{number}").into_bytes());
    let value = match number % 1_000 {
        1 => None,
        2 => Some(Vec::new()),
        _ => Some(
            format!(
                "{number}-{}",
                "x".repeat(usize::try_from(number % 200).unwrap())
            )
            .into_bytes(),
        ),
    };
    let header = |name: &str, value: Option<&str>| (name.to_owned(), value.map(Into::into));
    Expected {
        partition: i32::try_from(number % i64::from(PARTITIONS)).unwrap(),
        offset: number / i64::from(PARTITIONS),
        timestamp_ms: base_ms + number * STEP_MS,
        key,
        value,
        headers: vec![
            header("n", Some(&number.to_string())),
            header("twice", Some("1")),
            header("twice", Some("2")),
            header("empty", Some("")),
            header("null", None),
        ],
    }
}

/// Runs a future on this thread: the binding's admin calls are futures, and nothing else here is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

/// Partition and offset that an answer names, or why there is none.
type Place = Result<(i32, i64), String>;

/// Notes where each record went.
#[derive(Default)]
struct Deliveries(Mutex<BTreeMap<usize, Place>>);

struct Noting(Arc<Deliveries>);

impl ClientContext for Noting {}

impl ProducerContext for Noting {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let told = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.to_string()),
        };
        self.0.0.lock().unwrap().insert(number, told);
    }
}

fn config(bootstrap: SocketAddr) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap.to_string());
    config
}

/// A producer of a topic's records.
struct Sender<'a> {
    producer: BaseProducer<Noting>,
    deliveries: Arc<Deliveries>,
    topic: &'a str,
    base_ms: i64,
}

impl<'a> Sender<'a> {
    fn new(bootstrap: SocketAddr, topic: &'a str, codec: &str, base_ms: i64) -> Self {
        let deliveries = Arc::new(Deliveries::default());
        let producer = config(bootstrap)
            .set("enable.idempotence", "true")
            .set("compression.codec", codec)
            .set("linger.ms", "5")
            .create_with_context(Noting(Arc::clone(&deliveries)))
            .unwrap();
        Sender {
            producer,
            deliveries,
            topic,
            base_ms,
        }
    }

    /// Produces records `range` and checks the place that each answer names.
    fn produce(&self, range: std::ops::Range<i64>) {
        for number in range.clone() {
            let record = expected(number, self.base_ms);
            let headers =
                record
                    .headers
                    .iter()
                    .fold(OwnedHeaders::new(), |headers, (key, value)| {
                        headers.insert(Header {
                            key,
                            value: value.as_ref(),
                        })
                    });
            let mut next: BaseRecord<'_, Vec<u8>, Vec<u8>, usize> =
                BaseRecord::with_opaque_to(self.topic, usize::try_from(number).unwrap())
                    .partition(record.partition)
                    .timestamp(record.timestamp_ms)
                    .headers(headers);
            next.key = record.key.as_ref();
            next.payload = record.value.as_ref();
            while let Err((error, back)) = self.producer.send(next) {
                assert_eq!(
                    error,
                    KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)
                );
                self.producer.poll(Duration::from_millis(50));
                next = back;
            }
        }
        self.producer.flush(DEADLINE).unwrap();
        let told = self.deliveries.0.lock().unwrap();
        for number in range {
            let record = expected(number, self.base_ms);
            assert_eq!(
                told.get(&usize::try_from(number).unwrap()),
                Some(&Ok((record.partition, record.offset))),
                "the answer to record {number} of {}",
                self.topic
            );
        }
    }
}

fn consumer(bootstrap: SocketAddr) -> BaseConsumer {
    config(bootstrap)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .unwrap()
}

/// Consumes `count` records from these places, by partition and in the order of each.
fn consume(consumer: &BaseConsumer, from: &TopicPartitionList, count: usize) -> Vec<Expected> {
    consumer.assign(from).unwrap();
    let (mut found, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} came", found.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let message = message.unwrap();
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        found.push(Expected {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect(),
        });
    }
    found.sort_by_key(|record| (record.partition, record.offset));
    found
}

fn places(topic: &str, offset: Offset) -> TopicPartitionList {
    let mut places = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        places
            .add_partition_offset(topic, partition, offset)
            .unwrap();
    }
    places
}

fn same(found: &[Expected], wanted: &[Expected], what: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len(), "{what}");
}

/// Hops between cores, once the figures that are brought up to date twice a second surely are.
fn hops(admin: SocketAddr) -> u64 {
    let fresh = Instant::now() + Duration::from_millis(1_100);
    loop {
        let text = scrape(admin);
        if Instant::now() >= fresh {
            return counter(&text, "streambus_mesh_hops_total");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Topic made, records there and back from the beginning and from a timestamp, topic gone.
fn round_trip(broker: &Broker, bootstrap: SocketAddr, codec: &str, counts_hops: bool) {
    let topic = format!("rdkafka-{}-{codec}", bootstrap.port());
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
    let made = block_on(admin.create_topics([&new], &options)).unwrap();
    assert_eq!(made, [Ok(topic.clone())]);

    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let base_ms = i64::try_from(now_ms).unwrap() - 2 * RECORDS * STEP_MS;
    let mut wanted: Vec<Expected> = (0..RECORDS)
        .map(|number| expected(number, base_ms))
        .collect();
    wanted.sort_by_key(|record| (record.partition, record.offset));
    // The producer's id and the topic's making go over the mesh; the records after that do not.
    let sender = Sender::new(bootstrap, &topic, codec, base_ms);
    sender.produce(0..300);
    let before = counts_hops.then(|| hops(broker.admin));
    sender.produce(300..RECORDS);
    let reader = consumer(bootstrap);
    let all = consume(&reader, &places(&topic, Offset::Beginning), wanted.len());
    if let Some(before) = before {
        let made = hops(broker.admin) - before;
        assert_eq!(made, 0, "hops for {RECORDS} records in core mode");
    }
    same(&all, &wanted, codec);

    // A time between two records.
    let between = base_ms + RECORDS / 2 * STEP_MS + 1;
    let asked = places(&topic, Offset::Offset(between));
    let starts = reader.offsets_for_times(asked, PATIENCE).unwrap();
    let later: Vec<Expected> = wanted
        .into_iter()
        .filter(|record| record.timestamp_ms > between)
        .collect();
    for partition in 0..PARTITIONS {
        let first = later
            .iter()
            .find(|record| record.partition == partition)
            .unwrap();
        let start = starts.find_partition(&topic, partition).unwrap();
        assert_eq!(start.offset(), Offset::Offset(first.offset), "{codec}");
    }
    same(&consume(&reader, &starts, later.len()), &later, codec);

    let deleted = block_on(admin.delete_topics(&[&topic], &options)).unwrap();
    assert_eq!(deleted, [Ok(topic.clone())]);
    let left = reader.fetch_metadata(None, PATIENCE).unwrap();
    assert!(
        left.topics().iter().all(|left| left.name() != topic),
        "{topic} is still there"
    );
}

#[test]
fn records_come_back_as_they_were_for_each_codec_and_each_mode() {
    // Proves the stock client: create, produce with keys, headers and idempotence, consume by assignment
    // from the beginning and from a timestamp, every field compared, delete; and by counters that in core
    // mode its steady state makes no hop between cores.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        // Once a topic was deleted, the cores also talk about when to forget it.
        round_trip(&broker, broker.core, codec, codec == "none");
        round_trip(&broker, broker.node, codec, false);
    }
}

#[test]
fn a_consumer_that_wants_as_much_as_a_partition_may_give_is_served_at_once() {
    // Proves that fetch.min.bytes of 1 MiB, which is also the limit of a partition by default, does not wait: what a
    // whole batch more would exceed counts as reached. Each fetch would else take all of fetch.wait.max.ms.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    fill(broker.core, "bulk", 1, 24);
    let consumer: BaseConsumer = config(broker.core)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("fetch.min.bytes", "1048576")
        .set("fetch.wait.max.ms", "10000")
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset("bulk", 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&from).unwrap();
    // All of the 24 MiB except what the last fetches wait for.
    let (wanted, mut bytes) = (20 << 20, 0);
    let began = Instant::now();
    while bytes < wanted {
        assert!(began.elapsed() < DEADLINE, "{bytes} of {wanted} bytes came");
        if let Some(message) = consumer.poll(Duration::from_millis(200)) {
            bytes += message.unwrap().payload_len();
        }
    }
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "{took:?} for twenty fetches"
    );
}

#[test]
fn an_idempotent_producer_outlives_its_topic() {
    // Proves that a producer whose topic is deleted and created again goes on where it was, with batches
    // under way at that moment or without, and that none of its batches overtakes an earlier one.
    const ROUNDS: usize = 4;
    const EACH: usize = 300;
    let home = tempfile::tempdir().unwrap();
    // The producer, which asks for its topic, must not create it while it is deleted.
    let settings = [("STREAMBUS_TOPICS__AUTO_CREATE_TOPICS_ENABLE", "false")];
    let broker = Broker::start(home.path(), &settings);
    for bootstrap in [broker.core, broker.node] {
        let topic = format!("again-{}", bootstrap.port());
        let admin: AdminClient<DefaultClientContext> = config(bootstrap).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let deliveries = Arc::new(Deliveries::default());
        let producer: BaseProducer<Noting> = config(bootstrap)
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .set("batch.num.messages", "10")
            .create_with_context(Noting(Arc::clone(&deliveries)))
            .unwrap();
        for round in 0..ROUNDS {
            let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
            let made = block_on(admin.create_topics([&new], &options)).unwrap();
            assert_eq!(made, [Ok(topic.clone())]);
            for number in round * EACH..(round + 1) * EACH {
                let payload = number.to_be_bytes();
                let record: BaseRecord<'_, [u8], [u8], usize> =
                    BaseRecord::with_opaque_to(&topic, number)
                        .partition(i32::try_from(number).unwrap() % PARTITIONS)
                        .payload(&payload);
                producer.send(record).map_err(|(error, _)| error).unwrap();
                producer.poll(Duration::ZERO);
            }
            let last = round + 1 == ROUNDS;
            if last || round % 2 == 0 {
                producer.flush(DEADLINE).unwrap();
            }
            if !last {
                let deleted = block_on(admin.delete_topics(&[&topic], &options)).unwrap();
                assert_eq!(deleted, [Ok(topic.clone())]);
            }
            let fatal = producer.client().fatal_error();
            assert_eq!(fatal, None, "in round {round}");
        }
        let told = deliveries.0.lock().unwrap();
        for number in (ROUNDS - 1) * EACH..ROUNDS * EACH {
            let delivered = told.get(&number).is_some_and(Result::is_ok);
            assert!(delivered, "{number}: {:?}", told.get(&number));
        }
        let reader = consumer(bootstrap);
        let mut count = 0;
        for partition in 0..PARTITIONS {
            let (low, high) = reader
                .fetch_watermarks(&topic, partition, PATIENCE)
                .unwrap();
            count += usize::try_from(high - low).unwrap();
        }
        let all = consume(&reader, &places(&topic, Offset::Beginning), count);
        for pair in all.windows(2) {
            let [one, next] = pair else { unreachable!() };
            let in_order = one.partition < next.partition || one.value < next.value;
            assert!(in_order, "{one:?} before {next:?}");
        }
    }
}
