"""Runs the tests of librdkafka's own suite that `librdkafka-tests.tsv` chooses, each in a process of
its own: one that crashes or hangs costs its own row, and no test sees another's leavings."""

import concurrent.futures
import os
import pathlib
import re
import subprocess

from lib.outcome import Outcome

TABLE = pathlib.Path(__file__).parent.parent / "librdkafka-tests.tsv"
# The slowest chosen test takes 30 s against Apache Kafka on 2 busy cores.
TEST_TIMEOUT_S = 150
# Most tests wait more than they work.
TESTS_AT_ONCE = 3
# What a test needs of its client. Between two fetches, a client whose queue is full waits for this long, 1 s unless set:
# 0059 seeks ten times, may wait after each one, and gives itself 10 s.
CLIENT_SETTINGS = {"0059": "fetch.queue.backoff.ms=1\n"}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SUMMARY = re.compile(r"^\| *(\d{4}\S*) +\| +(PASSED|FAILED|SKIPPED|RUNNING) +\| +([\d.]+)s +\| ?(.*)$", re.M)
FAILURE = re.compile(r'^### Test "\d{4}.*\n(.*)$', re.M)
SUBTEST_PASSED = re.compile(r"\[ (.*): PASS .*\]")


def table_rows():
    """The committed table: (test, part or None, chosen, what it proves or why it is not run)."""
    rows = []
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            test, part, run_or_skip, words = line.split("\t")
            if run_or_skip not in ("run", "skip"):
                raise ValueError(f"{TABLE.name}: {run_or_skip!r} is neither run nor skip")
            rows.append((test, None if part == "-" else part, run_or_skip == "run", words))
    return rows


def run_test(work, bootstrap, logs, test, part):
    """One row: a result and, when it did not pass, why."""
    name = test if part is None else f"{test} {part}"
    place = logs / re.sub(r"\W+", "-", name)
    place.mkdir(parents=True, exist_ok=True)
    (place / "test.conf").write_text(f"bootstrap.servers={bootstrap}\n" + CLIENT_SETTINGS.get(test, ""))
    environment = {
        **os.environ,
        "BROKERS": bootstrap,
        "RDKAFKA_TEST_CONF": str(place / "test.conf"),
        "TEST_KAFKA_VERSION": "4.0.0",
        "TESTS": test,
        "LD_LIBRARY_PATH": f"{work}/src:{work}/src-cpp",
    }
    # With CI set the runner turns other things on, and a developer's run would differ.
    environment.pop("CI", None)
    if part:
        environment["SUBTESTS"] = part
    # -Q: less data; -E: without sockem; -L: without local tests; -K: without known issues.
    command = [f"{work}/tests/test-runner", "-p1", "-E", "-L", "-K"]
    if part is None:
        command.append("-Q")  # which would leave some of the parts out
    with open(place / "log", "w+", errors="replace") as log:
        try:
            code = subprocess.run(command, cwd=f"{work}/tests", env=environment, stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, timeout=TEST_TIMEOUT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            return Outcome(name, "FAIL", f"took more than {TEST_TIMEOUT_S} s")
        log.seek(0)
        text = COLOUR.sub("", log.read())
    return judge(name, part, code, text)


def judge(name, part, code, text):
    """What the runner's closing table and exit code say."""
    ran = [row for row in SUMMARY.findall(text) if row[1] != "SKIPPED"]
    failed = [row for row in ran if row[1] != "PASSED"]
    if failed:
        return Outcome(name, "FAIL", "; ".join(row[3].strip() or row[1].lower() for row in failed))
    if code != 0:
        told = FAILURE.findall(text)
        return Outcome(name, "FAIL", told[0][:300] if told else f"the runner ended with code {code}")
    if not ran:
        return Outcome(name, "FAIL", "the runner chose no test")
    if part and not any(part in done for done in SUBTEST_PASSED.findall(text)):
        return Outcome(name, "FAIL", f"no subtest named {part} ran")
    return Outcome(name, "PASS", f"{sum(float(row[2]) for row in ran):.1f} s")


def run_suite(work, bootstrap, logs, only=None):
    """Every chosen row, in the table's order. `only` keeps the rows of these test numbers."""
    rows = [row for row in table_rows() if row[2] and (not only or row[0] in only)]
    with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
        tests = [pool.submit(run_test, work, bootstrap, logs, test, part) for test, part, _, _ in rows]
        return [test.result() for test in tests]
