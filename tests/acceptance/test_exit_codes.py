"""Whatever needs a person ends the consumer: a code of its own, one line that says what and what to do, a section in
docs/operations.md, and nothing moved. `python -m consumer check` says the same beforehand, where it can be known.

Each condition really happens here, to a process: `tests.fixtures.conditions`.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from consumer import errors
from consumer.errors import RollupError, WrongUse
from local.events import produce
from local.kafka import Kafka
from tests.fixtures.conditions import CONDITIONS, Condition, wrong_setting
from tests.fixtures.counted_topic import COUNTED, MARK, Connection, World
from tests.fixtures.events import load, prepare, wait_until_read
from tests.fixtures.processes import ROOT, Consumer, RunProgram, StartConsumer
from tests.fixtures.services import KAFKA_PROPERTIES, MakeTopic

pytestmark = pytest.mark.timeout(240)

OPERATIONS = (ROOT / "docs/operations.md").read_text()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Callable[[], Kafka]]:
    """A broker, started when it is first asked for, that knows a user `rollup` who may do nothing."""
    folder = Path(tempfile.mkdtemp(prefix="reporting-rollup-test-"))
    broker = Kafka(
        folder / "kafka",
        properties={
            **KAFKA_PROPERTIES,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # the plain listener, which is ours
        },
        secure="SASL_PLAINTEXT",
        scram={"rollup": MARK},
    )

    def start() -> Kafka:
        broker.start()
        return broker

    yield start
    broker.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    guarded: Callable[[], Kafka],
) -> Iterator[World]:
    topic, sample = make_topic(1), load(COUNTED)
    prepare(conn, sample)
    produce(kafka_bootstrap, topic, sample.messages())
    first = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, first)
    assert first.terminate() == 0
    with ExitStack() as stack:
        world = World(conn, database_url, kafka_bootstrap, topic, start_consumer, guarded, stack)
        world.remember()
        yield world


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.happen.__name__)
def test_it_ends_with_its_code_and_one_line_and_nothing_moved(
    condition: Condition, world: World, consumer_variables: dict[str, str], run_program: RunProgram
) -> None:
    consumer = condition.happen(world)
    if not isinstance(consumer, Consumer):
        variables = {"DATABASE_URL": world.url(), **consumer}
        world.remember()
        if condition.subject:
            settings = {**consumer_variables, "KAFKA_TOPICS": world.topic, **variables}
            names = {"topic": world.topic, "group": str(settings["KAFKA_GROUP_ID"])}
            assert_foreseen(condition, run_program("consumer", "check", "--timeout=25", **settings), names)
            assert world.rows() == world.stored
        consumer = world.starter(world.topic, **variables)

    assert consumer.wait() == condition.error.exit_code, consumer.tail()
    out, err = consumer.out.read_text(), consumer.err.read_text()
    if condition.happen is wrong_setting:  # before the settings are known there is no log
        assert out == ""
        [message] = err.splitlines()
    else:
        [failed] = consumer.logged("failed")
        assert consumer.lines()[-1] == failed
        assert (failed["level"], failed["exit_code"]) == ("error", condition.error.exit_code)
        assert "exception" not in failed
        message = failed["message"]
        assert "\n" not in message
        assert err == ""
    for word in condition.words:
        assert word.format(topic=world.topic) in message
    assert "Traceback" not in out + err
    assert MARK not in out + err
    assert world.rows() == world.stored


def assert_foreseen(condition: Condition, ended: tuple[int, str, str], names: dict[str, str]) -> None:
    """One line of the check is of this condition; the others are good."""
    code, out, err = ended
    assert (code, err) == (1, ""), out
    wrong = [line for line in out.splitlines() if not line.startswith("ok ")]
    assert len(wrong) == 1, out
    [failed] = wrong
    assert failed.startswith(f"FAIL {condition.subject.format(**names)}: ")
    for word in condition.words:
        assert word.format(**names) in failed
    assert MARK not in out


def sections() -> dict[int, str]:
    """The anchors of the exit codes' sections."""
    headings = re.findall(r"^### (Exit code (\d+): .+)$", OPERATIONS, re.MULTILINE)
    return {int(code): re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text, code in headings}


def test_no_error_is_forgotten() -> None:
    """Each class with a code of its own happens above, and has a row and a section in the docs."""
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RollupError)}
    ends = {cls for cls in classes if cls.exit_code != RollupError.exit_code}
    assert {condition.error for condition in CONDITIONS} == ends - {WrongUse}  # of commands; a wrong setting's code
    table = dict(re.findall(r"^\| (\d+) \| \[.*\]\(#(exit-code-[\w-]+)\) \|$", OPERATIONS, re.MULTILINE))
    assert {int(code): anchor for code, anchor in table.items()} == sections()
    assert sections().keys() == {cls.exit_code for cls in classes}


def test_the_docs_say_what_to_do_about_a_time_zone() -> None:
    [section] = re.findall(r"^### Exit code 3: .*?(?=^#)", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert "reporting_timezone" in section
