"""What a measurement depends on besides the program: the machine, and the versions of what runs on it."""

import os
import platform
from importlib import metadata
from pathlib import Path

import confluent_kafka
import psutil

from bench.workload import Ground
from local.kafka_jars import VERSION as KAFKA_VERSION


def facts(ground: Ground) -> dict[str, str | int | float]:
    """Name -> value, in the order to show them. `load` is the number of busy processes in the minute before."""
    row = ground.conn.execute("SHOW server_version").fetchone()
    origin = ground.services.origin
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "confluent_kafka": metadata.version("confluent-kafka"),
        "polars": metadata.version("polars"),
        "postgresql": str(row[0]) if row else "unknown",
        "kafka": "as found" if origin == "environment" else KAFKA_VERSION,
        "services": origin,
    }


def _cores() -> int:
    """How many cores this process may use; a container often has fewer than its machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
