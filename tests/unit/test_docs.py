"""The docs are held to the code: links, names, tables and commands."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App
from prometheus_client import CollectorRegistry

import backfill.__main__ as backfill_command
import consumer.__main__ as consumer_command
from backfill.metrics import WatchMetrics
from bench.__main__ import arguments as bench_arguments
from consumer import errors
from consumer.errors import RollupError
from consumer.logs import Event
from consumer.metrics import Metrics
from consumer.rollup.registry import REGISTRY
from consumer.settings import Settings

PROJECT = Path(__file__).parent.parent.parent
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
OURS = [page for page in PAGES if page.name not in ("configuration.md", "metrics.md")]
"""Pages written by hand; the two others are printed from the code, and their own tests compare them."""
SUFFIXES = ("py", "sql", "md", "yml", "toml", "lock")


@cache
def _text(page: Path) -> str:
    return page.read_text()


def _name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", _text(page), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    after = _text(PROJECT / page).split(f"\n{heading}\n", 1)
    assert len(after) == 2, f"{page} has no heading {heading!r}"
    return re.split(r"^#", after[1], maxsplit=1, flags=re.MULTILINE)[0]


def _table(text: str, columns: int) -> list[tuple[str, ...]]:
    """The rows of the first Markdown table with so many columns, without its head."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in block.splitlines()]
        if all(len(row) == columns for row in rows):
            return rows[2:]
    raise AssertionError(f"no table of {columns} columns")


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Every `python -m ...` of the pages, in blocks and in sentences: (page, words after -m)."""
    for page in OURS:
        text = re.sub(r"^    ", "", _text(page), flags=re.MULTILINE)
        for found in re.findall(r"python3? -m ([^`\n]+)", text):
            words = re.split(r"\s+#\s|[;>|]|&&", found)[0]
            try:
                yield _name(page), shlex.split(words)
            except ValueError:
                yield _name(page), words.split()


COMMANDS = sorted({(page, tuple(words)) for page, words in _commands() if re.fullmatch(r"[a-z_.]+", words[0])})


def test_there_is_something_to_test() -> None:
    assert {_name(page) for page in PAGES} >= {"README.md", "docs/design.md", "docs/operations.md"}
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    outside_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", _text(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{_name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{_name(page)} links to {target}"


@pytest.mark.parametrize("page", OURS, ids=_name)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in re.findall(rf"`([\w.-]+(?:/[\w.-]+)+\.(?:{'|'.join(SUFFIXES)}))`", _text(page)):
        assert (PROJECT / path).exists(), f"{_name(page)} names {path}"
    for folder in re.findall(r"`((?:[\w.-]+/)+)`", _text(page)):
        assert (PROJECT / folder).is_dir(), f"{_name(page)} names {folder}"


@pytest.mark.parametrize("page", OURS, ids=_name)
def test_targets_of_make_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"(?:^|`|    )make ([a-z]+)", _text(page), re.MULTILINE):
        assert name in targets, f"{_name(page)} names make {name}"


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_commands_are_understood(page: str, words: tuple[str, ...]) -> None:
    module, *rest = words
    apps: dict[str, App] = {"consumer": consumer_command.app, "backfill": backfill_command.app}
    if module in ("venv", "pytest"):
        return
    assert importlib.util.find_spec(module), f"{page} names python -m {module}"
    if module in apps:
        if "--help" in rest:
            return
        _, bound, _ = apps[module].parse_args(rest, exit_on_error=False, print_error=False)
        if module == "backfill" and rest and rest[0].startswith("--"):
            backfill_command.check(**{k: v for k, v in bound.arguments.items() if k not in ("json", "quiet")})
    elif module == "bench" and "--help" not in rest:
        bench_arguments(rest)
    elif any(word.startswith("--") for word in rest):
        shown = _help(module)
        for word in rest:
            assert not word.startswith("--") or re.search(rf"{word}\b(?!-)", shown), (
                f"{page}: python -m {module} has no {word}"
            )


@cache
def _help(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_registry_is_the_one_in_the_design() -> None:
    section = _section("docs/design.md", "## The registry")
    metrics = [(m.event, m.metric, str(m.kind), m.member or "") for m in REGISTRY.metrics]
    assert _table(section, 4) == metrics
    assert _table(section, 2) == [(d.type, d.column) for d in REGISTRY.dimensions]


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = _table(_section("docs/operations.md", "## Exit codes"), 2)
    raised = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RollupError)}
    assert {int(code) for code, _ in rows} == {0, *raised}
    for code, meaning in rows[1:]:
        anchor = re.findall(r"\(#(exit-code-\d)[\w-]*\)", meaning)
        assert anchor == [f"exit-code-{code}"]


def test_exit_codes_in_the_error_tree_are_those_of_the_classes() -> None:
    for name, code in re.findall(r"(\w+Error) .* exit (\d)", errors.__doc__ or ""):
        assert getattr(errors, name).exit_code == int(code)


@pytest.mark.parametrize("page", OURS, ids=_name)
def test_metrics_that_are_named_exist(page: Path) -> None:
    registry = CollectorRegistry()
    Metrics(registry, ["reporting_events"])
    WatchMetrics(watched := CollectorRegistry())
    families = [*registry.collect(), *watched.collect()]
    known = {f"{family.name}{suffix}" for family in families for suffix in ("", "_total", "_bucket", "_info")}
    for name in re.findall(r"\breporting_rollup_\w+", _text(page)):
        assert name in known, f"{_name(page)} names {name}"


def test_classes_of_dead_letters_are_those_of_the_catalogue() -> None:
    rows = _table(_section("docs/design.md", "## Bad input"), 2)
    registry = CollectorRegistry()
    Metrics(registry, ["reporting_events"])
    labels = {
        sample.labels["error_class"]
        for family in registry.collect()
        if family.name == "reporting_rollup_dead_letters"
        for sample in family.samples
        if "error_class" in sample.labels
    }
    assert {name for name, _ in rows} == labels - {"other"}


def test_settings_in_the_readme_have_their_defaults() -> None:
    known = {row.name: row.default for row in Settings.variables()}
    rows = _table(_section("README.md", "## Configuration"), 3)
    for variable, default, _ in rows:
        assert known[variable.strip("`")] == default.strip("`")


def test_log_words_in_the_operations_exist() -> None:
    words = {str(event) for event in Event}
    for word in ("failed", "database_lost", "database_back", "offset_conflict", "partitions_lost"):
        assert f"`{word}`" in _text(PROJECT / "docs/operations.md")
        assert word in words


def test_decisions_are_numbered_and_have_their_number_in_the_title() -> None:
    pages = sorted((PROJECT / "docs/decisions").glob("*.md"))
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04}-")
        assert _text(page).startswith(f"# {number}. ")


def test_modules_that_print_a_page_are_importable() -> None:
    for module, page in (("consumer.settings_page", "configuration.md"), ("consumer.metrics", "metrics.md")):
        assert f"python -m {module}" in _text(PROJECT / "docs" / page)
        assert callable(importlib.import_module(module).markdown)
