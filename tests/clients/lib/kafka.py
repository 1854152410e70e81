"""Apache Kafka 4.3.1 as a process of its own (KRaft, one node), and the class path of its tools."""

import base64
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import uuid

from lib import tools
from lib.broker import READY_S, free_block

# One idle broker with a handful of topics; Kafka's own default is 1 GiB.
HEAP = "-Xmx512m"
# A tool runs for a second or two: time spent on optimising it is lost.
QUICK = ["-XX:TieredStopAtLevel=1", "-Xshare:auto"]
STOP_S = 30
LOGGING = """<Configuration status="ERROR"><Appenders><Console name="C"><PatternLayout pattern="%d %p %c %m%n"/>
</Console></Appenders><Loggers><Root level="warn"><AppenderRef ref="C"/></Root></Loggers></Configuration>"""
SETTINGS = """process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


def classpath():
    """The class path of Kafka and its tools, fetched by name through Maven."""
    tools.need("java", "mvn")
    place, source = tools.WORK / "kafka", tools.HERE / "kafka" / "pom.xml"
    if not tools.fresh(place, source):
        shutil.rmtree(place, ignore_errors=True)
        tools.run(["mvn", "-B", "-q", "-f", source, "dependency:copy-dependencies", "-DincludeScope=runtime",
                   f"-DoutputDirectory={place}/lib"])
        tools.built(place, source)
    return f"{place}/lib/*"


def shared_classes():
    """Java options that take parsed classes from an archive, which the first call makes: a tool then starts
    in half of the time."""
    archive = tools.WORK / "kafka" / "tools.jsa"
    return ["-Xlog:disable", f"-XX:{'SharedArchiveFile' if archive.exists() else 'ArchiveClassesAtExit'}={archive}"]


class Kafka:
    """`bootstrap` is its listener. Use it in a `with`."""

    def __init__(self, logs):
        self._classpath = classpath()
        first = free_block()
        self.bootstrap = f"127.0.0.1:{first}"
        self._address = ("127.0.0.1", first)
        self._log = pathlib.Path(logs) / "kafka.log"
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="streambus-kafka-"))
        self._process = None
        settings = SETTINGS.format(broker=first, controller=first + 1, data=self._home / "data")
        (self._home / "server.properties").write_text(settings)
        (self._home / "log4j2.xml").write_text(LOGGING)

    def _java(self, *words):
        return ["java", HEAP, *QUICK, f"-Dlog4j2.configurationFile={self._home}/log4j2.xml", "-cp", self._classpath,
                *words, str(self._home / "server.properties")]

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):
            cluster = "A" + cluster[1:]  # a word that begins so is taken for an option
        tools.run(self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c"))
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(self._java("kafka.Kafka"), stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=log, cwd=self._home, start_new_session=True)
        deadline = time.monotonic() + READY_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = " ".join(self._log.read_text(errors="replace").split())[-500:]
                raise RuntimeError(f"Kafka did not start within {READY_S} s: {last}")
            time.sleep(0.1)

    def _accepts(self):
        """Kafka opens its listener once it can serve."""
        try:
            with socket.create_connection(self._address, 2):
                return True
        except OSError:
            return False

    def __exit__(self, *_):
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._home, ignore_errors=True)
