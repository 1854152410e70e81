"""The requests that both brokers are asked: (API, case, fields, first version that it makes sense in).

A function stands for what is named differently on each broker: it is called with that broker's facts.
Fields that a version does not have are left out of it. Requests that change something are asked so that
they change nothing (`validate_only`) or the same on both."""

from lib import batches

TIMEOUT = {"timeout_ms": 10_000}
TOPICS = [
    {"name": "data", "num_partitions": 2, "replication_factor": 1},
    {"name": "empty", "num_partitions": 1, "replication_factor": 1, "configs": [
        {"name": "retention.ms", "value": "3600000000"}]},
    {"name": "compact", "num_partitions": 1, "replication_factor": 1, "configs": [
        {"name": "cleanup.policy", "value": "compact"}]},
    {"name": "both", "num_partitions": 1, "replication_factor": 1, "configs": [
        {"name": "cleanup.policy", "value": "compact,delete"}]},
    {"name": "sink", "num_partitions": 1, "replication_factor": 1},
]
RECORDS = [("data", 0, [(b"a", b"1"), (b"b", None), (None, b"3")]), ("data", 0, [(b"c", b"4")]),
           ("both", 0, [(b"k", b"v")])]
UNKNOWN_ID = bytes(range(16))


def broker(facts):
    """The broker's id."""
    return facts.broker


def broker_name(facts):
    """The broker's id as a resource's name."""
    return str(facts.broker)


def log_dir(facts):
    """The broker's data directory."""
    return facts.log_dir


def topic_id(name):
    """A topic's id."""
    return lambda facts: facts.topics[name]


def produce(index, records, topic="sink", acks=-1):
    """Fields of Produce."""
    return {"acks": acks, **TIMEOUT, "topic_data": [
        {"name": topic, "topic_id": topic_id(topic) if topic != "no" else UNKNOWN_ID,
         "partition_data": [{"index": index, "records": records}]}]}


def fetch(partition, offset, topic="data", epoch=-1, **more):
    """Fields of Fetch."""
    return {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, **more, "topics": [
        {"topic": topic, "topic_id": topic_id(topic) if topic != "no" else UNKNOWN_ID, "partitions": [
            {"partition": partition, "fetch_offset": offset, "current_leader_epoch": epoch,
             "partition_max_bytes": 1 << 20}]}]}


def list_offsets(timestamp, topic="data", partition=0, epoch=-1):
    """Fields of ListOffsets."""
    return {"replica_id": -1, **TIMEOUT, "topics": [{"name": topic, "partitions": [
        {"partition_index": partition, "timestamp": timestamp, "current_leader_epoch": epoch}]}]}


def create(validate_only=True, **topic):
    """Fields of CreateTopics, for one topic."""
    return {**TIMEOUT, "validate_only": validate_only, "topics": [
        {"name": "new", "num_partitions": 1, "replication_factor": 1, **topic}]}


def delete_records(topic, *partitions):
    """Fields of DeleteRecords."""
    return {**TIMEOUT, "topics": [{"name": topic, "partitions": [
        {"partition_index": index, "offset": offset} for index, offset in partitions]}]}


def epochs(topic, partition, epoch, current=-1):
    """Fields of OffsetForLeaderEpoch."""
    return {"topics": [{"topic": topic, "partitions": [
        {"partition": partition, "leader_epoch": epoch, "current_leader_epoch": current}]}]}


TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32


def describe(kind, name, keys=None):
    """Fields of DescribeConfigs."""
    return {"resources": [{"resource_type": kind, "resource_name": name, "configuration_keys": keys}],
            "include_synonyms": True, "include_documentation": True}


def alter(kind, name, *configs):
    """Fields of AlterConfigs, only judged."""
    return {"validate_only": True, "resources": [{"resource_type": kind, "resource_name": name, "configs": [
        {"name": key, "value": value} for key, value in configs]}]}


