//! The command line against a broker: what a person meets who types the README's commands.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use streambus_client::blocking::{Client, ClientConfig, OffsetSpec};
use streambus_client::consumer::Isolation;
use streambus_client::partition::TopicPartition;

use crate::process::Broker;

/// More than enough on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const PROGRAM: &str = env!("CARGO_BIN_EXE_streambus");

/// A finished command.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code(),
            out: text(output.stdout),
            errors: text(output.stderr),
        }
    }
}

fn command(broker: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).arg("-b").arg(broker.to_string());
    command
}

/// Runs a command to its end, with this input.
fn run(broker: SocketAddr, arguments: &[&str], input: &[u8]) -> Ran {
    let mut running = Running::start(broker, arguments);
    // A command that refuses its input ends before it has read it.
    let _ = running.input.as_mut().unwrap().write_all(input);
    running.end()
}

/// Runs a command that must succeed.
fn good(broker: SocketAddr, arguments: &[&str], input: &[u8]) -> Ran {
    let ran = run(broker, arguments, input);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran
}

/// A command whose input is open.
struct Running {
    process: Child,
    input: Option<ChildStdin>,
}

impl Running {
    fn start(broker: SocketAddr, arguments: &[&str]) -> Self {
        let mut process = command(broker, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        Running { process, input }
    }

    fn write(&mut self, text: &str) {
        self.input
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn interrupt(&self) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, the input still open.
    fn end_by_itself(mut self) -> Ran {
        let input = self.input.take();
        let ran = Ran::from(self.process.wait_with_output().unwrap());
        drop(input);
        ran
    }

    /// Closes the input and waits for the end.
    fn end(mut self) -> Ran {
        drop(self.input.take());
        self.process.wait_with_output().unwrap().into()
    }
}

fn client(broker: SocketAddr) -> Client {
    Client::connect(&broker.to_string(), ClientConfig::default()).unwrap()
}

/// Waits until partition 0 of a topic has so many records.
fn await_records(client: &mut Client, topic: &str, count: i64) {
    let deadline = Instant::now() + PATIENCE;
    let wanted = [(TopicPartition::new(topic, 0), OffsetSpec::Latest)];
    loop {
        let listed = client
            .list_offsets(&wanted, Isolation::ReadUncommitted)
            .unwrap();
        let end = listed.values().next().unwrap().offset.unwrap().0;
        if end >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{topic} ends at {end}");
    }
}

#[test]
fn lines_are_written_as_they_come_and_ctrl_c_loses_none() {
    // Proves: a line is stored while the input stays open; after Ctrl-C all lines that were read are stored and
    // counted, and what is no whole line is named.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut client = client(broker.node);
    good(broker.node, &["topic", "create", "typed"], b"");
    let mut produce = Running::start(broker.node, &["topic", "produce", "typed"]);
    produce.write("first\n");
    await_records(&mut client, "typed", 1);
    // One write that a pipe takes whole, so that it is read whole.
    let lines: Vec<String> = (0..400)
        .map(|number| format!("line-{number:03}\n"))
        .collect();
    let lines = lines.concat();
    produce.write(&format!("{lines}unfinished"));
    await_records(&mut client, "typed", 2);
    produce.interrupt();
    let ran = produce.end_by_itself();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.errors.contains("401 records written to typed in "),
        "{ran:?}"
    );
    assert!(
        ran.errors
            .contains("10 bytes of a line without an end were not written"),
        "{ran:?}"
    );
    let read = good(broker.node, &["topic", "consume", "typed"], b"");
    assert_eq!(read.out, format!("first\n{lines}"));
}

#[test]
fn one_record_is_singular_and_an_empty_value_may_be_a_tombstone() {
    // Proves: with -Z (of rpk and kcat) an empty value is null, without it it is empty; "1 record", "1 partition".
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let made = good(broker.node, &["topic", "create", "keys"], b"");
    assert_eq!(made.errors, "topic keys created with 1 partition\n");
    for (flags, input) in [
        (&["-K", ":"][..], &b"a:\n"[..]),
        (&["-K", ":", "-Z"], b"a:\n"),
        (&["--key-separator=:", "--tombstone"], b"b:1"),
    ] {
        let arguments = [&["topic", "produce", "keys"], flags].concat();
        let written = good(broker.node, &arguments, input);
        assert!(
            written.errors.starts_with("1 record written to keys in "),
            "{written:?}"
        );
    }
    let read = good(
        broker.node,
        &["topic", "consume", "keys", "--format=json"],
        b"",
    );
    let values: Vec<serde_json::Value> = read
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["value"].clone())
        .collect();
    assert_eq!(values, ["".into(), serde_json::Value::Null, "1".into()]);
}

