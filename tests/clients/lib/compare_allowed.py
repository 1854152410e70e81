"""Differences from Apache Kafka 4.3.1 that stay, each with its reason."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Which API, case and field (regular expressions over the whole of each) may differ, and why."""

    api: str
    case: str
    path: str
    reason: str

    def covers(self, api, case, path):
        """Whether this difference is meant."""
        return all(re.fullmatch(pattern, text) for pattern, text in
                   ((self.api, api), (self.case, case), (self.path, path)))


# Broker settings that the two processes are started with.
OWN_SETTINGS = (r"(advertised\.)?listeners|listener\.security\.protocol\.map|controller\..*|log\.dirs?|"
                r"max\.connections(\.per\.ip)?|"
                r"(offsets|transaction\.state|share\.coordinator\.state)\..*(replication\.factor|min\.isr)")
ALLOWED = [
    Allowed("ApiVersions", ".*", r"(supported|finalized)_features.*",
            "no feature is served yet, so none is promised"),
    Allowed("ApiVersions", ".*", r"api_keys\[.*",
            "APIs that are not served yet; the versions of each that is must be Kafka's, or its own part fails"),
    Allowed("ApiVersions", "without a name", "api_keys|error_code",
            "Kafka refuses a client without a name (KIP-511); here it is served"),
    Allowed("Produce", "damaged", r".*\.error_message", "the message says what is damaged; Kafka has none"),
    Allowed("Produce", "no key in a compacted topic", r".*\.log_start_offset",
            "no client reads it in a refusal"),
    Allowed("Fetch", "past the end|before the start", r".*\.(high_watermark|last_stable_offset|log_start_offset)",
            "the log's true ends, so that one sees why the offset is out of range; Kafka sends -1"),
    Allowed("CreateTopics", ".*", r"topics\[new\]\.topic_id",
            "a topic that is only judged has no id; Kafka draws one that nothing has"),
    Allowed("CreateTopics|DescribeConfigs", ".*", r"(.*\[min\.insync\.replicas\].*|results\[/4\]\.configs)",
            "Kafka writes this setting for the cluster when its eligible leader replicas are on"),
    Allowed("CreatePartitions", "unknown topic", r".*\.error_message", "the message names the topic; Kafka has none"),
    Allowed("(Incremental)?AlterConfigs", "null value", r".*\.error_code",
            "INVALID_CONFIG, as both answer it in CreateTopics; Kafka says INVALID_REQUEST here"),
    Allowed("IncrementalAlterConfigs", "unknown operation", r".*\.(error_code|error_message)",
            "INVALID_REQUEST with the reason; Kafka fails with UNKNOWN_SERVER_ERROR"),
    Allowed("DescribeConfigs", "unknown topic", r".*\.error_message", "the message names the topic; Kafka's is empty"),
    Allowed("DescribeConfigs", "topic.*|broker, all",
            r".*\.synonyms(\[log\.((retention|roll|roll\.jitter)\.hours|flush\.scheduler\.interval\.ms)/5\].*)?",
            "where the default is another setting's, as hours are, that one is listed as well"),
    Allowed("DescribeConfigs", "broker, all", rf".*\.configs\[({OWN_SETTINGS})\]\..*",
            "where each listens, keeps its data, and how it was started"),
    Allowed("DescribeConfigs", "broker, all", r".*\.read_only",
            "here it is read at the start only, or nothing depends on it; an attempt to change it says which"),
    Allowed("DescribeConfigs", "loggers", r"results\[.*\]\.configs.*",
            "the loggers of each are its own program's"),
    Allowed("DescribeConfigs", "group|client metrics", r"results\[.*\]\.configs.*",
            "groups and client metrics have no settings before the broker serves them"),
    Allowed("DescribeLogDirs", "all", r".*\[both\]\.partitions\[0\]\.partition_size",
            "all records are deleted; Kafka counts their segment until it goes"),
    Allowed("DescribeQuorum", "metadata log", r".*\.(log_end_offset|high_watermark|leader_epoch)",
            "the length of each one's own metadata log, and the number of its elections"),
    Allowed("DescribeQuorum", "metadata log", r".*\.listeners.*",
            "Kafka has a listener for controllers; here the controller is reached where brokers are"),
    Allowed("DescribeQuorum", "metadata log", r".*\.replica_directory_id", "data directories have no id"),
    Allowed("DescribeProducers", "unknown topic", r".*\.error_message",
            "the code says it; Kafka has a message for a topic and none for a partition"),
    Allowed("AlterPartitionReassignments", "none", "error_message", "null as in every other answer; Kafka sends ''"),
]
