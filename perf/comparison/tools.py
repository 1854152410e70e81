"""What a comparison is made with: librdkafka's own load tool, our small client, Kafka's jars. Built once
into target/perf."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "perf" / "comparison"
WORK = ROOT / "target" / "perf"
# Fetching and compiling for the first time, on a slow line and two cores.
BUILD_TIMEOUT_S = 1_200


class Kit:
    """Paths of the tools."""

    def __init__(self, librdkafka, client, jars):
        self.rdkafka_performance = librdkafka / "examples" / "rdkafka_performance"
        self.client = client
        self.jars = jars


def run(command, **how):
    """A build step; fails with its last words."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=BUILD_TIMEOUT_S, check=False, text=True, **how)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {' '.join((done.stdout + done.stderr).split())[-500:]}")
    return done.stdout


def prepare(jars=True):
    """Builds what is missing; without `jars` nothing of Kafka's."""
    librdkafka = pathlib.Path(run([ROOT / "tests" / "clients" / "librdkafka-build"]).splitlines()[-1])
    WORK.mkdir(parents=True, exist_ok=True)
    headers = WORK / "include" / "librdkafka"
    headers.parent.mkdir(exist_ok=True)
    headers.unlink(missing_ok=True)
    headers.symlink_to(librdkafka / "src")
    client, source = WORK / "client", HERE / "client.c"
    if not client.exists() or client.stat().st_mtime < source.stat().st_mtime:
        run(["gcc", "-O2", "-Wall", f"-I{headers.parent}", source, "-o", client, f"-L{librdkafka / 'src'}",
             f"-Wl,-rpath,{librdkafka / 'src'}", "-lrdkafka"])
    kafka = WORK / "kafka-jars"
    if jars and not kafka.is_dir():
        run(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={kafka}.part"],
            cwd=HERE / "kafka")
        pathlib.Path(f"{kafka}.part").rename(kafka)
    return Kit(librdkafka, client, kafka)
