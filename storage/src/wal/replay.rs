//! What a restart may believe of the WAL, decided over bytes alone.
//!
//! The commit is the unit. A commit is issued only after its predecessor's sync has returned, so
//! of all that the files hold only the last commit may be incomplete: its sectors may have landed
//! in any order. Hence:
//!
//! * a commit that does not verify, and after it none of a greater id: a torn tail. A crash
//!   came before its sync returned, so it was not acknowledged; it is cut and its size reported. (Had its
//!   synced bytes rotted, it would look the same: one copy alone can't tell.)
//! * a commit that does not verify, and somewhere after it the header of a commit with a greater
//!   id: that header could not have been issued before the damaged commit was synced. Synced
//!   bytes are lost: corruption, and nobody may pass over it silently.
//!
//! The machine asks for bytes ([`Replay::need`]) and is fed what the files hold
//! ([`Replay::feed`]), so that the whole decision is tested over arrays.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use streambus_shards::planted;

use super::WalPlace;
use super::record::{
    BLOCK_BYTES, CommitHeader, FIRST_COMMIT_POSITION, Nonce, RecordAt, read_commit,
};

/// How much is read at once while looking for later commits behind a bad one.
const SEARCH_BYTES: u64 = 1 << 20;

/// The bytes that the replay wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    pub(crate) length: usize,
}

/// What the bytes turned out to hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// A verified commit: the bytes fed are its own, the records lie in them.
    Commit {
        records: Vec<RecordAt>,
        /// See [`CommitHeader::sealed_ms`].
        sealed_ms: u64,
    },
    /// Nothing to apply; ask again.
    Nothing,
    /// A synced commit is lost: the file of this epoch is damaged at this position.
    Corrupt { epoch: u64, position: u64 },
}

/// How the WAL ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalEnd {
    /// Where the next commit is to be written.
    pub(crate) place: WalPlace,
    /// Bytes of a torn commit that were cut, 0 if the WAL ended cleanly.
    pub(crate) cut_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A commit header is expected here.
    Header {
        epoch: u64,
        position: u64,
    },
    /// A header of the expected commit stood here; its bytes decide.
    Body {
        position: u64,
        header: CommitHeader,
    },
    /// Looking for commits with a greater id; `epoch` and `position` move on through the files.
    Search {
        epoch: u64,
        position: u64,
    },
    Ended,
}

/// The replay of one lane's WAL, from the place that the manifest names to its end.
#[derive(Debug)]
pub(crate) struct Replay {
    nonce: Nonce,
    /// Length of each file by its epoch.
    files: BTreeMap<u64, u64>,
    /// Where the next commit is expected.
    next: WalPlace,
    state: State,
    /// Where the first bytes stand that are no commit, while nothing valid was found after them.
    bad: Option<(u64, u64)>,
    cut_bytes: u64,
}

impl Replay {
    /// Starts at `floor`. `files` are the WAL files there are, by epoch, with their lengths.
    pub(crate) fn new(nonce: Nonce, files: BTreeMap<u64, u64>, floor: WalPlace) -> Replay {
        let state = State::Header {
            epoch: floor.epoch,
            position: floor.position,
        };
        Replay {
            nonce,
            files,
            next: floor,
            state,
            bad: None,
            cut_bytes: 0,
        }
    }

    /// The bytes to feed next; `None` once the end is found.
    pub(crate) fn need(&mut self) -> Option<Need> {
        loop {
            let (epoch, position) = match self.state {
                State::Header { epoch, position } | State::Search { epoch, position } => {
                    (epoch, position)
                }
                State::Body { position, header } => {
                    let length = header.length as usize;
                    return Some(Need {
                        epoch: header.file_epoch,
                        position,
                        length,
                    });
                }
                State::Ended => return None,
            };
            let file_bytes = self.files.get(&epoch).copied().unwrap_or(0);
            let left = file_bytes.saturating_sub(position) / BLOCK_BYTES as u64;
            if left == 0 {
                self.enter_file_after(epoch);
                continue;
            }
            let blocks = match self.state {
                State::Header { .. } => 1,
                _ => left.min(SEARCH_BYTES / BLOCK_BYTES as u64),
            };
            let length = usize::try_from(blocks).expect("at most SEARCH_BYTES") * BLOCK_BYTES;
            return Some(Need {
                epoch,
                position,
                length,
            });
        }
    }

