use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::TopicId;
use streambus_shards::sim::{self, DiskFaults, Simulation};
use streambus_shards::{run_alone, spawn};

use super::*;
use crate::metadata::apply::{Limits, apply};
use crate::metadata::command::{Command, Layout};
use crate::metadata::controller::{Controller, Publish, Submit};
use crate::metadata::image::NodeId;

const FILE_BYTES: usize = 8 << 10;
const LIMITS: Limits = Limits {
    topics_max: 10_000,
    partitions_max: 100_000,
    partitions_per_topic_max: 10_000,
    message_bytes_max: 64 << 20,
};

fn identity() -> Identity {
    Identity {
        cluster_id: "test".to_owned(),
        node: NodeId(0),
        lanes: 2,
    }
}

async fn opened(dir: &Path) -> Opened {
    opened_with(dir, FILE_BYTES).await
}

async fn opened_with(dir: &Path, file_bytes: usize) -> Opened {
    let statics = Arc::new(ConfigMap::new());
    MetadataLog::open(dir, identity(), statics, file_bytes)
        .await
        .expect("the log is good")
}

async fn refused(dir: &Path) -> String {
    let statics = Arc::new(ConfigMap::new());
    let outcome = MetadataLog::open(dir, identity(), statics, FILE_BYTES).await;
    outcome.expect_err("the log is bad").to_string()
}

fn create(number: u16, partitions: i32) -> Command {
    let mut id = [7; 16];
    id[..2].copy_from_slice(&number.to_le_bytes());
    Command::CreateTopic {
        name: format!("topic-{number}"),
        id: TopicId(id),
        layout: Layout::Auto {
            partitions,
            replication_factor: 1,
        },
        configs: Vec::new(),
    }
}

/// Makes one command durable, in a new file if it must be.
async fn commit(opened: &mut Opened, command: &Command) {
    let delta = apply(&opened.image, command, &LIMITS).expect("a good command");
    if !opened.log.stage(&delta) {
        opened.log.roll(&opened.image).await.expect("space");
        assert!(opened.log.stage(&delta));
    }
    opened.log.commit().await.expect("space");
    opened.image.absorb(&delta);
}

fn run<T: 'static>(body: impl AsyncFnOnce(PathBuf) -> T + 'static) -> T {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("metadata");
    run_alone(async move { body(path).await }).expect("an executor")
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    // Proves that deltas survive, across several full files, that old files go, and that the
    // identity is the directory's and not the caller's.
    run(async |dir| {
        let mut first = opened(&dir).await;
        for number in 0..500 {
            commit(&mut first, &create(number, 3)).await;
        }
        let again = opened(&dir).await;
        assert_eq!(format!("{:?}", again.image), format!("{:?}", first.image));
        assert!(
            again.replayed > 0 && again.replayed < 500,
            "{}",
            again.replayed
        );
        assert_eq!(again.cut_bytes, 0);
        let files = Files::list(&dir).expect("listed");
        assert_eq!((files.logs.len(), files.snapshots.len()), (1, 1));
        assert!(disk::exists(&dir.join(RESERVE)));

        let other = Identity {
            cluster_id: "other".to_owned(),
            node: NodeId(5),
            lanes: 9,
        };
        let statics = Arc::new(ConfigMap::new());
        let kept = MetadataLog::open(&dir, other, statics, FILE_BYTES)
            .await
            .expect("good");
        assert_eq!(*kept.image.identity(), identity());
    });
}

#[test]
fn a_torn_end_is_cut_and_written_over() {
    // Proves that a write which was never acknowledged goes, and that later ones are kept.
    run(async |dir| {
        let mut log = opened(&dir).await;
        commit(&mut log, &create(1, 1)).await;
        let path = dir.join(log_name(MetadataIndex(1)));
        let file = File::open(
            &path,
            OpenOptions {
                write: true,
                ..OpenOptions::default()
            },
        )
        .await;
        let position = log.log.position as u64;
        let garbage = Buf::from(vec![0xa5; 700]);
        file.expect("it is there")
            .write_at(position, &garbage)
            .await
            .expect("space");

        let mut log = opened(&dir).await;
        assert_eq!((log.cut_bytes, log.image.topic_count()), (700, 1));
        commit(&mut log, &create(2, 1)).await;
        let log = opened(&dir).await;
        assert_eq!((log.cut_bytes, log.image.topic_count()), (0, 2));
    });
}