def edit(kind, name, *configs):
    """Fields of IncrementalAlterConfigs, only judged."""
    return {"validate_only": True, "resources": [{"resource_type": kind, "resource_name": name, "configs": [
        {"name": key, "config_operation": operation, "value": value} for key, operation, value in configs]}]}


def grow(topic, count, assignments=None):
    """Fields of CreatePartitions, only judged."""
    return {**TIMEOUT, "validate_only": True, "topics": [{"name": topic, "count": count, "assignments": assignments}]}


def elect(kind, topics):
    """Fields of ElectLeaders."""
    return {"election_type": kind, "topic_partitions": topics, **TIMEOUT}


def reassign(partition, replicas, topic="data"):
    """Fields of AlterPartitionReassignments."""
    return {**TIMEOUT, "topics": [{"name": topic, "partitions": [
        {"partition_index": partition, "replicas": replicas}]}]}


def move(path):
    """Fields of AlterReplicaLogDirs."""
    return {"dirs": [{"path": path, "topics": [
        {"name": "data", "partitions": [0, 9]}, {"name": "no", "partitions": [0]}]}]}


def quorum(*topics):
    """Fields of DescribeQuorum."""
    return {"topics": [{"topic_name": name, "partitions": [{"partition_index": index} for index in indexes]}
                       for name, indexes in topics]}


def features(level, feature="no.such", kind=1):
    """Fields of UpdateFeatures, only judged."""
    return {**TIMEOUT, "validate_only": True, "feature_updates": [
        {"feature": feature, "max_version_level": level, **({"upgrade_type": kind} if kind != 1 else {})}]}


ACL = {"resource_type": 2, "resource_name": "data", "resource_pattern_type": 3, "principal": "User:a", "host": "*",
       "operation": 3, "permission_type": 3}
ACL_FILTER = {"resource_type_filter": 1, "pattern_type_filter": 1, "resource_name_filter": None,
              "principal_filter": None, "host_filter": None, "operation": 1, "permission_type": 1}
NAMELESS = {"client_software_name": "", "client_software_version": ""}
NAMED = {"client_software_name": "compare", "client_software_version": "1"}

# Case, kind of resource, its name, a setting and its value: asked of both APIs that alter settings.
ALTERATIONS = [
    ("topic", TOPIC, "data", "retention.ms", "7"),
    ("unknown topic", TOPIC, "no", "retention.ms", "7"),
    ("unknown setting", TOPIC, "data", "no.such", "7"),
    ("wrong value", TOPIC, "data", "retention.ms", "x"),
    ("null value", TOPIC, "data", "retention.ms", None),
    ("broker", BROKER, broker_name, "log.retention.ms", "7"),
    ("fixed broker setting", BROKER, broker_name, "log.dirs", "/x"),
    ("unknown broker", BROKER, "7777", "log.retention.ms", "7"),
    ("unknown type", 99, "x", "a", "b"),
]

