//! A whole node in the world: it starts, serves, stops, and starts again from its disk.

use std::net::IpAddr;
use std::time::Duration;

use streambus_shards::sim::{Failure, Kill, Report, Simulation, World, run};
use streambus_shards::{Stream, sleep};
use streambus_tests::cluster::{NODE_PORT, Node, small_config};

async fn lives(world: World) {
    let node = Node::new(&world, small_config, 0);
    let client = world.add_host(IpAddr::from([10, 0, 1, 1]));
    world.boot(client);
    for how in [None, Some(Kill::Process), Some(Kill::Power), None] {
        node.start();
        node.ready().await.expect("an undamaged disk opens");
        let address = node.bootstrap(NODE_PORT);
        let connected = world.spawn_on(
            client,
            async move { Stream::connect(address).await.is_ok() },
        );
        assert!(connected.await, "a node that serves accepts");
        sleep(Duration::from_secs(3)).await;
        match how {
            Some(how) => node.kill(how),
            None => assert!(node.stop().await, "it stops in good order"),
        }
    }
}

fn lived(seed: u64) -> Report<()> {
    run(Simulation::new(seed), lives)
}

#[test]
fn a_node_starts_serves_and_starts_again_whatever_ended_it() {
    // Proves that the shipped start-up, service and drain run in the world, and repeat from a seed.
    for seed in 0..10 {
        let (first, second) = (lived(seed), lived(seed));
        let good: Result<(), Failure> = Ok(());
        assert_eq!(first.result, good, "seed {seed}: {:#?}", first.notes);
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
    }
}

async fn lives_without_reserve(world: World) {
    let config = |address, id| {
        let mut config = small_config(address, id);
        config.node.cores = 4;
        config
    };
    let node = Node::new(&world, config, 0);
    let disk = world.disk(node.host());
    // Room for the metadata log's file, and not for its reserve.
    disk.set_capacity("/data/metadata", Some(300 << 10));
    for _ in 0..3 {
        node.start();
        assert_eq!(node.ready().await, Ok(()));
        node.kill(Kill::Process);
    }
    disk.set_capacity("/data/metadata", None);
    node.start();
    assert_eq!(node.ready().await, Ok(()));
    let files = disk.files().into_iter();
    let mut named = files.filter(|(path, _)| path.ends_with("metadata/reserve"));
    let reserve = named.next().map_or(0, |(_, len)| len);
    assert!(reserve > 512 << 10, "{reserve}");
}

#[test]
fn a_node_of_many_cores_starts_without_space_for_the_metadata_reserve() {
    // Proves that only one core writes into the metadata's directory when all of them start.
    for seed in 0..20 {
        let report = run(Simulation::new(seed), lives_without_reserve);
        assert_eq!(report.result, Ok(()), "seed {seed}: {:#?}", report.notes);
    }
}
