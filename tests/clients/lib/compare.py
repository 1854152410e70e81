"""Asks Apache Kafka and this broker the same requests and compares the answers field by field.

`compare_cases.py` holds the requests, with good and bad input for each API; every version that both
serve is asked. What names a broker (ids, ports, topic ids, directories, clocks) is replaced by what it
stands for. Texts are each broker's own: compared is whether there is one, for null, empty and text are not
the same to clients. The order of lists is not compared, for Kafka's follows its hash tables.
`ALLOWED` in `compare_allowed.py` lists every difference that stays, with its reason."""

import dataclasses
import time

from lib import batches, wire
from lib.compare_allowed import ALLOWED
from lib.compare_cases import CASES, RECORDS, TOPICS
from lib.outcome import Outcome

# Fields whose numbers are broker ids.
BROKER_FIELDS = {"node_id", "broker_id", "leader_id", "controller_id", "replica_id", "replica_nodes", "isr_nodes"}
# Fields that say when, how much, or which of many: both must have them, each has its own value.
OWN_VALUES = {"last_timestamp": "time", "last_fetch_timestamp": "time", "last_caught_up_timestamp": "time",
              "total_bytes": "bytes", "usable_bytes": "bytes", "partition_size": "bytes", "producer_id": "producer",
              "session_id": "session", "cluster_id": "cluster", "finalized_features_epoch": "epoch"}
TEXTS = {"error_message", "batch_index_error_message", "documentation"}
# What tells the entries of a list apart.
KEYS = ("name", "topic", "topic_name", "resource_name", "resource_type", "key", "feature", "partition_index",
        "partition", "index", "partition_id", "node_id", "broker_id", "replica_id", "api_key", "log_dir", "source")
# A busy machine is slow to schedule.
READY_S = 60
# COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE: Kafka creates what is behind some requests when the
# first one comes.
LATER = (14, 15)
# Differences of one API that are printed.
SHOWN_MAX = 5


@dataclasses.dataclass
class Facts:
    """What a request or an answer of one broker may name."""

    address: str
    broker: int
    port: int
    log_dir: str
    topics: dict  # name: id


class Side:
    """One of the two brokers."""

    def __init__(self, address, apis):
        self.address, self.apis = address, apis
        self.served = {row["api_key"]: (row["min_version"], row["max_version"])
                       for row in self.ask("ApiVersions", 0, {})["api_keys"]}
        self.prepare()

    def ask(self, name, version, values):
        """One request on a connection of its own, so that a closed one is an answer like another."""
        try:
            with wire.Connection(self.address) as connection:
                return connection.ask(self.apis[name], version, values)
        except ConnectionError:
            return {"connection": "closed"}

    def prepare(self):
        """Topics and records that the requests are about, and what this broker calls them."""
        made = self.ask("CreateTopics", 7, {"topics": TOPICS, "timeout_ms": 10_000})
        refused = [topic for topic in made["topics"] if topic["error_code"]]
        assert not refused, f"{self.address} refused {refused}"
        answer = self.ask("Metadata", 12, {"topics": [{"name": topic["name"]} for topic in TOPICS]})
        node = answer["brokers"][0]
        dirs = self.ask("DescribeLogDirs", 4, {"topics": []})["results"]
        self.facts = Facts(self.address, node["node_id"], node["port"], dirs[0]["log_dir"],
                           {topic["name"]: topic["topic_id"] for topic in answer["topics"]})
        for topic in TOPICS:
            for partition in range(topic["num_partitions"]):
                self.await_leader(topic["name"], partition)
        for topic, partition, records in RECORDS:
            answer = self.ask("Produce", 9, {"acks": -1, "timeout_ms": 10_000, "topic_data": [
                {"name": topic, "partition_data": [{"index": partition, "records": batches.batch(records)}]}]})
            code = answer["responses"][0]["partition_responses"][0]["error_code"]
            assert code == 0, f"{self.address} refused records of {topic}: {code}"

    def await_leader(self, topic, partition):
        """Kafka answers that a topic is created before its partitions are served."""
        deadline = time.monotonic() + READY_S
        while True:
            answer = self.ask("ListOffsets", 5, {"replica_id": -1, "topics": [{"name": topic, "partitions": [
                {"partition_index": partition, "timestamp": -1}]}]})
            if answer["topics"][0]["partitions"][0]["error_code"] == 0:
                return
            assert time.monotonic() < deadline, f"{self.address} does not serve {topic}-{partition} after {READY_S} s"
            time.sleep(0.05)

    def answer(self, name, version, values):
        """The answer in plain names, as {path: value}."""
        values = filled(values, self.facts)
        values = {field.name: values[field.name] for field in self.apis[name].request.fields
                  if field.name in values and field.has(version)}
        deadline = time.monotonic() + READY_S
        while True:
            found = {}
            flat("", plain("", self.ask(name, version, values), self.facts), found)
            later = [path for path, value in found.items() if path.endswith("error_code") and value in LATER]
            if not later or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


