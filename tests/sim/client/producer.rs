//! A producer: records go in, a task sends batches and retries them, and each end is written down.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use streambus_client::partition::TopicPartition;
use streambus_client::produce::{self, produce_request, results_of};
use streambus_client::producer::{
    BatchId, BatchResult, Delivery, DeliveryError, Producer, ProducerConfig, ToSend,
};
use streambus_client::reaction::{Reaction, reaction};
use streambus_client::request::Reply;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, Offset, TopicId};
use streambus_proto::records::{Header, NewRecord};
use streambus_shards::sync::Notify;
use streambus_shards::{Task, sleep, spawn, timeout, wall_ms};

use super::link::Link;
use super::{CallError, Client, clock_ms};
use crate::history::{Acks, End, Recorder, Send, SendId, Value, is_tombstone, key_of, payload};

/// How a producer works.
#[derive(Debug, Clone, Copy)]
pub struct ProducerPlan {
    /// Its number: the first half of what its records say.
    pub number: u32,
    /// What it asks for.
    pub acks: Acks,
    /// How it collects and retries. Idempotence needs [`Acks::All`].
    pub config: ProducerConfig,
}

/// A producer and the task that works for it.
pub struct ProducerTask {
    shared: Rc<Shared>,
    _task: Task<()>,
}

struct Shared {
    client: Rc<Client>,
    plan: ProducerPlan,
    recorder: Recorder,
    core: RefCell<Producer>,
    /// By batch: its records, by their place in it.
    sends: RefCell<BTreeMap<BatchId, Vec<SendId>>>,
    /// The connection to each broker that carries what is under way.
    carriers: RefCell<BTreeMap<BrokerId, Rc<Link>>>,
    next_sequence: Cell<u32>,
    /// Rung when there is something to send, or an answer came.
    news: Notify,
    /// Rung when something ended.
    ended: Notify,
}

/// The longest that the task sleeps without looking.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl ProducerTask {
    /// A producer that holds nothing yet.
    ///
    /// # Panics
    /// If it is idempotent without asking all replicas.
    pub fn new(client: Rc<Client>, plan: ProducerPlan, recorder: Recorder) -> ProducerTask {
        assert!(
            plan.acks == Acks::All || !plan.config.idempotent,
            "idempotence needs acks=all"
        );
        let shared = Rc::new(Shared {
            client,
            core: RefCell::new(Producer::new(plan.config)),
            plan,
            recorder,
            sends: RefCell::default(),
            carriers: RefCell::default(),
            next_sequence: Cell::new(0),
            news: Notify::new(),
            ended: Notify::new(),
        });
        let task = spawn(Rc::clone(&shared).work());
        ProducerTask {
            shared,
            _task: task,
        }
    }

    /// Takes a record of about so many bytes for a partition that the client knows. Returns whether there
    /// was room, and the topic is known.
    pub fn send(&self, to: &TopicPartition, bytes: usize) -> bool {
        let shared = &self.shared;
        let Some(log) = shared.client.log_of(to) else {
            return false;
        };
        let sequence = shared.next_sequence.get();
        let value = Value {
            producer: shared.plan.number,
            sequence,
        };
        let payload = payload(value, bytes);
        let compacted = shared.recorder.with(|history| history.is_compacted(log));
        let key = key_of(value);
        let deletes = compacted && is_tombstone(value);
        let header = Header {
            key: b"value",
            value: Some(&payload),
        };
        let record = NewRecord {
            timestamp: wall_ms(),
            key: compacted.then_some(&key),
            value: (!deletes).then_some(&payload),
            headers: if deletes {
                std::slice::from_ref(&header)
            } else {
                &[]
            },
        };
        let taken = shared.core.borrow_mut().append(to, &record, clock_ms());
        let Ok(ticket) = taken else {
            return false;
        };
        shared.next_sequence.set(sequence + 1);
        let send = Send {
            value,
            log,
            acks: shared.plan.acks,
            idempotent: shared.plan.config.idempotent,
            invoked: shared.recorder.now(),
            end: None,
            sendings: 0,
            out_of_order: false,
        };
        let id = shared.recorder.with(|history| history.send(send));
        let mut sends = shared.sends.borrow_mut();
        sends.entry(ticket.batch).or_default().push(id);
        shared.news.notify_one();
        true
    }

    /// Waits until all that was taken has ended, one way or another, or `limit` is over.
    pub async fn flush(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let ended = self.shared.ended.notified();
                if self.shared.core.borrow().is_idle() {
                    return;
                }
                ended.await;
            }
        };
        timeout(limit, idle).await.is_ok()
    }
}

