//! A broker in a process of its own, so that a test can kill it.
//!
//! `cargo test` builds no `streambus` binary for another crate's tests. So the test binary runs itself
//! again and names one of its tests, [`PROCESS_TEST`]; in that process the test is the broker.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use streambus::config::{Config, Sources};
use streambus::node;
use streambus_ops::logs;
use streambus_shards::{polls, sleep, spawn};

/// The test that is the broker when [`DATA_DIR`] is set.
const PROCESS_TEST: &str = "process::is_the_broker_when_asked";
/// Where that broker keeps its data. Its presence makes the process a broker.
const DATA_DIR: &str = "STREAMBUS_DATA__DIR";
/// Its presence makes the broker log to standard error.
const LOGGED: &str = "STREAMBUS_TEST_LOGGED";
/// Its presence has core 0 of the broker run forever without a yield, once it serves.
pub(crate) const STUCK: &str = "STREAMBUS_TEST_STUCK";
/// What the broker prints before its addresses once it serves.
const READY: &str = "broker ready at ";

#[test]
fn is_the_broker_when_asked() {
    // Proves nothing by itself: it is the process that the other tests start.
    if std::env::var_os(DATA_DIR).is_none() {
        return;
    }
    let sources = Sources {
        variables: std::env::vars().collect(),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap().config;
    let logged = std::env::var_os(LOGGED).is_some();
    let log = logged.then(|| logs::start("info", logs::Format::Json).unwrap());
    let stuck = std::env::var_os(STUCK).is_some();
    let dropped = log.as_ref().map(logs::Logs::dropped);
    let ended = node::run(config, dropped, move |ready| {
        let address = |name: &str| {
            ready
                .listeners
                .iter()
                .find(|listener| listener.name == name)
                .unwrap()
                .address
        };
        let (admin, polls) = (ready.admin.unwrap(), serve_polls());
        let (core, node) = (address("core"), address("node"));
        println!("{READY}{core} {node} {admin} {polls}");
        if stuck {
            // On core 0, which calls this, once it has given signs of life.
            let stuck = async {
                sleep(Duration::from_secs(1)).await;
                loop {
                    std::hint::spin_loop();
                }
            };
            spawn(stuck).detach();
        }
    });
    if let Err(failed) = ended {
        eprintln!("streambus: {failed}");
        std::process::exit(1);
    }
}

/// Answers each connection with the longest poll of any task since the one before.
fn serve_polls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let longest = u64::try_from(polls::take_longest_poll().as_nanos()).unwrap();
            // A test that went away needs no answer.
            let _ = stream.unwrap().write_all(&longest.to_be_bytes());
        }
    });
    address
}

/// A running broker with a listener of each mode. Dropped, it is killed.
pub(crate) struct Broker {
    process: Child,
    /// Kept open: after a minute the test runner writes that a test runs for long, and would end if
    /// nobody could read it.
    _output: BufReader<ChildStdout>,
    /// The bootstrap address of the listener that shows each core.
    pub(crate) core: SocketAddr,
    /// The bootstrap address of the listener that shows the node as one.
    pub(crate) node: SocketAddr,
    /// The admin address.
    pub(crate) admin: SocketAddr,
    /// Where the longest poll is asked for.
    polls: SocketAddr,
}

/// The command that is a broker over `data_dir` with these settings besides.
pub(crate) fn command(data_dir: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", PROCESS_TEST, "--nocapture"])
        .env(DATA_DIR, data_dir)
        .envs([
            ("STREAMBUS_NODE__CORES", "2"),
            ("STREAMBUS_LISTENERS__CORE__PORT", "0"),
            ("STREAMBUS_LISTENERS__NODE__PORT", "0"),
            ("STREAMBUS_LISTENERS__NODE__ADVERTISE", "node"),
            ("STREAMBUS_ADMIN__ADDRESS", "127.0.0.1:0"),
            ("STREAMBUS_STORAGE__MIN_FREE_BYTES", "67108864"),
            ("STREAMBUS_STORAGE__WAL_FILE_BYTES", "16777216"),
            ("STREAMBUS_STORAGE__MEMTABLE_BYTES", "16777216"),
        ])
        .envs(settings.iter().copied())
        .stdin(Stdio::null());
    command
}

impl Broker {
    /// Starts a broker on ports that the system chooses; returns when it serves.
    pub(crate) fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        Self::started(command(data_dir, settings)).expect("the broker serves")
    }

    /// Starts a broker under a limit of the shell, as [`refused_under`] does; `None` if it ends before it serves.
    pub(crate) fn start_under(limit: &str, data_dir: &Path) -> Option<Self> {
        Self::started(under(limit, data_dir))
    }

    /// Starts a broker as [`Broker::start`] does, whose log goes to a new file.
    pub(crate) fn start_logged(data_dir: &Path, settings: &[(&str, &str)], log: &Path) -> Self {
        let mut command = command(data_dir, settings);
        command
            .env(LOGGED, "1")
            .stderr(File::create_new(log).unwrap());
        Self::started(command).expect("the broker serves")
    }

    fn started(mut command: Command) -> Option<Self> {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            // The test runner writes "test NAME ... " before it, on the same line.
            if let Some((_, addresses)) = line.trim_end().split_once(READY) {
                let mut addresses = addresses.split(' ').map(|address| address.parse().unwrap());
                let mut next = || addresses.next().unwrap();
                return Some(Self {
                    process,
                    _output: output,
                    core: next(),
                    node: next(),
                    admin: next(),
                    polls: next(),
                });
            }
            line.clear();
        }
        process.wait().unwrap();
        None
    }

    /// Ends the process as a crash does: no warning, no drain.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// The longest time that a task ran without a yield since the last call, or since the first one.
    pub(crate) fn longest_poll(&self) -> Duration {
        let mut longest = [0; 8];
        let mut stream = TcpStream::connect(self.polls).unwrap();
        stream.read_exact(&mut longest).unwrap();
        Duration::from_nanos(u64::from_be_bytes(longest))
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.end();
        }
    }
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(process: u32) -> u64 {
    status_bytes(process, "VmRSS:")
}

/// Resident memory of a process in bytes once it does not change any more: a node that serves already still makes
/// the memory for its first commits ready.
pub(crate) fn resident_at_rest(process: u32) -> u64 {
    let mut known = resident(process);
    let mut looks_alike = 0;
    while looks_alike < 20 {
        std::thread::sleep(Duration::from_millis(50));
        let bytes = resident(process);
        looks_alike = if bytes == known { looks_alike + 1 } else { 0 };
        known = bytes;
    }
    known
}

/// The most that a process's resident memory was since [`reset_peak_resident`].
pub(crate) fn peak_resident(process: u32) -> u64 {
    status_bytes(process, "VmHWM:")
}

/// Lets [`peak_resident`] begin anew.
pub(crate) fn reset_peak_resident(process: u32) {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
}

fn status_bytes(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1_024
}

/// Runs a broker under a limit of the shell (`ulimit -n 64`) that is expected to refuse to start.
pub(crate) fn refused_under(limit: &str, data_dir: &Path) -> (Output, String) {
    told(&mut under(limit, data_dir))
}

/// Runs a broker that is expected to refuse to start.
pub(crate) fn refused(data_dir: &Path, settings: &[(&str, &str)]) -> (Output, String) {
    told(&mut command(data_dir, settings))
}

fn told(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

fn under(limit: &str, data_dir: &Path) -> Command {
    let inner = command(data_dir, &[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")])
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null());
    command
}
