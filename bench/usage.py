"""What processes use: CPU seconds and memory, as the operating system counts them."""

from collections.abc import Collection
from pathlib import Path

import psutil


def process_seconds(pid: int) -> float:
    """CPU seconds of one process so far, user and system, all threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def family_seconds(pid: int, without: Collection[int] = ()) -> float:
    """CPU seconds so far of a process and its children, those that have ended included.

    `without` are children that must not count; they have to live until the last call.
    """
    parent = psutil.Process(pid)
    times = parent.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in parent.children():
        if child.pid not in without:
            try:
                own = child.cpu_times()
            except psutil.NoSuchProcess:  # it ended just now; the next call finds its time at the parent
                continue
            total += own.user + own.system
    return float(total)


def peak_memory(pid: int) -> int | None:
    """The most physical memory that a process ever had, in bytes; None where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