#[test]
fn damage_is_refused_by_file_and_place() {
    // Proves faults row 36 on files: damage, a later version, a missing file, a foreign file; and
    // that a refused start changes nothing.
    run(async |dir| {
        let mut log = opened(&dir).await;
        for number in 0..4 {
            commit(&mut log, &create(number, 1)).await;
        }
        let path = dir.join(log_name(MetadataIndex(1)));
        let whole = disk::read_file(&path).await.expect("read");
        for (at, flip, expected) in [
            (HEADER_BYTES + 20, 1, "at byte 512: a frame is damaged"),
            (8, 2, "its format version is 3, this program knows up to 1"),
            (0, 1, "it does not begin as a metadata file"),
            (17, 1, "at byte 0: the header's checksum is wrong"),
        ] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            disk::replace_file(&path, damaged.clone())
                .await
                .expect("written");
            let why = refused(&dir).await;
            assert!(
                why.contains(expected) && why.contains(&*path.to_string_lossy()),
                "{why}"
            );
            assert_eq!(disk::read_file(&path).await.expect("read"), damaged);
        }
        let elsewhere = dir.join(log_name(MetadataIndex(9)));
        disk::replace_file(&elsewhere, whole)
            .await
            .expect("written");
        disk::remove_file(&path).await.expect("removed");
        assert!(
            refused(&dir)
                .await
                .contains("its header says index 1, its name says 9")
        );
    });
}

#[test]
fn a_crash_between_the_steps_of_a_roll_loses_nothing() {
    // Proves that a snapshot beside the old log, a new log behind the old one, and a snapshot without any log
    // start up, and that a roll removes what was left.
    run(async |dir| {
        let mut log = opened(&dir).await;
        for number in 0..4 {
            commit(&mut log, &create(number, 1)).await;
        }
        let snapshot = dir.join(snapshot_name(log.image.index()));
        disk::replace_file(&snapshot, snapshot::encode(&log.image))
            .await
            .expect("written");
        let mut both = opened(&dir).await;
        assert_eq!((both.replayed, both.image.topic_count()), (0, 4));
        commit(&mut both, &create(9, 1)).await;
        assert_eq!(opened(&dir).await.image.topic_count(), 5);

        let mut log = opened(&dir).await;
        let next = MetadataLog::create(&dir, &log.image, FILE_BYTES).await;
        drop(next.expect("space"));
        let mut two = opened(&dir).await;
        assert_eq!((two.replayed, two.image.topic_count()), (1, 5));
        commit(&mut two, &create(10, 1)).await;
        log = opened(&dir).await;
        assert_eq!(log.image.topic_count(), 6);
        log.log.roll(&log.image).await.expect("space");
        let files = Files::list(&dir).expect("listed");
        assert_eq!(files.logs, [MetadataIndex(7)]);
        assert_eq!(files.snapshots, [MetadataIndex(6)]);
        assert_eq!(opened(&dir).await.image.topic_count(), 6);

        disk::remove_file(&dir.join(log_name(MetadataIndex(7))))
            .await
            .expect("removed");
        let alone = opened(&dir).await;
        assert_eq!(
            (alone.image.topic_count(), alone.image.index()),
            (6, MetadataIndex(6))
        );
    });
}

/// Remembers what the cores were told.
#[derive(Default)]
struct Cores(RefCell<Vec<u64>>);

impl Publish for Rc<Cores> {
    async fn publish(&self, deltas: &[Arc<Delta>]) {
        self.0
            .borrow_mut()
            .extend(deltas.iter().map(|delta| delta.index.0));
    }
}

