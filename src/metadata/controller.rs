//! The controller: one task on the control core through which every change of the metadata goes.
//!
//! It decides on an image that is ahead of what is durable, writes all that it decided with one
//! sync, has every core absorb it, and only then answers: whoever is told that a topic exists finds
//! it at every core. Commands that come meanwhile wait for the next round.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use streambus_proto::error_code::ErrorCode;
use streambus_shards::DiskError;
use streambus_shards::sync::{Notify, Slot};

use super::apply::{Limits, apply};
use super::command::{Command, Refusal};
use super::delta::Delta;
use super::image::Image;
use super::log::{LogError, MetadataLog};

/// What a command came to.
pub type Decision = Result<Arc<Delta>, Refusal>;

/// How many commands may wait. Each is a client's request that waits, so this many clients wait
/// for one disk; a further one is better told at once.
const WAITING_MAX: usize = 4_096;

/// Whoever gets commands decided: the controller itself, or the way to its core.
pub trait Submit {
    /// Decides a command and makes it true. When the delta comes back, every core has it.
    fn submit(&self, command: Command) -> impl Future<Output = Decision>;
}

/// Brings deltas to the cores.
pub trait Publish {
    /// Has every core absorb these, in order. Done when the last one has.
    fn publish(&self, deltas: &[Arc<Delta>]) -> impl Future<Output = ()>;
}

struct Waiting {
    command: Command,
    answer: Rc<Slot<Decision>>,
}

/// The queue in front of the controller's loop. Lives on the control core.
pub struct Controller {
    limits: Limits,
    waiting: RefCell<VecDeque<Waiting>>,
    came: Notify,
    /// Why nothing is decided any more.
    stopped: RefCell<Option<Refusal>>,
}

impl Submit for Controller {
    async fn submit(&self, command: Command) -> Decision {
        let answer = self.enqueue(command)?;
        answer.take().await
    }
}

impl Controller {
    /// A controller that nobody runs yet: commands wait.
    pub fn new(limits: Limits) -> Controller {
        Controller {
            limits,
            waiting: RefCell::new(VecDeque::new()),
            came: Notify::new(),
            stopped: RefCell::new(None),
        }
    }

    fn enqueue(&self, command: Command) -> Result<Rc<Slot<Decision>>, Refusal> {
        if let Some(refusal) = &*self.stopped.borrow() {
            return Err(refusal.clone());
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} changes of the metadata wait already; try again");
            return Err(Refusal::new(ErrorCode::RequestTimedOut, message));
        }
        let answer = Rc::new(Slot::new());
        waiting.push_back(Waiting {
            command,
            answer: Rc::clone(&answer),
        });
        self.came.notify_one();
        Ok(answer)
    }

    /// Decides commands for ever. `image` is what the log holds.
    ///
    /// # Errors
    /// When the log fails: the node must stop, for what is on disk is not known any more. Waiting
    /// commands and later ones are refused.
    pub async fn run(
        &self,
        mut image: Image,
        mut log: MetadataLog,
        publisher: &impl Publish,
    ) -> Result<(), LogError> {
        loop {
            let came = self.came.notified();
            if self.waiting.borrow().is_empty() {
                came.await;
                continue;
            }
            if let Err(failure) = self.round(&mut image, &mut log, publisher).await {
                self.stop(&failure);
                return Err(failure);
            }
        }
    }

    /// Decides what waits, as far as one write of the log takes it.
    async fn round(
        &self,
        image: &mut Image,
        log: &mut MetadataLog,
        publisher: &impl Publish,
    ) -> Result<(), LogError> {
        let decided = self.decide(image, log);
        if decided.is_empty() {
            return self.make_room(image, log).await;
        }
        let deltas: Vec<Arc<Delta>> = decided
            .iter()
            .filter_map(|(_, decision)| decision.clone().ok())
            .collect();
        if !deltas.is_empty() {
            log.commit().await?;
            publisher.publish(&deltas).await;
        }
        // Refusals wait, too: "it exists already" may rest on what was not durable before.
        for (answer, decision) in decided {
            answer.fill(decision);
        }
        Ok(())
    }

    /// Judges what waits and stages it, until the log's file is full.
    fn decide(
        &self,
        image: &mut Image,
        log: &mut MetadataLog,
    ) -> Vec<(Rc<Slot<Decision>>, Decision)> {
        let mut decided = Vec::new();
        let mut waiting = self.waiting.borrow_mut();
        while let Some(next) = waiting.pop_front() {
            let decision = apply(image, &next.command, &self.limits);
            if let Ok(delta) = &decision {
                if !log.stage(delta) {
                    waiting.push_front(next);
                    break;
                }
                image.absorb(delta);
            }
            decided.push((next.answer, decision.map(Arc::new)));
        }
        decided
    }

    /// Starts a new log file for the command that did not fit the old one.
    async fn make_room(&self, image: &Image, log: &mut MetadataLog) -> Result<(), LogError> {
        let refusal = if log.roll_makes_room() {
            match log.roll(image).await {
                Ok(()) => return Ok(()),
                Err(LogError::Disk(full @ DiskError::NoSpace { .. })) => Refusal::new(
                    ErrorCode::KafkaStorageError,
                    format!("the metadata log has no room: {full}; free some space and try again"),
                ),
                Err(failure) => return Err(failure),
            }
        } else {
            Refusal::new(
                ErrorCode::PolicyViolation,
                "the change is larger than the metadata log takes",
            )
        };
        let next = self.waiting.borrow_mut().pop_front();
        if let Some(next) = next {
            next.answer.fill(Err(refusal));
        }
        Ok(())
    }

    fn stop(&self, failure: &LogError) {
        let message = format!("the metadata log failed, the node stops: {failure}");
        let refusal = Refusal::new(ErrorCode::KafkaStorageError, message);
        *self.stopped.borrow_mut() = Some(refusal.clone());
        for waiting in self.waiting.take() {
            waiting.answer.fill(Err(refusal.clone()));
        }
    }
}