CASES = [
    ("ApiVersions", "with a name", NAMED, 0),
    ("ApiVersions", "without a name", NAMELESS, 0),
    ("SaslHandshake", "plain listener", {"mechanism": "PLAIN"}, 0),
    ("SaslAuthenticate", "plain listener", {"auth_bytes": b"\0user\0password"}, 0),

    ("Metadata", "all topics", {"topics": None}, 1),
    ("Metadata", "empty list", {"topics": []}, 0),
    ("Metadata", "by name", {"topics": [{"name": "data"}, {"name": "empty"}], "allow_auto_topic_creation": False,
                             "include_topic_authorized_operations": True}, 4),
    ("Metadata", "cluster operations", {"topics": [], "include_cluster_authorized_operations": True}, 8),
    ("Metadata", "unknown name", {"topics": [{"name": "no"}], "allow_auto_topic_creation": False,
                                  "include_topic_authorized_operations": True}, 4),
    ("Metadata", "bad name", {"topics": [{"name": "a/b"}], "allow_auto_topic_creation": True}, 0),
    ("Metadata", "reserved name", {"topics": [{"name": "__cluster_metadata"}], "allow_auto_topic_creation": True}, 0),
    ("Metadata", "internal, not there", {"topics": [{"name": "__share_group_state"}],
                                         "allow_auto_topic_creation": False}, 4),
    ("Metadata", "by id", {"topics": [{"name": None, "topic_id": topic_id("data")}]}, 12),
    ("Metadata", "unknown id", {"topics": [{"name": None, "topic_id": UNKNOWN_ID}]}, 12),

    ("Produce", "unknown topic", produce(0, batches.batch([(b"k", b"v")]), "no"), 3),
    ("Produce", "unknown partition", produce(9, batches.batch([(b"k", b"v")])), 3),
    ("Produce", "acks 2", produce(0, batches.batch([(b"k", b"v")]), acks=2), 3),
    ("Produce", "damaged", produce(0, batches.batch([(b"k", b"v")], damaged=True)), 3),
    ("Produce", "no key in a compacted topic", produce(0, batches.batch([(b"k", b"v"), (None, b"v")]), "compact"), 3),
    ("Produce", "acks all", produce(0, batches.batch([(b"k", b"v"), (None, None)])), 3),
    ("Produce", "acks 1", produce(0, batches.batch([(b"k", b"v")]), acks=1), 3),

    ("Fetch", "from the start", fetch(0, 0), 4),
    ("Fetch", "read committed", fetch(0, 0, isolation_level=1), 4),
    ("Fetch", "inside a batch", fetch(0, 1), 4),
    ("Fetch", "at the end", fetch(0, 4), 4),
    ("Fetch", "past the end", fetch(0, 99), 4),
    ("Fetch", "before the start", fetch(0, -1), 4),
    ("Fetch", "empty partition", fetch(1, 0), 4),
    ("Fetch", "unknown topic", fetch(0, 0, "no"), 4),
    ("Fetch", "unknown partition", fetch(9, 0), 4),
    ("Fetch", "later leader epoch", fetch(0, 0, epoch=99), 9),
    ("Fetch", "new session", fetch(0, 0, session_epoch=0), 7),
    ("Fetch", "unknown session", fetch(0, 0, session_id=77, session_epoch=3), 7),

    ("ListOffsets", "latest", list_offsets(-1), 1),
    ("ListOffsets", "earliest", list_offsets(-2), 1),
    ("ListOffsets", "latest, empty partition", list_offsets(-1, partition=1), 1),
    ("ListOffsets", "largest timestamp", list_offsets(-3), 7),
    ("ListOffsets", "largest timestamp, empty partition", list_offsets(-3, partition=1), 7),
    ("ListOffsets", "earliest local", list_offsets(-4), 8),
    ("ListOffsets", "latest tiered", list_offsets(-5), 9),
    ("ListOffsets", "earliest pending upload", list_offsets(-6), 11),
    ("ListOffsets", "unknown special", list_offsets(-9), 1),
    ("ListOffsets", "by time", list_offsets(batches.TIMESTAMP + 1), 1),
    ("ListOffsets", "after the last", list_offsets(batches.TIMESTAMP + 1_000), 1),
    ("ListOffsets", "unknown topic", list_offsets(-1, "no"), 1),
    ("ListOffsets", "unknown partition", list_offsets(-1, partition=9), 1),
    ("ListOffsets", "later leader epoch", list_offsets(-1, epoch=99), 4),

    ("OffsetForLeaderEpoch", "first epoch", epochs("data", 0, 0), 2),
    ("OffsetForLeaderEpoch", "later epoch", epochs("data", 0, 9), 2),
    ("OffsetForLeaderEpoch", "undefined epoch", epochs("data", 0, -1), 2),
    ("OffsetForLeaderEpoch", "empty partition", epochs("data", 1, 0), 2),
    ("OffsetForLeaderEpoch", "later current epoch", epochs("data", 0, 0, 99), 2),
    ("OffsetForLeaderEpoch", "unknown topic", epochs("no", 0, 0), 2),
    ("OffsetForLeaderEpoch", "unknown partition", epochs("data", 9, 0), 2),

    ("CreateTopics", "judged", create(), 2),
    ("CreateTopics", "judged with a setting", create(configs=[{"name": "retention.ms", "value": "7"}]), 2),
    ("CreateTopics", "already there", create(name="data"), 2),
    ("CreateTopics", "bad name", create(name="a/b"), 2),
    ("CreateTopics", "reserved name", create(name="__cluster_metadata"), 2),
    ("CreateTopics", "no partitions", create(num_partitions=0), 2),
    ("CreateTopics", "default counts", create(num_partitions=-1, replication_factor=-1), 4),
    ("CreateTopics", "too many replicas", create(replication_factor=3), 2),
    ("CreateTopics", "replicas 0", create(replication_factor=0), 2),
    ("CreateTopics", "unknown setting", create(configs=[{"name": "no.such", "value": "1"}]), 2),
    ("CreateTopics", "wrong value", create(configs=[{"name": "retention.ms", "value": "x"}]), 2),
    ("CreateTopics", "null value", create(configs=[{"name": "retention.ms", "value": None}]), 2),
    ("CreateTopics", "assigned", create(num_partitions=-1, replication_factor=-1, assignments=[
        {"partition_index": 0, "broker_ids": [broker]}]), 2),
    ("CreateTopics", "assigned to nobody", create(num_partitions=-1, replication_factor=-1, assignments=[
        {"partition_index": 0, "broker_ids": [7777]}]), 2),
    ("CreateTopics", "assigned and counted", create(assignments=[
        {"partition_index": 0, "broker_ids": [broker]}]), 2),
    ("CreateTopics", "twice", {**TIMEOUT, "validate_only": True, "topics": create()["topics"] * 2}, 2),
    ("CreateTopics", "none", {**TIMEOUT, "topics": []}, 2),

    ("DeleteTopics", "unknown name", {**TIMEOUT, "topic_names": ["no"], "topics": [{"name": "no"}]}, 1),
    ("DeleteTopics", "unknown id", {**TIMEOUT, "topics": [{"name": None, "topic_id": UNKNOWN_ID}]}, 6),
    ("DeleteTopics", "neither", {**TIMEOUT, "topics": [{"name": None}]}, 6),
    ("DeleteTopics", "both", {**TIMEOUT, "topics": [{"name": "data", "topic_id": topic_id("data")}]}, 6),
    ("DeleteTopics", "none", {**TIMEOUT}, 1),

    ("DeleteRecords", "nothing to delete", delete_records("both", (0, 0)), 0),
    ("DeleteRecords", "past the end", delete_records("both", (0, 99)), 0),
    ("DeleteRecords", "negative", delete_records("both", (0, -2)), 0),
    ("DeleteRecords", "all", delete_records("both", (0, -1)), 0),
    ("DeleteRecords", "compacted only", delete_records("compact", (0, 0), (9, 0)), 0),
    ("DeleteRecords", "unknown topic", delete_records("no", (0, 0)), 0),

    ("CreatePartitions", "more", grow("data", 5), 0),
    ("CreatePartitions", "as many", grow("data", 2), 0),
    ("CreatePartitions", "fewer", grow("data", 1), 0),
    ("CreatePartitions", "negative", grow("data", -1), 0),
    ("CreatePartitions", "unknown topic", grow("no", 5), 0),
    ("CreatePartitions", "assigned", grow("data", 3, [{"broker_ids": [broker]}]), 0),
    ("CreatePartitions", "assigned to nobody", grow("data", 3, [{"broker_ids": [7777]}]), 0),
    ("CreatePartitions", "wrong count of assignments", grow("data", 5, [{"broker_ids": [broker]}]), 0),
    ("CreatePartitions", "twice", {**TIMEOUT, "validate_only": True, "topics": grow("data", 5)["topics"] * 2}, 0),

    ("InitProducerId", "idempotent", {"transactional_id": None, "transaction_timeout_ms": 60_000}, 0),
    ("InitProducerId", "empty transactional id", {"transactional_id": "", "transaction_timeout_ms": 60_000}, 0),

    ("DescribeConfigs", "topic, some keys", describe(TOPIC, "empty", ["retention.ms", "cleanup.policy", "no.such"]), 1),
    ("DescribeConfigs", "topic, no keys", describe(TOPIC, "empty", []), 1),
    ("DescribeConfigs", "topic, all", describe(TOPIC, "empty"), 1),
    ("DescribeConfigs", "unknown topic", describe(TOPIC, "no"), 1),
    ("DescribeConfigs", "bad topic name", describe(TOPIC, "a/b"), 1),
    ("DescribeConfigs", "broker, all", describe(BROKER, broker_name), 1),
    ("DescribeConfigs", "cluster", describe(BROKER, ""), 1),
    ("DescribeConfigs", "unknown broker", describe(BROKER, "7777"), 1),
    ("DescribeConfigs", "not a broker id", describe(BROKER, "x"), 1),
    ("DescribeConfigs", "loggers", describe(LOGGER, broker_name), 1),
    ("DescribeConfigs", "loggers of nobody", describe(LOGGER, "7777"), 1),
    ("DescribeConfigs", "client metrics", describe(METRICS, "no"), 1),
    ("DescribeConfigs", "group", describe(GROUP, "no"), 1),
    ("DescribeConfigs", "unknown type", describe(99, "x"), 1),

    *[("AlterConfigs", case, alter(kind, name, (key, value)), 0) for case, kind, name, key, value in ALTERATIONS],
    *[("IncrementalAlterConfigs", case, edit(kind, name, (key, 0, value)), 0)
      for case, kind, name, key, value in ALTERATIONS],
    ("IncrementalAlterConfigs", "twice", {"resources": edit(TOPIC, "data")["resources"] * 2, "validate_only": True}, 0),
    ("IncrementalAlterConfigs", "unknown operation", edit(TOPIC, "data", ("retention.ms", 9, "7")), 0),
    ("IncrementalAlterConfigs", "append to a number", edit(TOPIC, "data", ("retention.ms", 2, "7")), 0),
    ("IncrementalAlterConfigs", "append to a list", edit(TOPIC, "data", ("cleanup.policy", 2, "compact")), 0),
    ("IncrementalAlterConfigs", "subtract from a list", edit(TOPIC, "both", ("cleanup.policy", 3, "compact")), 0),
    ("IncrementalAlterConfigs", "delete", edit(TOPIC, "empty", ("retention.ms", 1, None)), 0),
    ("IncrementalAlterConfigs", "same key twice",
     edit(TOPIC, "data", ("retention.ms", 0, "7"), ("retention.ms", 0, "8")), 0),

    ("ListConfigResources", "all", {"resource_types": []}, 0),
    ("ListConfigResources", "topics and brokers", {"resource_types": [TOPIC, BROKER]}, 1),
    ("ListConfigResources", "unknown type", {"resource_types": [99]}, 1),

    ("DescribeLogDirs", "all", {"topics": None}, 1),
    ("DescribeLogDirs", "none", {"topics": []}, 1),
    ("DescribeLogDirs", "some", {"topics": [{"topic": "data", "partitions": [0, 9]},
                                            {"topic": "no", "partitions": [0]}]}, 1),
    ("AlterReplicaLogDirs", "data directory", move(log_dir), 1),
    ("AlterReplicaLogDirs", "other directory", move("/no/such"), 1),
    ("AlterReplicaLogDirs", "none", {"dirs": []}, 1),

    ("DescribeCluster", "brokers", {"endpoint_type": 1}, 0),
    ("DescribeCluster", "operations", {"endpoint_type": 1, "include_cluster_authorized_operations": True}, 0),
    ("DescribeCluster", "controllers", {"endpoint_type": 2}, 1),
    ("DescribeCluster", "unknown endpoints", {"endpoint_type": 9}, 1),
    ("DescribeQuorum", "metadata log", quorum(("__cluster_metadata", [0])), 0),
    ("DescribeQuorum", "another topic", quorum(("data", [0])), 0),
    ("DescribeQuorum", "another partition", quorum(("__cluster_metadata", [0, 1])), 0),
    ("DescribeQuorum", "none", quorum(), 0),
    ("DescribeProducers", "no producer", {"topics": [{"name": "data", "partition_indexes": [0, 9]}]}, 0),
    ("DescribeProducers", "unknown topic", {"topics": [{"name": "no", "partition_indexes": [0]}]}, 0),
    ("DescribeTopicPartitions", "by name", {"topics": [{"name": "data"}, {"name": "no"}, {"name": "a/b"}]}, 0),
    ("DescribeTopicPartitions", "page", {"topics": [{"name": "both"}, {"name": "data"}],
                                         "response_partition_limit": 2}, 0),
    ("DescribeTopicPartitions", "next page", {"topics": [{"name": "both"}, {"name": "data"}], "cursor": {
        "topic_name": "data", "partition_index": 1}}, 0),
    ("DescribeTopicPartitions", "all", {"topics": []}, 0),

    ("ElectLeaders", "preferred", elect(0, [{"topic": "data", "partitions": [0, 9]},
                                            {"topic": "no", "partitions": [0]}]), 0),
    ("ElectLeaders", "any live replica", elect(1, [{"topic": "data", "partitions": [0]}]), 1),
    ("ElectLeaders", "all partitions", elect(0, None), 0),
    ("ElectLeaders", "none", elect(0, []), 0),
    ("ElectLeaders", "unknown election", elect(7, [{"topic": "data", "partitions": [0]}]), 1),
    ("AlterPartitionReassignments", "same place", reassign(0, [broker]), 0),
    ("AlterPartitionReassignments", "cancel", reassign(0, None), 0),
    ("AlterPartitionReassignments", "nobody", reassign(0, [7777]), 0),
    ("AlterPartitionReassignments", "empty", reassign(0, []), 0),
    ("AlterPartitionReassignments", "same broker twice", reassign(0, [broker, broker]), 0),
    ("AlterPartitionReassignments", "unknown partition", reassign(9, [broker]), 0),
    ("AlterPartitionReassignments", "unknown topic", reassign(0, [broker], "no"), 0),
    ("AlterPartitionReassignments", "none", {**TIMEOUT, "topics": []}, 0),
    ("ListPartitionReassignments", "all", {**TIMEOUT, "topics": None}, 0),
    ("ListPartitionReassignments", "some", {**TIMEOUT, "topics": [{"name": "data", "partition_indexes": [0, 9]}]}, 0),

    ("UpdateFeatures", "none", {**TIMEOUT, "feature_updates": []}, 0),
    ("UpdateFeatures", "unknown feature", features(2), 0),
    ("UpdateFeatures", "unknown feature to 0", features(0), 0),
    ("UpdateFeatures", "negative level", features(-3), 0),
    ("UpdateFeatures", "unknown kind", features(1, kind=7), 1),

    ("DescribeAcls", "all", ACL_FILTER, 1),
    ("CreateAcls", "two", {"creations": [ACL, ACL]}, 1),
    ("CreateAcls", "none", {"creations": []}, 1),
    ("DeleteAcls", "two", {"filters": [ACL_FILTER, ACL_FILTER]}, 1),

    # Last: Kafka creates its internal topics when a coordinator is looked for.
    ("FindCoordinator", "group", {"key": "g", "key_type": 0, "coordinator_keys": ["g"]}, 0),
    ("FindCoordinator", "transaction", {"key": "t", "key_type": 1, "coordinator_keys": ["t"]}, 1),
    ("FindCoordinator", "unknown kind", {"key": "g", "key_type": 9, "coordinator_keys": ["g"]}, 1),
    ("FindCoordinator", "no keys", {"coordinator_keys": []}, 4),
]