#[test]
fn the_controller_decides_in_order_and_answers_when_every_core_knows() {
    // Proves the loop: one topic of a name is made whoever asks, deltas are published in order
    // before the answer, files roll under it, and a change too large for any file is refused.
    run(async |dir| {
        let Opened { image, log, .. } = opened(&dir).await;
        let controller = Rc::new(Controller::new(LIMITS));
        let cores = Rc::new(Cores::default());
        let loops = {
            let (controller, cores) = (Rc::clone(&controller), Rc::clone(&cores));
            spawn(async move { controller.run(image, log, &cores).await })
        };
        let asks: Vec<_> = (0..200_u16)
            .map(|number| {
                let (controller, cores) = (Rc::clone(&controller), Rc::clone(&cores));
                spawn(async move {
                    let decision = controller.submit(create(number / 2, 4)).await;
                    if let Ok(delta) = &decision {
                        assert!(
                            cores.0.borrow().contains(&delta.index.0),
                            "told before the cores"
                        );
                    }
                    decision
                })
            })
            .collect();
        let mut made = 0;
        for ask in asks {
            match ask.await {
                Ok(_) => made += 1,
                Err(refusal) => assert_eq!(refusal.code, ErrorCode::TopicAlreadyExists),
            }
        }
        assert_eq!(made, 100);
        assert_eq!(*cores.0.borrow(), (1..=100).collect::<Vec<u64>>());
        let large = controller
            .submit(create(9_999, 5_000))
            .await
            .expect_err("55 KB in 8 KiB");
        assert_eq!(large.code, ErrorCode::PolicyViolation);
        controller
            .submit(create(1_000, 1))
            .await
            .expect("the next one is decided");
        drop(loops.cancel().await);
        assert_eq!(opened(&dir).await.image.topic_count(), 101);
    });
}

#[test]
fn lanes_are_added_and_stay() {
    // Proves that more lanes are durable, that new partitions go to them, that files begun with fewer are still
    // read, before and after a roll.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let mut first = opened(dir.path()).await;
        commit(&mut first, &create(1, 2)).await;
        assert_eq!(first.image.lane_partitions(), [1, 1]);
        first.log.add_lanes(&mut first.image, 4).await.unwrap();
        commit(&mut first, &create(2, 2)).await;
        assert_eq!(first.image.lane_partitions(), [1, 1, 1, 1]);
        let before = dir.path().join(log_name(MetadataIndex(1)));
        let old_log = disk::read_file(&before).await.unwrap();
        drop(first);
        let mut second = opened(dir.path()).await;
        assert_eq!(second.image.identity().lanes, 4);
        second.log.roll(&second.image).await.unwrap();
        drop(second);
        // A crash before the old log was removed.
        disk::replace_file(&before, old_log).await.unwrap();
        let third = opened(dir.path()).await;
        assert_eq!(third.image.lane_partitions(), [1, 1, 1, 1]);
    })
    .unwrap();
}

/// Runs `body` on a simulated host with a disk that may be full.
fn run_on_disk(body: impl AsyncFnOnce(PathBuf, DiskFaults) + 'static) {
    let report = sim::run(Simulation::new(1), |world| async move {
        let host = world.add_host(IpAddr::from([10, 0, 0, 1]));
        world.boot(host);
        let disk = world.disk(host);
        let done = world.spawn_on(host, async move { body("/metadata".into(), disk).await });
        done.await;
    });
    assert_eq!(report.result, Ok(()), "{:#?}", report.notes);
}

/// No file can grow any more.
fn fill(disk: &DiskFaults) {
    disk.set_capacity("/", Some(disk.used_bytes()));
}

/// Makes and deletes topics until the file has no room for the next one.
async fn commit_until_full(opened: &mut Opened) -> Delta {
    loop {
        // No number comes twice, for deleted topics are remembered.
        let number = 10_000 + u16::try_from(opened.image.index().0).expect("few deltas");
        let topics: Vec<_> = opened.image.topics().map(|topic| topic.id).collect();
        let command = match topics.first() {
            Some(id) if number % 2 == 0 => Command::DeleteTopic { id: *id },
            _ => create(number, 1),
        };
        let delta = apply(&opened.image, &command, &LIMITS).expect("a good command");
        if !opened.log.stage(&delta) {
            return delta;
        }
        let durable = opened.log.commit().await;
        durable.expect("what has room in the file has room on the disk");
        opened.image.absorb(&delta);
    }
}

