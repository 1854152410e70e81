//! The broker as a process of its own, over TCP: crashes, hostile clients, listeners, refusals to start.

mod crash;
mod hostile;
mod listeners;
mod process;
mod startup;