def filled(value, facts):
    """A request with the broker's own names in it: functions are called with its facts."""
    if callable(value):
        return value(facts)
    if isinstance(value, dict):
        return {key: filled(below, facts) for key, below in value.items()}
    if isinstance(value, list):
        return [filled(below, facts) for below in value]
    return value


def plain(name, value, facts):
    """An answer with what is one broker's own replaced by what it stands for."""
    if isinstance(value, dict):
        return {key: plain(key, below, facts) for key, below in value.items()}
    if isinstance(value, list):
        return [plain(name, below, facts) for below in value]
    if name in BROKER_FIELDS and value == facts.broker:
        return "<broker>"
    if name == "port" and value == facts.port:
        return "<port>"
    if name == "resource_name" and value == str(facts.broker):
        return "<broker>"
    if name == "log_dir" and value == facts.log_dir:
        return "<data directory>"
    if name in TEXTS and value:
        return "<text>"
    if isinstance(value, bytes) and len(value) == 16:
        named = [f"<id of {topic}>" for topic, known in facts.topics.items() if known == value]
        return (named or [value.hex()])[0]
    if name in OWN_VALUES and value not in (None, -1, ""):
        return f"<{OWN_VALUES[name]}>"
    return value.hex() if isinstance(value, bytes) else value


def flat(path, value, found):
    """Every field by its path; the entries of a list by what tells them apart."""
    if isinstance(value, dict):
        for key, below in value.items():
            flat(f"{path}.{key}" if path else key, below, found)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        seen = {}
        for entry in value:
            label = "/".join(str(entry[key]) for key in KEYS if entry.get(key) is not None) or entry.get("topic_id")
            seen[label] = seen.get(label, -1) + 1
            flat(f"{path}[{label}#{seen[label]}]" if seen[label] else f"{path}[{label}]", entry, found)
    elif isinstance(value, list):
        found[path] = sorted(value, key=str)
    else:
        found[path] = value


def compare_api(name, cases, kafka, ours):
    """One API: every case in every version that both serve."""
    key = ours.apis[name].key
    if key not in kafka.served or key not in ours.served:
        return Outcome(f"compare {name}", "FAIL", "it is not served by both")
    if kafka.served[key] != ours.served[key]:
        return Outcome(f"compare {name}", "FAIL", f"versions {ours.served[key]}, Kafka's {kafka.served[key]}")
    first, last = max(ours.served[key][0], ours.apis[name].request.versions[0]), ours.served[key][1]
    asked, differences, allowed = 0, [], set()
    for case, values, since in cases:
        for version in range(max(first, since), last + 1):
            asked += 1
            theirs, own = kafka.answer(name, version, values), ours.answer(name, version, values)
            for path in sorted({*theirs, *own}):
                left, right = theirs.get(path, "<absent>"), own.get(path, "<absent>")
                if left == right:
                    continue
                row = next((row for row in ALLOWED if row.covers(name, case, path)), None)
                if row:
                    allowed.add(row)
                else:
                    differences.append(f"v{version} {case}: {path} is {right!r}, Kafka's {left!r}")
    if differences:
        shown = "; ".join(differences[:SHOWN_MAX])
        return Outcome(f"compare {name}", "FAIL", f"{len(differences)} differences: {shown}")
    return Outcome(f"compare {name}", "PASS", f"{asked} answers, {len(allowed)} allowed differences")


def run(kafka_address, our_address):
    """Yields an outcome for each API; the last says that none was left out."""
    apis = wire.apis()
    kafka, ours = Side(kafka_address, apis), Side(our_address, apis)
    names = list(dict.fromkeys(name for name, _, _, _ in CASES))
    for name in names:
        yield compare_api(name, [case[1:] for case in CASES if case[0] == name], kafka, ours)
    by_key = {api.key: name for name, api in apis.items()}
    missing = sorted(by_key[key] for key in ours.served if by_key[key] not in names)
    yield Outcome("compare all APIs", "FAIL" if missing else "PASS", f"no case for {missing}" if missing else "")