#[test]
fn a_raised_size_is_that_of_the_next_file() {
    // Proves that a file which is there takes no more than it was made for, so that no commit needs space,
    // and that a roll which has none changes nothing and goes well when there is some.
    run_on_disk(async |dir, disk| {
        let mut before = opened(&dir).await;
        for number in 0..20 {
            commit(&mut before, &create(number, 3)).await;
        }
        drop(before);
        fill(&disk);
        let mut log = opened_with(&dir, 8 * FILE_BYTES).await;
        let next = commit_until_full(&mut log).await;
        let files = |disk: &DiskFaults| -> Vec<_> {
            let named = disk.files().into_iter();
            named.filter(|(path, _)| !path.ends_with(RESERVE)).collect()
        };
        let full = files(&disk);
        let rolled = log.log.roll(&log.image).await;
        let no_space = matches!(rolled, Err(LogError::Disk(DiskError::NoSpace { .. })));
        assert!(no_space, "{rolled:?}");
        assert_eq!(files(&disk), full);
        disk.set_capacity("/", None);
        log.log.roll(&log.image).await.expect("space");
        assert!(log.log.stage(&next));
        log.log.commit().await.expect("space");
        log.image.absorb(&next);
        let again = opened_with(&dir, 8 * FILE_BYTES).await;
        assert_eq!(format!("{:?}", again.image), format!("{:?}", log.image));
    });
}

#[test]
fn the_reserve_is_enough_for_a_roll_on_a_full_disk() {
    // Proves that it grows with the size of a file and with the snapshot, and shrinks again.
    run_on_disk(async |dir, disk| {
        let reserve_bytes = |disk: &DiskFaults| {
            let files = disk.files().into_iter();
            let mut found = files.filter(|(path, _)| path.ends_with(RESERVE));
            found.next().map_or(0, |(_, len)| len)
        };
        let mut small = opened(&dir).await;
        let empty = reserve_bytes(&disk);
        assert_eq!(empty, small.log.reserve_bytes() as u64);
        // Their snapshot is larger than two files.
        for number in 0..600 {
            commit(&mut small, &create(number, 3)).await;
        }
        fill(&disk);
        commit_until_full(&mut small).await;
        small.log.roll(&small.image).await.expect("the reserve");
        drop(small);

        disk.set_capacity("/", None);
        let mut large = opened_with(&dir, 8 * FILE_BYTES).await;
        fill(&disk);
        commit_until_full(&mut large).await;
        large.log.roll(&large.image).await.expect("the reserve");
        commit_until_full(&mut large).await;

        disk.set_capacity("/", None);
        large.log.roll(&large.image).await.expect("space");
        drop(large);
        let enlarged = reserve_bytes(&disk);
        let mut small = opened(&dir).await;
        small.log.roll(&small.image).await.expect("space");
        let shrunk = reserve_bytes(&disk);
        assert!(
            empty < shrunk && shrunk < enlarged,
            "{empty}, {shrunk}, {enlarged}"
        );
    });
}

#[test]
fn a_reserve_that_cannot_grow_stays() {
    // Proves that a start on a full disk gives no reserve away for a larger one that has no space.
    run_on_disk(async |dir, disk| {
        drop(opened(&dir).await);
        fill(&disk);
        let before = disk.files();
        drop(opened_with(&dir, 8 * FILE_BYTES).await);
        assert_eq!(disk.files(), before);
    });
}

#[test]
fn an_empty_file_of_a_smaller_size_is_replaced_for_what_it_cannot_take() {
    // Proves that a raised size takes effect at once, also for a node that has no topics yet.
    run(async |dir| {
        drop(opened(&dir).await);
        let Opened { image, log, .. } = opened_with(&dir, 64 << 10).await;
        let controller = Rc::new(Controller::new(LIMITS));
        let loops = {
            let controller = Rc::clone(&controller);
            let cores = Rc::new(Cores::default());
            spawn(async move { controller.run(image, log, &cores).await })
        };
        let made = controller.submit(create(1, 3_000)).await;
        made.expect("33 KB in 64 KiB");
        drop(loops.cancel().await);
        assert_eq!(opened(&dir).await.image.topic_count(), 1);
        let log = disk::read_file(&dir.join(log_name(MetadataIndex(1)))).await;
        assert_eq!(log.expect("read").len(), 64 << 10);
    });
}
