"""What is installed is what was locked, byte for byte; and which findings of the security linter are let through."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PIN = re.compile(r"^([a-z0-9][\w.-]*)==.*(?:\n[ \t].*)*", re.MULTILINE | re.IGNORECASE)
LOCKS = ("requirements.lock", "requirements-dev.lock")
ACCEPTED = {
    (
        "consumer/settings.py",
        "S104",
    ): "metrics are scraped from outside the container, on an address that can be chosen",
    ("local/processes.py", "S101"): "for the type checker",
    ("local/postgres_account.py", "S108"): "a folder in /var/tmp, whose owner is checked",
    ("local/demo_stage.py", "S310"): "HTTP to our own port",
}
"""Findings of the security rules that are let through, by file, and why."""


def pins(lock: str) -> dict[str, str]:
    """Each package of a lock file, with its line and hashes."""
    text = (PROJECT / lock).read_text()
    return {m[1].lower(): m[0] for m in PIN.finditer(text)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes_and_from_no_particular_place(lock: str) -> None:
    text = (PROJECT / lock).read_text()
    found = pins(lock)
    assert len(found) > 20
    assert [name for name, pin in found.items() if "--hash=sha256:" not in pin] == []
    assert [line for line in text.splitlines() if line[:1].isalnum() and "==" not in line] == []
    assert "://" not in text


def test_what_is_asked_for_is_locked() -> None:
    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[><=~!; ]", requirement)[0].lower() for requirement in requirements}

    ours, tools = names(PYPROJECT["project"]["dependencies"]), names(PYPROJECT["dependency-groups"]["dev"])
    assert ours <= pins("requirements.lock").keys()
    assert ours | tools <= pins("requirements-dev.lock").keys()
    assert not tools & pins("requirements.lock").keys()  # tools are not shipped


def test_installing_asks_for_the_hashes() -> None:
    for file in ("Makefile", "deploy/Dockerfile", "README.md"):
        installs = re.findall(r"pip\W+install.*?\.lock", (PROJECT / file).read_text().replace("\\\n", " "))
        assert installs
        assert all("--require-hashes" in install for install in installs), file


def test_the_security_rules_are_on_and_what_they_let_through_is_known() -> None:
    lint = PYPROJECT["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    # Programs are started by names of our own, without a shell.
    assert [rule for rule in lint["ignore"] if re.fullmatch(r"S\d*", rule)] == ["S603", "S607"]
    found = set()
    for folder in ("consumer", "backfill", "local", "bench"):
        for path in (PROJECT / folder).rglob("*.py"):
            for rules in re.findall(r"# noqa: ([A-Z0-9, ]+)", path.read_text()):
                found |= {(str(path.relative_to(PROJECT)), rule) for rule in re.findall(r"\bS\d+", rules)}
    assert found == ACCEPTED.keys()


def test_no_program_starts_a_shell() -> None:
    for folder in ("consumer", "backfill", "local", "bench"):
        for path in (PROJECT / folder).rglob("*.py"):
            assert not re.search(r"shell=True|os\.system\(|os\.popen\(|\beval\(|\bexec\(|pickle\.", path.read_text()), (
                path
            )