    /// Decides over the bytes that [`Replay::need`] asked for.
    ///
    /// # Panics
    /// If fed something else than was asked for.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Fed {
        let need = self.need().expect("feeding a replay that asks for nothing");
        assert!(
            bytes.len() == need.length,
            "fed {} bytes of {}",
            bytes.len(),
            need.length
        );
        match self.state {
            State::Header { epoch, position } => self.feed_header(epoch, position, bytes),
            State::Body { position, header } => self.feed_body(position, &header, bytes),
            State::Search { epoch, position } => self.feed_search(epoch, position, bytes),
            State::Ended => Fed::Nothing,
        }
    }

    /// How it ended.
    ///
    /// # Panics
    /// If it still asks for bytes.
    pub(crate) fn end(&self) -> WalEnd {
        assert!(self.state == State::Ended, "the replay is not at its end");
        WalEnd {
            place: self.next,
            cut_bytes: self.cut_bytes,
        }
    }

    fn feed_header(&mut self, epoch: u64, position: u64, block: &[u8]) -> Fed {
        let header = CommitHeader::decode(block, self.nonce, epoch, position);
        match header {
            Some(header) if header.commit_id > self.next.commit_id => self.corrupt(epoch, position),
            Some(header) if self.continues(&header) => {
                self.state = State::Body { position, header };
                Fed::Nothing
            }
            _ => self.search_from(epoch, position, 0),
        }
    }

    /// Whether it is the next commit, and lies whole in its file.
    fn continues(&self, header: &CommitHeader) -> bool {
        let file_bytes = self.files.get(&header.file_epoch).copied().unwrap_or(0);
        header.commit_id == self.next.commit_id
            && header.first_sequence == self.next.sequence
            && header.position + u64::from(header.length) <= file_bytes
    }

    fn feed_body(&mut self, position: u64, header: &CommitHeader, bytes: &[u8]) -> Fed {
        let epoch = header.file_epoch;
        match read_commit(bytes, header, self.nonce) {
            Ok(records) => {
                self.next = WalPlace {
                    epoch,
                    position: position + u64::from(header.length),
                    commit_id: header.commit_id + 1,
                    sequence: header.first_sequence + u64::from(header.record_count),
                };
                self.bad = None;
                self.cut_bytes = 0;
                self.state = State::Header {
                    epoch,
                    position: self.next.position,
                };
                Fed::Commit {
                    records,
                    sealed_ms: header.sealed_ms,
                }
            }
            Err(_) => self.search_from(epoch, position, u64::from(header.length)),
        }
    }

    /// Nothing valid stands at `position`: only what stands after it tells what that means.
    fn search_from(&mut self, epoch: u64, position: u64, torn_bytes: u64) -> Fed {
        self.bad.get_or_insert((epoch, position));
        self.cut_bytes += torn_bytes;
        self.state = State::Search {
            epoch,
            position: position + BLOCK_BYTES as u64,
        };
        Fed::Nothing
    }

    fn feed_search(&mut self, epoch: u64, position: u64, bytes: &[u8]) -> Fed {
        let mut at = position;
        for block in bytes.chunks(BLOCK_BYTES) {
            let header = CommitHeader::decode(block, self.nonce, epoch, at);
            if header.is_some_and(|header| header.commit_id > self.next.commit_id) {
                return self.corrupt(epoch, at);
            }
            at += block.len() as u64;
        }
        self.state = State::Search {
            epoch,
            position: at,
        };
        Fed::Nothing
    }

    fn corrupt(&mut self, epoch: u64, position: u64) -> Fed {
        let (epoch, position) = self.bad.unwrap_or((epoch, position));
        self.state = State::Ended;
        if planted::on("cut-corrupt-middle") {
            return Fed::Nothing;
        }
        Fed::Corrupt { epoch, position }
    }

    /// The file after `epoch` may begin with the expected commit: one that did not fit here, or
    /// one that replaced a torn commit at the end of this file.
    fn enter_file_after(&mut self, epoch: u64) {
        let next = self
            .files
            .range((Excluded(epoch), Unbounded))
            .next()
            .map(|(epoch, _)| *epoch);
        self.state = match next {
            Some(epoch) => State::Header {
                epoch,
                position: FIRST_COMMIT_POSITION,
            },
            None => State::Ended,
        };
    }
}
