"""Kafka's own command line tools against the broker: each call, and what its output must show.

All of it holds for Apache Kafka 4.3.1 too: `tests/clients/run --only java-tools --bootstrap HOST:PORT`."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import tempfile

from lib import kafka
from lib.outcome import Outcome

CALL_S = 60
PACKAGE = "org.apache.kafka.tools."
CONFIGS = "kafka.admin.ConfigCommand"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
# Any of these in the output of a call that must succeed quietly is a failure.
NO_ERROR = "!(?i)error|exception"


@dataclasses.dataclass(frozen=True)
class Call:
    """A tool with its words, and a pattern over its output: dots match line ends. With a `!` before it the
    pattern must not be there and the tool must end with 0. {t} is a topic with nothing in it, {d} one with
    records, {id} the broker's id, {server} its address, {work} a directory."""

    name: str
    wanted: str
    tool: str
    words: str = ""
    lines: str = ""
    # Nearly all tools take the address this way.
    server: str = "--bootstrap-server {server}"


TOPICS = [
    Call("create", r"Created topic {t}\.", "TopicCommand",
         "--create --topic {t} --partitions 3 --config retention.ms=100000"),
    Call("create again", "already exists", "TopicCommand", "--create --topic {t}"),
    Call("create, if not there", NO_ERROR, "TopicCommand", "--create --if-not-exists --topic {t}"),
    Call("create with 100 replicas", "InvalidReplicationFactorException", "TopicCommand",
         "--create --topic {t}-x --replication-factor 100"),
    Call("create with an unknown setting", "Unknown topic config name: no.such", "TopicCommand",
         "--create --topic {t}-x --config no.such=1"),
    Call("create with an assignment", "Created topic", "TopicCommand",
         "--create --topic {t}-a --replica-assignment {id},{id}"),
    Call("list", r"(^|\n){t}\n", "TopicCommand", "--list"),
    Call("describe", r"Topic: {t}\tTopicId: \S{{22}}\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: "
         r".*retention.ms=100000.*Partition: 2\tLeader: \d+\tReplicas: \d+\tIsr: \d+", "TopicCommand",
         "--describe --topic {t}"),
    Call("describe those with settings", r"Topic: {t}\t.*retention.ms=100000", "TopicCommand",
         "--describe --topics-with-overrides"),
    Call("describe under-replicated", "!Topic: ", "TopicCommand", "--describe --under-replicated-partitions"),
    Call("describe unavailable", "!Topic: ", "TopicCommand", "--describe --unavailable-partitions"),
    Call("describe what is not there", "Topic '{t}-no' does not exist as expected", "TopicCommand",
         "--describe --topic {t}-no"),
    Call("more partitions", NO_ERROR, "TopicCommand", "--alter --topic {t} --partitions 6"),
    Call("fewer partitions", r"currently has 6 partition\(s\); 2 would not be an increase", "TopicCommand",
         "--alter --topic {t} --partitions 2"),
    Call("delete", NO_ERROR, "TopicCommand", "--delete --topic {t}-a"),
]
TOPIC, NODE, DEFAULT = "--entity-type topics --entity-name {t}", "--entity-type brokers --entity-name {id}", \
    "--entity-type brokers --entity-default"