type Batch = (BatchId, TopicPartition, TopicId);

impl Shared {
    async fn work(self: Rc<Self>) {
        loop {
            self.keep_identity().await;
            let waiting: Vec<TopicPartition> =
                self.core.borrow().waiting_partitions().cloned().collect();
            self.client.find_leaders(&waiting).await;
            let sends = self.core.borrow_mut().take_ready(
                |partition| self.client.leader(partition),
                false,
                clock_ms(),
            );
            let mut by_broker: BTreeMap<BrokerId, Vec<ToSend>> = BTreeMap::new();
            for send in sends {
                by_broker.entry(send.broker).or_default().push(send);
            }
            for (broker, sends) in by_broker {
                self.send_to(broker, sends).await;
            }
            let expired = self.core.borrow_mut().expire(clock_ms());
            self.end(expired);
            let wake_at = self.core.borrow().wake_at_ms();
            let pause = wake_at.map_or(LOOK_EVERY, |at| {
                Duration::from_millis(at.saturating_sub(clock_ms()).max(1)).min(LOOK_EVERY)
            });
            let _ = timeout(pause, self.news.notified()).await;
        }
    }

    /// Asks for an identity until there is one, if one is needed.
    async fn keep_identity(&self) {
        while self.core.borrow().needs_identity() {
            if let Ok((id, epoch)) = self.client.init_producer_id().await {
                let given_up = self.core.borrow_mut().set_identity(id, epoch);
                self.end(given_up);
            } else {
                let expired = self.core.borrow_mut().expire(clock_ms());
                self.end(expired);
                sleep(self.client.config().retry_pause).await;
            }
        }
    }

    /// Sends batches: one of a partition in each request, as the protocol has it, and all over the connection
    /// that carries what went before. On a new one, a batch would overtake those that the old one lost.
    async fn send_to(self: &Rc<Self>, broker: BrokerId, mut sends: Vec<ToSend>) {
        let link = self.client.link(Some(broker)).await.ok();
        let link = link.filter(|link| self.may_use(broker, link));
        let Some(link) = link else {
            return self.lose(sends);
        };
        while !sends.is_empty() {
            let mut taken: Vec<ToSend> = Vec::new();
            let mut rest = Vec::new();
            for send in sends {
                let again = taken.iter().any(|other| other.partition == send.partition);
                if again { &mut rest } else { &mut taken }.push(send);
            }
            // A broker reads the parts in the order of the request, which groups them by topic.
            taken.sort_by(|a, b| a.partition.topic.cmp(&b.partition.topic));
            if !self.request(broker, &link, &taken) {
                return self.lose(rest);
            }
            sends = rest;
        }
    }

    /// Whether nothing is under way to a broker over another connection than this; notes this one.
    fn may_use(&self, broker: BrokerId, link: &Rc<Link>) -> bool {
        let mut carriers = self.carriers.borrow_mut();
        let carrier = carriers.entry(broker).or_insert_with(|| Rc::clone(link));
        // Each request under way holds its connection.
        if !Rc::ptr_eq(carrier, link) && Rc::strong_count(carrier) == 1 {
            *carrier = Rc::clone(link);
        }
        Rc::ptr_eq(carrier, link)
    }

    /// What was not sent goes again, behind what was lost.
    fn lose(&self, sends: Vec<ToSend>) {
        for send in sends {
            let ended = self
                .core
                .borrow_mut()
                .finished(send.batch, BatchResult::Lost, clock_ms());
            self.end(ended);
        }
        self.news.notify_one();
    }

