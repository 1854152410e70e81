"""One broker process on 127.0.0.1 with a data directory of its own, for as long as a suite needs it."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Recovery of what a suite writes takes well under a second; a busy machine is slow to schedule.
READY_S = 60
STOP_S = 30
# Below the system's range of ports for outgoing connections (from 32768), so that none is taken by one.
PORT_FIRST, PORT_LAST, PORT_STEP = 21_000, 29_000, 20
# In core mode core i listens on the second number + i; no test machine has more cores than that.
CORES_MAX = 16


def free(port):
    """Whether nothing listens on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_block():
    """The first port of a block in which every port is free. Starts at a place of this process."""
    count = (PORT_LAST - PORT_FIRST) // PORT_STEP
    for at in range(count):
        first = PORT_FIRST + (os.getpid() + at) % count * PORT_STEP
        if all(free(port) for port in range(first, first + PORT_STEP)):
            return first
    raise RuntimeError(f"no {PORT_STEP} free ports in a row from {PORT_FIRST} to {PORT_LAST}")


class Broker:
    """`bootstrap["core"]` and `bootstrap["node"]` are its two listeners. Use it in a `with`."""

    def __init__(self, binary, logs, name, settings=None):
        first = free_block()
        ports = {"node": first, "admin": first + 1, "core": first + 2}
        self.bootstrap = {mode: f"127.0.0.1:{ports[mode]}" for mode in ("core", "node")}
        self._admin = f"127.0.0.1:{ports['admin']}"
        self._command = [str(binary), "start"]
        self._log = pathlib.Path(logs) / f"broker-{name}.log"
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="streambus-clients-"))
        self._process = None
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("STREAMBUS_")},
            "STREAMBUS_DATA__DIR": str(self._home / "data"),
            "STREAMBUS_LISTENERS__CORE__PORT": str(ports["core"]),
            "STREAMBUS_LISTENERS__CORE__CORE_PORT_FIRST": str(ports["core"] + 1),
            "STREAMBUS_LISTENERS__CORE__ADVERTISE": "core",
            "STREAMBUS_LISTENERS__NODE__PORT": str(ports["node"]),
            "STREAMBUS_LISTENERS__NODE__ADVERTISE": "node",
            "STREAMBUS_ADMIN__ADDRESS": self._admin,
            "STREAMBUS_STORAGE__MIN_FREE_BYTES": str(64 << 20),
            **(settings or {}),
        }

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def start(self):
        """Starts it and waits until it says that it is ready."""
        with open(self._log, "ab") as log:
            # A session of its own: what is sent to the terminal's group (Ctrl-C) reaches it once, by us.
            self._process = subprocess.Popen(self._command, cwd=self._home, env=self._environment,
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             start_new_session=True)
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"the broker ended with {self._process.returncode}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the broker is not ready after {READY_S} s: {self.last_words()}")
            time.sleep(0.05)

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://{self._admin}/health/ready", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def last_words(self):
        """The end of its log, on one line."""
        return " ".join(self._log.read_text(errors="replace").split())[-500:]

    def alive(self):
        """Whether the process is still there."""
        return self._process is not None and self._process.poll() is None

    def kill(self):
        """As a crash: no warning, no drain."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self):
        """As an operator does; what does not stop in time is killed and is an error."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the broker did not stop within {STOP_S} s: {self.last_words()}") from None