SETTINGS = [
    Call("topic, set", "Completed updating config for topic {t}", CONFIGS,
         f"--alter {TOPIC} --add-config segment.bytes=2097152,cleanup.policy=[compact,delete]"),
    Call("topic, describe", r"segment.bytes=2097152 sensitive=false synonyms=\{{DYNAMIC_TOPIC_CONFIG:segment.bytes="
         r"2097152, .*DEFAULT_CONFIG:log.segment.bytes=1073741824\}}", CONFIGS, f"--describe {TOPIC}"),
    Call("topic, describe all", "index.interval.bytes=4096 .*unclean.leader.election.enable=false", CONFIGS,
         f"--describe --all {TOPIC}"),
    Call("topic, unset", "Completed updating config for topic {t}", CONFIGS,
         f"--alter {TOPIC} --delete-config segment.bytes"),
    Call("topic, wrong value", "Invalid value x for configuration retention.ms", CONFIGS,
         f"--alter {TOPIC} --add-config retention.ms=x"),
    Call("broker, describe", "Dynamic configs for broker {id} are:", CONFIGS, f"--describe {NODE}"),
    Call("broker, describe all", "log.retention.hours=168 ", CONFIGS, f"--describe --all {NODE}"),
    Call("broker, advertised.listeners", "advertised.listeners=PLAINTEXT://", CONFIGS, f"--describe --all {NODE}"),
    Call("broker, set", "Completed updating config for broker {id}", CONFIGS,
         f"--alter {NODE} --add-config message.max.bytes=1000000"),
    Call("broker, value set", r"message.max.bytes=1000000 sensitive=false synonyms=\{{DYNAMIC_BROKER_CONFIG:"
         r"message.max.bytes=1000000", CONFIGS, f"--describe {NODE}"),
    Call("broker, unset", "Completed updating config for broker {id}", CONFIGS,
         f"--alter {NODE} --delete-config message.max.bytes"),
    Call("all brokers, set", "Completed updating default config for brokers", CONFIGS,
         f"--alter {DEFAULT} --add-config log.retention.ms=700000000"),
    Call("all brokers, value set", "log.retention.ms=700000000 ", CONFIGS, f"--describe {DEFAULT}"),
    Call("all brokers, unset", "Completed updating default config for brokers", CONFIGS,
         f"--alter {DEFAULT} --delete-config log.retention.ms"),
    Call("broker, read-only", "Cannot update these configs dynamically", CONFIGS,
         f"--alter {NODE} --add-config log.dirs=/x"),
    Call("loggers", "=(INFO|WARN|DEBUG|ERROR) ", CONFIGS,
         "--describe --entity-type broker-loggers --entity-name {id}"),
]
RECORDS = [
    Call("create a topic for records", "Created topic", "TopicCommand", "--create --topic {d} --partitions 3"),
    Call("many small batches", "3000 records sent.*99.9th", "ProducerPerformance",
         "--topic {d} --num-records 3000 --record-size 100 --throughput -1 --command-property batch.size=1000"),
    Call("acks=all", "3000 records sent.*99.9th", "ProducerPerformance",
         "--topic {d} --num-records 3000 --record-size 100 --throughput -1 --command-property acks=all"),
    Call("zstd", "1000 records sent.*99.9th", "ProducerPerformance",
         "--topic {d} --num-records 1000 --record-size 1000 --throughput -1 "
         "--command-property compression.type=zstd"),
    Call("console producer", NO_ERROR, "ConsoleProducer", "--topic {t} --reader-property parse.key=true",
         lines="k1\tv1\nk2\tv2\n"),
    Call("console consumer", r"CreateTime:\d+\tPartition:0\tOffset:0\t.*Processed a total of 1 messages", CONSUMER,
         "--topic {d} --partition 0 --offset 0 --max-messages 1 --formatter-property print.timestamp=true "
         "--formatter-property print.partition=true --formatter-property print.offset=true"),
    Call("end to end latency", "Avg latency: .*Percentiles: 50th", "EndToEndLatency", "{server} {d} 200 all 100",
         server=""),
    Call("verifiable producer", '"acked":100.*|"sent":100', "VerifiableProducer",
         "--topic {d} --max-messages 100 --acks -1"),
]
OFFSETS = [
    Call("latest", r"{d}:0:[1-9]\d*\n{d}:1:\d+\n{d}:2:\d+", "GetOffsetShell", "--topic {d}"),
    Call("earliest", r"{d}:0:0\n{d}:1:0\n{d}:2:0", "GetOffsetShell", "--topic {d} --time earliest"),
    Call("by time", r"{d}:0:0\n", "GetOffsetShell", "--topic-partitions {d}:0 --time 1700000000000"),
    Call("max timestamp", r"{d}:0:\d+", "GetOffsetShell", "--topic-partitions {d}:0-1 --time max-timestamp"),
    Call("earliest local", "{d}:0:0", "GetOffsetShell", "--topic {d} --time earliest-local"),
    Call("delete records", r"partition: {d}-0\tlow_watermark: 5", "DeleteRecordsCommand",
         "--offset-json-file {work}/delete.json"),
    Call("earliest after it", "{d}:0:5", "GetOffsetShell", "--topic-partitions {d}:0 --time -2"),
    Call("log directories", r'"broker":{id}.*"partition":"{d}-0".*"size":[1-9]|"size":[1-9].*"partition":"{d}-',
         "LogDirsCommand", "--describe --topic-list {d}"),
    Call("active producers", r"ProducerId\s+ProducerEpoch\s+LatestCoordinatorEpoch", "TransactionsCommand",
         "--bootstrap-server {server} describe-producers --topic {d} --partition 0", server=""),
]
CLUSTER = [
    Call("served versions", r"Produce\(0\): 0 to 1[3-9]", "BrokerApiVersionsCommand"),
    Call("cluster id", r"Cluster ID: \S+", "ClusterTool", "cluster-id"),
    Call("endpoints", r"ID +HOST.*\n{id} ", "ClusterTool", "list-endpoints"),
    Call("quorum", "ClusterId: .*LeaderId: .*HighWatermark: ", "MetadataQuorumCommand",
         "--bootstrap-server {server} describe --status", server=""),
    Call("quorum replicas", r"NodeId\s+DirectoryId\s+LogEndOffset.*Leader", "MetadataQuorumCommand",
         "--bootstrap-server {server} describe --replication", server=""),
    Call("reassignments", "No partition reassignments found", "reassign.ReassignPartitionsCommand", "--list"),
    Call("assign to the same place", "Successfully started partition reassignment for {d}-0",
         "reassign.ReassignPartitionsCommand", "--execute --reassignment-json-file {work}/assign.json"),
    Call("elect a leader", "Valid replica already elected for partitions", "LeaderElectionCommand",
         "--election-type preferred --topic {d} --partition 0"),
    Call("features", NO_ERROR, "FeatureCommand", "--bootstrap-server {server} describe", server=""),
    Call("ACLs without an authorizer", "No Authorizer is configured", "AclCommand", "--list"),
    Call("SASL on a plain listener", r"Unexpected handshake request with client mechanism PLAIN, enabled mechanisms "
         r"are \[\]", "TopicCommand", "--list --command-config {work}/sasl.properties"),
]
SASL = """security.protocol=SASL_PLAINTEXT
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="b";
"""
PARTS = {"topics": TOPICS, "settings": SETTINGS, "records": RECORDS, "offsets": OFFSETS, "cluster": CLUSTER}


