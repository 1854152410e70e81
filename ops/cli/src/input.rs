//! Standard input, read by a thread of its own: whoever writes its lines can look after what is under way, and
//! after a wish to stop, while no line comes.

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek, stdin},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::CliError;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait: with the one that is being read and the one that is being written, 1.5 MiB.
const CHUNKS_MAX: usize = 4;
/// Chunks that may be read and not taken: those that wait, and one that finds no room.
pub(crate) const CHUNKS_READ_MAX: usize = CHUNKS_MAX + 1;

/// What came of waiting for input.
#[derive(Debug)]
pub(crate) enum Event {
    /// Some bytes.
    Chunk(Vec<u8>),
    /// Nothing within the time.
    Nothing,
    /// The end, or why the rest can't be read.
    End(Option<io::Error>),
}

/// Standard input while it is read.
pub(crate) struct Input {
    events: Receiver<Event>,
    stop: Arc<AtomicBool>,
    /// Where the end of a regular file is, seen from where reading began.
    file_bytes: Option<u64>,
}

impl Input {
    /// Begins to read. From now on the first Ctrl-C, or signal to terminate, only sets what
    /// [`Input::is_stopped`] says; a second one ends the process.
    pub(crate) fn begin() -> Result<Self, CliError> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag not set yet.
            flag::register_conditional_default(signal, Arc::clone(&stop))
                .and_then(|_| flag::register(signal, Arc::clone(&stop)))
                .map_err(CliError::Input)?;
        }
        let file_bytes = file_bytes();
        let (sender, events) = sync_channel(CHUNKS_MAX);
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || read_chunks(stdin().lock(), &sender))
            .map_err(CliError::Input)?;
        Ok(Self {
            events,
            stop,
            file_bytes,
        })
    }

    /// Whether a person types it.
    pub(crate) fn is_typed() -> bool {
        stdin().is_terminal()
    }

    /// Whether a stop was asked for.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The next chunk, waiting for it at most `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Event {
        match self.events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Event::Nothing,
            Err(RecvTimeoutError::Disconnected) => Event::End(None),
        }
    }

    /// How many bytes of a file are unread when `taken` were taken; `None` if it is no file.
    pub(crate) fn unread_bytes(&self, taken: u64) -> Option<u64> {
        Some(self.file_bytes?.saturating_sub(taken))
    }
}

fn file_bytes() -> Option<u64> {
    let mut file = File::from(stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let position = file.stream_position().ok()?;
    Some(metadata.len().saturating_sub(position))
}

/// Reads until the end, or until nobody takes what is read.
fn read_chunks(mut input: impl Read, sender: &SyncSender<Event>) {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let event = match input.read(&mut chunk) {
            Ok(0) => Event::End(None),
            Ok(count) => {
                chunk.truncate(count);
                Event::Chunk(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Event::End(Some(error)),
        };
        let ends = matches!(event, Event::End(_));
        if sender.send(event).is_err() || ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }

    #[test]
    fn chunks_come_as_they_are_read() {
        // Proves: what is read is not held back until a buffer is full, the end is an event, and so is an error.
        let (sender, events) = sync_channel(CHUNKS_MAX);
        let mut input = io::Cursor::new(b"a\n").chain(io::Cursor::new(b"b"));
        read_chunks(&mut input, &sender);
        drop(sender);
        let shown: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
        assert_eq!(shown, ["Chunk([97, 10])", "Chunk([98])", "End(None)"]);
        let (sender, events) = sync_channel(CHUNKS_MAX);
        read_chunks(Broken, &sender);
        assert!(matches!(events.recv(), Ok(Event::End(Some(_)))));
    }
}