#[test]
fn a_line_may_be_as_long_as_the_topic_takes() {
    // Proves: max.message.bytes of the topic is the limit, whether above or below what batches have by default, and
    // a refusal says the line, the limit, the remedy, and how much of the input was read.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let create = |name, setting| good(broker.node, &["topic", "create", name, "-c", setting], b"");
    create("large", "max.message.bytes=3000000");
    let long = vec![b'x'; 2_500_000];
    good(broker.node, &["topic", "produce", "large"], &long);
    let read = good(broker.node, &["topic", "consume", "large"], b"");
    assert_eq!(read.out.len(), long.len() + 1);
    create("small", "max.message.bytes=2000");
    let short: Vec<String> = (0..2_000).map(|number| format!("{number}\n")).collect();
    let short = short.concat();
    let written = good(
        broker.node,
        &["topic", "produce", "small"],
        short.as_bytes(),
    );
    assert!(
        written.errors.starts_with("2000 records written"),
        "{written:?}"
    );
    for length in [1_990, 3_000] {
        let input = format!("a\nb\n{}\nc\n", "x".repeat(length));
        let refused = run(
            broker.node,
            &["topic", "produce", "small"],
            input.as_bytes(),
        );
        assert_eq!(refused.code, Some(1), "{refused:?}");
        for part in [
            "2 records written to small",
            "line 3 is too long: small takes batches of 2000 bytes",
            &format!("`{PROGRAM} topic alter small --set max.message.bytes=BYTES`"),
            "the input is unread from line 3 on",
        ] {
            assert!(
                refused.errors.contains(part),
                "{part} is not in {refused:?}"
            );
        }
    }
}

#[test]
fn a_broker_that_goes_is_reported_and_given_up_with_an_account() {
    // Proves: long before any protocol timeout a person hears that the broker is gone, and in the end what was
    // written, what was not, and how far the input was read; the input may stay open.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    good(broker.node, &["topic", "create", "lost"], b"");
    let mut client = client(broker.node);
    let mut produce = Running::start(broker.node, &["topic", "produce", "lost", "--timeout=4"]);
    produce.write("kept\n");
    await_records(&mut client, "lost", 1);
    broker.kill();
    produce.write("gone\ngone too\n");
    let began = Instant::now();
    let ran = produce.end_by_itself();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in [
        "the broker has not answered for 2 s: ",
        "1 record written to lost in ",
        "gave up: the broker has stored nothing for ",
        "the input is unread from line 4 on",
    ] {
        assert!(ran.errors.contains(part), "{part} is not in {ran:?}");
    }
    // Both were refused by a connection that nobody took, or were on their way when it broke.
    let lost = [
        "2 records were not written",
        "2 records may be written or not",
    ];
    assert!(lost.iter().any(|part| ran.errors.contains(part)), "{ran:?}");
}