class Tools:
    """Runs tools, each in a JVM of its own as its script does."""

    def __init__(self, log):
        self._log = log
        self._classpath = kafka.classpath()

    def run(self, tool, words, lines=""):
        """What a tool prints, and its exit code; -1 if it does not end."""
        known = tool.startswith(("kafka.", PACKAGE))
        command = ["java", "-Xmx256m", *kafka.QUICK, *kafka.shared_classes(), "-Dlog4j2.level=ERROR", "-cp",
                   self._classpath, tool if known else PACKAGE + tool, *words]
        try:
            done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=CALL_S, check=False)
        except subprocess.TimeoutExpired:
            return f"no end after {CALL_S} s", -1
        output = done.stdout + done.stderr
        print(f"== {tool} {' '.join(words)}: {done.returncode}\n{output}", file=self._log, flush=True)
        return output, done.returncode


def judge(call, names, tools):
    """One call: its outcome's result and why."""
    # Names stand for themselves in a pattern.
    wanted = call.wanted.format(**{key: re.escape(value) for key, value in names.items()})
    words = shlex.split(f"{call.words} {call.server}".format(**names))
    output, code = tools.run(call.tool, words, call.lines)
    if wanted.startswith("!"):
        good = code == 0 and not re.search(wanted[1:], output, re.S)
    else:
        good = re.search(wanted, output, re.S)
    if good:
        return "PASS", ""
    telling = [line for line in output.splitlines() if re.search("(?i)exception|error|unsupported", line)]
    return "FAIL", f"wanted {wanted!r}: {' '.join((telling or output.splitlines() or ['nothing'])[0].split())[:300]}"


def run(address, log):
    """Yields an outcome for each call, in order: later calls see what earlier ones did."""
    tools = Tools(log)
    output, _ = tools.run("BrokerApiVersionsCommand", ["--bootstrap-server", address])
    broker = re.search(r"\(id: (\d+)", output)
    if not broker:
        yield Outcome("java-tools", "FAIL", f"no broker answers at {address}: {output[:300]}")
        return
    with tempfile.TemporaryDirectory(prefix="streambus-java-tools-") as work:
        # Names of this run: with --bootstrap the broker may have those of another.
        topic = f"tools-{os.getpid()}"
        names = {"t": topic, "d": f"{topic}-data", "id": broker[1], "server": address, "work": work}
        put(work, "delete.json", [{"topic": names["d"], "partition": 0, "offset": 5}])
        with open(f"{work}/sasl.properties", "w", encoding="utf-8") as file:
            file.write(SASL)
        for part, calls in PARTS.items():
            if part == "cluster":
                put(work, "assign.json", [{"topic": names["d"], "partition": 0, "log_dirs": ["any"],
                                           "replicas": [leader(tools, names)]}])
            for call in calls:
                result, why = judge(call, names, tools)
                yield Outcome(f"java-tools {part}: {call.name}", result, why)


def put(work, name, partitions):
    """A file that a tool reads."""
    with open(f"{work}/{name}", "w", encoding="utf-8") as file:
        json.dump({"version": 1, "partitions": partitions}, file)


def leader(tools, names):
    """The broker that leads the first partition of the topic with records."""
    output, _ = tools.run("TopicCommand", ["--describe", "--topic", names["d"], "--bootstrap-server", names["server"]])
    found = re.search(r"Partition: 0\tLeader: (\d+)", output)
    return int(found[1]) if found else -1
