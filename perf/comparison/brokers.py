"""The three brokers, each a process with a directory of its own, on ports of this run."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

READY_S = 90
STOP_S = 30
# Below the system's range for outgoing connections; each broker takes a block.
PORT_FIRST, PORT_LAST, PORT_STEP = 23_000, 28_000, 20
KAFKA_CLUSTER = "4L6g3nShT-eMCtK--X86sw"

OURS, SHIPPED, SYNCED = "streambus", "kafka", "kafka-synced"


def free_block(after):
    """The first port of a block of free ones."""
    for first in range(after, PORT_LAST, PORT_STEP):
        if all(_free(port) for port in range(first, first + PORT_STEP)):
            return first
    raise SystemExit(f"no {PORT_STEP} free ports in a row from {after} to {PORT_LAST}")


def _free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Broker:
    """A running broker."""

    def __init__(self, name, command, home, port, environment=None):
        self.name, self.bootstrap, self.log = name, f"127.0.0.1:{port}", home / "log"
        # The last port of its block, if it has one.
        self.admin = f"127.0.0.1:{port + PORT_STEP - 1}"
        # What it did beside the rows.
        self.work = {}
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C reaches it once, by us.
            self.process = subprocess.Popen([str(word) for word in command], cwd=home, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            env={**os.environ, **(environment or {})})
        deadline = time.monotonic() + READY_S
        while not self._answers(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                words = " ".join(self.log.read_text(errors="replace").split())[-600:]
                raise SystemExit(f"{name} did not start: {words}")
            time.sleep(0.1)

    @staticmethod
    def _answers(port):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    def stop(self):
        """Asks, then kills."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def ours(binary, home, port, more=()):
    """Our broker with its defaults, and `more` settings."""
    command = [binary, "start", "--data-dir", home / "data", "--port", port, "--admin-address", f"127.0.0.1:{port + PORT_STEP - 1}",
               "--log-format", "text", "--set", f"listeners.main.core_port_first={port + 1}"]
    command += [word for setting in more for word in ("--set", setting)]
    return Broker(OURS, command, home, port)


def kafka(kit, home, port, synced):
    """One KRaft node that is broker and controller, with the defaults of its quick start; with `synced` each
    append is followed by a sync of its log."""
    settings = {
        "process.roles": "broker,controller", "node.id": 1,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{port + 1}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}", "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT", "num.network.threads": 3, "num.io.threads": 8,
        "log.dirs": home / "data", "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1, "share.coordinator.state.topic.min.isr": 1,
    }
    if synced:
        settings["log.flush.interval.messages"] = 1
    properties = home / "server.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
    quiet = home / "log4j2.properties"
    quiet.write_text("rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\n"
                     "appender.out.name=out\nappender.out.layout.type=PatternLayout\n", encoding="utf-8")
    java = ["java", "-cp", f"{kit.jars}/*", f"-Dlog4j2.configurationFile={quiet}"]
    format_it = [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", KAFKA_CLUSTER, "-c", properties]
    done = subprocess.run(format_it, capture_output=True, text=True, timeout=READY_S, check=False)
    if done.returncode != 0:
        raise SystemExit(f"Kafka's storage was not formatted: {(done.stdout + done.stderr)[-600:]}")
    # The memory and collector that bin/kafka-server-start.sh gives it.
    tuned = ["-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
             "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"]
    return Broker(SYNCED if synced else SHIPPED, [*java, *tuned, "kafka.Kafka", properties], home, port)


@contextlib.contextmanager
def all_three(kit, binary, directory):
    """Starts them in an empty directory, and ends them with it."""
    if not binary.exists():
        raise SystemExit(f"{binary} is not there: cargo build --release")
    place = directory / f"compare-{os.getpid()}"
    running = []
    try:
        port = PORT_FIRST
        for name in (OURS, SHIPPED, SYNCED):
            home = place / name
            home.mkdir(parents=True)
            port = free_block(port)
            if name == OURS:
                running.append(ours(binary, home, port))
            else:
                running.append(kafka(kit, home, port, name == SYNCED))
            port += PORT_STEP
        yield running
    finally:
        for broker in running:
            broker.stop()
        shutil.rmtree(place, ignore_errors=True)