#[test]
fn a_topic_is_described_with_sizes_and_the_origin_of_settings() {
    // Proves: several topics at once, --set and --config are one, sizes are shown, and so are settings that are not
    // the built-in default, wherever they come from.
    let home = tempfile::tempdir().unwrap();
    let settings = [("STREAMBUS_TOPICS__MESSAGE_MAX_BYTES", "2000000")];
    let broker = Broker::start(home.path(), &settings);
    let on = |arguments: &[&str], input: &[u8]| good(broker.node, arguments, input);
    on(
        &[
            "topic",
            "create",
            "a",
            "-p",
            "2",
            "--set",
            "retention.ms=1000000",
        ],
        b"",
    );
    on(
        &["topic", "create", "b", "--config=retention.bytes=123456789"],
        b"",
    );
    on(
        &["topic", "alter", "b", "--config", "retention.ms=2000000"],
        b"",
    );
    on(&["topic", "produce", "b"], &[b'x'; 100]);
    let text = on(&["topic", "describe", "a", "b"], b"").out;
    let (a, b) = text.split_once("\n\n").unwrap();
    let row = |text: &str, words: &[&str]| {
        let found = text
            .lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>() == words);
        assert!(found, "{words:?} is not in {text}");
    };
    assert!(
        a.contains("2 partitions  0 B\n") && b.contains("1 partition  "),
        "{text}"
    );
    row(a, &["retention.ms", "1000000", "this", "topic"]);
    row(b, &["retention.ms", "2000000", "this", "topic"]);
    row(b, &["retention.bytes", "123456789", "this", "topic"]);
    for topic in [a, b] {
        let own = [
            "max.message.bytes",
            "2000000",
            "the",
            "broker's",
            "own",
            "settings",
        ];
        row(topic, &own);
        assert!(
            !topic.contains("cleanup.policy"),
            "a default is not shown: {topic}"
        );
    }
    row(b, &["0", "0", "0", "0", "0", "1", "170", "B"]);
}

#[test]
fn an_offset_past_the_end_is_said() {
    // Proves: nothing is printed as if all were well, and --follow does not begin at the first record.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    good(broker.node, &["topic", "create", "short"], b"");
    good(broker.node, &["topic", "produce", "short"], b"a\nb\n");
    let expected = "streambus: offset 99999 is past the end of short-0, which is 2\n";
    for more in [
        &["--from", "offset:99999"][..],
        &["-f", "-o", "offset:99999"],
    ] {
        let arguments = [&["topic", "consume", "short"], more].concat();
        let refused = run(broker.node, &arguments, b"");
        assert_eq!((refused.code, refused.errors.as_str()), (Some(1), expected));
    }
    let last = good(
        broker.node,
        &["topic", "consume", "short", "-o", "offset:1"],
        b"",
    );
    assert_eq!((last.out.as_str(), last.errors.as_str()), ("b\n", ""));
    let end = good(
        broker.node,
        &["topic", "consume", "short", "-o", "offset:2"],
        b"",
    );
    assert_eq!((end.out.as_str(), end.errors.as_str()), ("", ""));
}

#[test]
fn commands_are_shown_as_the_program_was_called() {
    // Proves: what a start suggests, and what help and errors name, can be typed as it is shown.
    let home = tempfile::tempdir().unwrap();
    let mut start = Command::new(PROGRAM)
        .args([
            "start",
            "--port=0",
            "--admin-address=127.0.0.1:0",
            "--data-dir",
        ])
        .arg(home.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let banner = BufReader::new(start.stdout.take().unwrap());
    let suggestion = banner.lines().map_while(Result::ok).find_map(|line| {
        line.trim()
            .strip_prefix("try ")
            .map(|typed| typed.trim().to_owned())
    });
    let suggestion = suggestion.expect("a suggestion");
    assert!(suggestion.starts_with(PROGRAM), "{suggestion}");
    let typed = Command::new("sh")
        .args(["-c", &suggestion])
        .output()
        .unwrap();
    let ran = Ran::from(typed);
    assert_eq!(ran.errors, "topic hello created with 6 partitions\n");
    let address: SocketAddr = suggestion.rsplit('=').next().unwrap().parse().unwrap();
    let missing = run(address, &["topic", "describe", "nowhere"], b"");
    assert!(
        missing.errors.contains(&format!("`{PROGRAM} topic list`")),
        "{missing:?}"
    );
    start.kill().unwrap();
    start.wait().unwrap();
    let wrong = Ran::from(
        Command::new(PROGRAM)
            .args(["topic", "crate"])
            .output()
            .unwrap(),
    );
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.errors.starts_with(PROGRAM) && wrong.errors.contains("did you mean create?"));
    let level = ["start", "--log-level=inof"];
    let refused = Ran::from(Command::new(PROGRAM).args(level).output().unwrap());
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.errors.contains("\"inof\" is no level"),
        "{refused:?}"
    );
}
