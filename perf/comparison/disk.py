"""What the disk does without a broker, and what the machine is."""

import mmap
import os
import platform
import time

SECONDS = 0.7
SPAN_BYTES = 64 << 20


def raw(directory, size):
    """Writes of `size` over a file that was written before, each durable: `{how: (MB/s, p50 ms, p99 ms)}`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "raw"
    try:
        return {
            "write+fdatasync": _loop(path, size, 0, True),
            "O_DIRECT, O_DSYNC": _loop(path, size, os.O_DIRECT | os.O_DSYNC, False),
        }
    finally:
        path.unlink(missing_ok=True)


def _loop(path, size, flags, sync):
    memory = mmap.mmap(-1, 1 << 20)
    memory.write(b"x" * (1 << 20))
    part = memoryview(memory)[:size]
    file = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
    try:
        for position in range(0, SPAN_BYTES, 1 << 20):
            os.pwrite(file, memory, position)
        os.fsync(file)
        taken, position, began = [], 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            start = time.perf_counter()
            os.pwrite(file, part, position)
            if sync:
                os.fdatasync(file)
            taken.append(time.perf_counter() - start)
            position = (position + size) % SPAN_BYTES
    finally:
        os.close(file)
        part.release()
    taken.sort()
    rate = size * len(taken) / sum(taken) / 1e6
    return rate, 1e3 * taken[len(taken) // 2], 1e3 * taken[len(taken) * 99 // 100]


def machine(directory):
    """One line."""
    directory.mkdir(parents=True, exist_ok=True)
    with open("/proc/meminfo", encoding="utf-8") as info:
        gib = int(info.readline().split()[1]) / (1 << 20)
    mounted = [line.split() for line in open("/proc/mounts", encoding="utf-8")]
    at = str(directory.resolve())
    best = max((m for m in mounted if at.startswith(m[1])), key=lambda m: len(m[1]))
    return f"{os.cpu_count()} cores, {gib:.0f} GiB, Linux {platform.release()}, {best[2]} on {best[0]}"
