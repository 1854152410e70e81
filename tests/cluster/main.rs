//! The broker as a process of its own, over TCP: crashes, hostile clients, listeners, refusals to start.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod admin;
mod cli;
mod cores;
mod crash;
mod deletion;
mod descriptors;
mod entries;
mod extremes;
mod full_disk;
mod hostile;
mod idle;
mod inside;
mod large;
mod librdkafka;
mod listeners;
mod metrics;
mod overload;
mod process;
mod records;
mod scrub;
mod settings;
mod slow_clients;
mod slow_disk;
mod startup;
mod storage_command;
mod topics;
mod volume;
mod wire;