    /// Sends a request; returns whether it went out.
    fn request(self: &Rc<Self>, broker: BrokerId, link: &Rc<Link>, sends: &[ToSend]) -> bool {
        let batches: Vec<Batch> = sends
            .iter()
            .map(|send| {
                let log = self.client.log_of(&send.partition);
                let topic = log.map(|log| log.topic).unwrap_or_default();
                (send.batch, send.partition.clone(), topic)
            })
            .collect();
        let parts: Vec<_> = sends
            .iter()
            .zip(&batches)
            .map(|(send, (_, _, topic))| (&send.partition, *topic, send.bytes.len()))
            .collect();
        let acks = match self.plan.acks {
            Acks::None => produce::Acks::None,
            Acks::Leader => produce::Acks::Leader,
            Acks::All => produce::Acks::All,
        };
        let request = produce_request(&parts, acks);
        let spliced: Vec<&[u8]> = sends.iter().map(|send| &*send.bytes).collect();
        self.count_sendings(sends);
        if self.plan.acks == Acks::None {
            let sent = link.send_unanswered(&request, &spliced);
            let outcome = sent.map_or(BatchResult::Lost, |()| BatchResult::Stored(None));
            self.finish(&batches, outcome);
            return outcome != BatchResult::Lost;
        }
        match link.send(&request, &spliced) {
            Err(_) => {
                self.client.forget(Some(broker), link);
                self.finish(&batches, BatchResult::Lost);
                false
            }
            Ok(awaited) => {
                let (shared, link) = (Rc::clone(self), Rc::clone(link));
                let waiting = async move {
                    let answered = awaited
                        .answer()
                        .await
                        .and_then(|answer| Ok(results_of(&Reply::new(answer), &batches)?));
                    if answered.is_err() {
                        shared.client.forget(Some(broker), &link);
                    }
                    shared.settle(&batches, answered);
                };
                spawn(waiting).detach();
                true
            }
        }
    }

    fn count_sendings(&self, sends: &[ToSend]) {
        let by_batch = self.sends.borrow();
        self.recorder.with(|history| {
            let ids = sends.iter().filter_map(|send| by_batch.get(&send.batch));
            for id in ids.flatten() {
                history.sending(*id);
            }
        });
    }

    fn settle(&self, batches: &[Batch], answered: Result<Vec<produce::BatchAnswer>, CallError>) {
        let mut unanswered = batches.to_vec();
        for answer in answered.unwrap_or_default() {
            unanswered.retain(|(batch, ..)| *batch != answer.batch);
            if let BatchResult::Refused(code) = answer.outcome
                && reaction(code) == Reaction::RefreshAndRetry
            {
                self.client.suspect();
            }
            let mut core = self.core.borrow_mut();
            let ended = core.finished(answer.batch, answer.outcome, clock_ms());
            drop(core);
            let out_of_order = BatchResult::Refused(ErrorCode::OutOfOrderSequenceNumber);
            if ended.is_some() && answer.outcome == out_of_order {
                // One behind others would be sent again.
                self.note_out_of_order(answer.batch);
            }
            self.end(ended);
        }
        self.finish(&unanswered, BatchResult::Lost);
    }

    fn finish(&self, batches: &[Batch], outcome: BatchResult) {
        for (batch, ..) in batches {
            let mut core = self.core.borrow_mut();
            let ended = core.finished(*batch, outcome, clock_ms());
            drop(core);
            self.end(ended);
        }
        self.news.notify_one();
    }

    fn note_out_of_order(&self, batch: BatchId) {
        let by_batch = self.sends.borrow();
        self.recorder.with(|history| {
            for id in by_batch.get(&batch).into_iter().flatten() {
                history.out_of_order(*id);
            }
        });
    }

    /// Writes down what became of batches.
    fn end(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut deliveries = deliveries.into_iter().peekable();
        if deliveries.peek().is_none() {
            // Nobody's wait is over: ringing would have the task wake itself for ever.
            return;
        }
        let at = self.recorder.now();
        for delivery in deliveries {
            let sends = self.sends.borrow_mut().remove(&delivery.batch);
            let sends = sends.unwrap_or_default();
            assert_eq!(
                i32::try_from(sends.len()).ok(),
                Some(delivery.record_count),
                "each record of a batch was noted"
            );
            self.recorder.with(|history| {
                for (place, id) in (0_i64..).zip(sends) {
                    let end = match delivery.result {
                        Ok(base) => End::Stored(base.map(|base| Offset(base.0 + place))),
                        Err(DeliveryError::Unknown) => End::Unknown,
                        Err(DeliveryError::Refused(code)) => End::Refused(code.code()),
                        Err(DeliveryError::Expired) => End::Refused(0),
                    };
                    history.sent(id, at, end);
                }
            });
        }
        self.news.notify_one();
        self.ended.notify_all();
    }
}
