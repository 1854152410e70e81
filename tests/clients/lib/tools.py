"""Brings what the programs need onto this machine: runtimes by apt where they are missing, packages by
each language's own client at the versions in the committed lock files. All of it lands under target/."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = ROOT / "tests" / "clients"
WORK = ROOT / "target" / "clients"
# A first build fetches some hundred megabytes over a slow line.
BUILD_TIMEOUT_S = 900
APT_TIMEOUT_S = 600
# Debian's name of each command's package.
APT_PACKAGES = {
    "cargo": "cargo", "gcc": "gcc", "g++": "g++", "go": "golang-go", "java": "openjdk-17-jdk-headless",
    "javac": "openjdk-17-jdk-headless", "kcat": "kcat", "make": "make", "mvn": "maven", "node": "nodejs", "npm": "npm",
}
# The oldest Go that the modules in go.mod build with, and the oldest Node that kafkajs supports.
GO_MIN = (1, 26)
NODE_MIN = (14, 0)


class Missing(Exception):
    """A runtime is not to be had on this machine: the part is skipped. Its text says what."""


class Broken(Exception):
    """A program of ours, or a package of its lock file, does not install or build: the part fails."""


def run(command, cwd=ROOT, timeout=BUILD_TIMEOUT_S, extra=None):
    """Runs a build step; on failure says its last words."""
    environment = {**os.environ, **(extra or {})}
    try:
        done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise Broken(f"{command[0]} took more than {timeout} s") from None
    except FileNotFoundError:
        raise Missing(f"{command[0]} is not installed") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise Broken(f"{' '.join(str(word) for word in command[:4])} failed: {' '.join(text.split())[-400:]}")
    return text


def need(*commands):
    """Makes sure that commands exist, by apt where this is Debian and we are root."""
    packages = sorted({APT_PACKAGES[command] for command in commands if shutil.which(command) is None})
    apt(packages)
    for command in commands:
        if shutil.which(command) is None:
            raise Missing(f"{command} is not installed")


def need_packages(*packages):
    """Makes sure of Debian packages that bring no command (headers)."""
    if shutil.which("dpkg-query") is None:
        return  # another system: the build itself will tell
    apt([package for package in packages if subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, check=False
    ).stdout != b"installed"])


def apt(packages):
    """Installs Debian packages by name."""
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        try:
            run(["apt-get", "update", "-qq"], timeout=APT_TIMEOUT_S, extra=quiet)
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], timeout=APT_TIMEOUT_S,
                extra=quiet)
        except Broken as broken:
            raise Missing(str(broken)) from None


def fresh(place, *sources):
    """Whether `place` was built from exactly these files; `built` says so afterwards."""
    stamp = place / ".built-from"
    return stamp.is_file() and stamp.read_text() == digest(sources)


def built(place, *sources):
    """Marks `place` as built from these files."""
    (place / ".built-from").write_text(digest(sources))


def digest(sources):
    """One checksum of all files."""
    every = hashlib.sha256()
    for source in sources:
        every.update(pathlib.Path(source).read_bytes())
    return every.hexdigest()


def python():
    """The interpreter of a virtual environment with the pinned packages."""
    place, wanted = WORK / "python", HERE / "python" / "requirements.txt"
    if not fresh(place, wanted):
        if shutil.which("python3") == "/usr/bin/python3":
            need_packages("python3-venv")  # Debian's own Python comes without it
        shutil.rmtree(place, ignore_errors=True)
        run(["python3", "-m", "venv", place])
        run([place / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", wanted])
        built(place, wanted)
    return place / "bin" / "python"


def node_modules():
    """The directory in which the packages of package-lock.json are installed, with the programs."""
    need("node", "npm")
    at_least("node", NODE_MIN, run(["node", "--version"]))
    place = WORK / "js"
    source = HERE / "js"
    sources = [source / "package.json", source / "package-lock.json", source / "kafkajs.js"]
    if not fresh(place, *sources):
        place.mkdir(parents=True, exist_ok=True)
        for file in sources:
            shutil.copy(file, place)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=place)
        built(place, *sources)
    return place


def go_programs():
    """The directory of the built Go programs."""
    need("go")
    at_least("go", GO_MIN, run(["go", "version"]))
    place = WORK / "go"
    place.mkdir(parents=True, exist_ok=True)
    # Go itself knows what is built already. GOTOOLCHAIN: never another compiler than this machine's.
    run(["go", "build", "-mod=readonly", "-o", f"{place}/", "./franz", "./sarama"], cwd=HERE / "go",
        extra={"GOTOOLCHAIN": "local"})
    return place


def java_classpath():
    """The class path of the built Java program."""
    need("java", "javac", "mvn")
    place = WORK / "java"
    sources = [HERE / "java" / "pom.xml", HERE / "java/src/main/java/RoundTrip.java"]
    if not fresh(place, *sources):
        run(["mvn", "-B", "-q", f"-Doutput.directory={place}", "compile", "dependency:copy-dependencies"],
            cwd=HERE / "java")
        built(place, *sources)
    return f"{place}/classes:{place}/dependency/*"


def librdkafka():
    """The directory of the built librdkafka with its test runner."""
    need("cargo", "gcc", "g++", "make")
    need_packages("libssl-dev", "zlib1g-dev", "libzstd-dev", "rapidjson-dev")
    return pathlib.Path(run([HERE / "librdkafka-build"]).splitlines()[-1])


def at_least(name, wanted, text):
    """Refuses a runtime that is too old."""
    found = re.search(r"(\d+)\.(\d+)", text)
    if not found or (int(found[1]), int(found[2])) < wanted:
        raise Missing(f"{name} is {text.strip()}, needs {wanted[0]}.{wanted[1]}")


def quiet_environment():
    """For the programs: Python leaves no compiled files beside its sources."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
