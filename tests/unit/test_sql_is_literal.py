"""SQL is literal text with parameters, never glued: every call that takes a statement is looked at, in every file.

What differs between statements (columns of the registry) goes through `psycopg.sql`, which quotes names and values.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PROGRAMS = sorted(path for folder in ("consumer", "backfill") for path in (PROJECT / folder).rglob("*.py"))
WORKSHOP = sorted(path for folder in ("local", "bench") for path in (PROJECT / folder).rglob("*.py"))
TAKES_SQL = {"execute", "executemany", "copy", "stream", "fetch", "SQL"}
"""Names of methods whose first argument is a statement or a part of one."""
GLUES = {"format", "join", "replace", "encode", "format_map", "substitute", "removeprefix", "removesuffix", "strip"}
EXCEPTIONS = {
    "local/events.py": "the columns of the sample's dataclass, to a table of a development database",
}
"""Files of the workshop that glue names into SQL, and why that is safe."""

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module


def glued(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every statement that is put together from pieces."""
    for scope in [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))]:
        values = _assigned(scope)
        for call in ast.walk(scope):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in TAKES_SQL
                and (given := [*call.args, *(word.value for word in call.keywords if word.arg == "query")])
                and not _literal(given[0], values, frozenset())
            ):
                yield call.lineno, ast.unparse(call)


def _assigned(scope: Function) -> dict[str, list[ast.expr]]:
    """What names are assigned in a function or a module, loops and `with` left out: they have no text to glue."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        targets = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            targets = [node.target]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                glue = ast.BinOp(target, node.op, value) if isinstance(node, ast.AugAssign) else value
                found.setdefault(target.id, []).append(glue)
    return found


def _literal(node: ast.expr, values: dict[str, list[ast.expr]], seen: frozenset[str]) -> bool:
    """Whether an expression is a text of the program's own, or one that psycopg.sql has put together."""
    match node:
        case ast.JoinedStr() | ast.BinOp():
            return False
        case ast.IfExp():
            return _literal(node.body, values, seen) and _literal(node.orelse, values, seen)
        case ast.Name() if node.id in values and node.id not in seen:
            return all(_literal(value, values, seen | {node.id}) for value in values[node.id])
        case ast.Call(func=ast.Attribute(attr=attr, value=receiver)) if attr in GLUES:
            return _composed(receiver, values, seen)
        case _:
            return True


def _composed(node: ast.expr, values: dict[str, list[ast.expr]], seen: frozenset[str]) -> bool:
    """Whether the receiver of `format` or `join` is psycopg's, and not a str."""
    match node:
        case ast.Call(func=ast.Attribute(attr="SQL")):
            return True
        case ast.Call(func=ast.Attribute(attr=attr, value=receiver)) if attr in GLUES:
            return _composed(receiver, values, seen)
        case ast.Name() if node.id in values and node.id not in seen:
            return all(_composed(value, values, seen | {node.id}) for value in values[node.id])
        case _:
            return False


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_statement_of_the_programs_is_glued(path: Path) -> None:
    assert list(glued(ast.parse(path.read_text()))) == []


def test_what_the_workshop_glues_is_known() -> None:
    found = {str(path.relative_to(PROJECT)) for path in WORKSHOP if list(glued(ast.parse(path.read_text())))}
    assert found == set(EXCEPTIONS)


def test_there_are_calls_to_look_at() -> None:
    calls = [
        node
        for path in PROGRAMS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute"
    ]
    assert len(calls) > 50


@pytest.mark.parametrize(
    "code",
    [
        'conn.execute(f"SELECT {x}")',
        'conn.execute("SELECT " + x)',
        'conn.execute("SELECT %s" % x)',
        'conn.execute("SELECT {}".format(x))',
        'conn.execute(" ".join(parts))',
        'conn.execute(STATEMENTS["a"].replace("x", y))',
        'conn.execute(STATEMENTS["a"].format(y))',
        'conn.execute(f"SELECT {x}".encode())',
        'cursor.copy(f"COPY {table} FROM STDIN")',
        'conn.execute(query=f"SELECT {x}")',
        'sql.SQL(f"SELECT {x}")',
        'sql.SQL("SELECT " + x).format()',
        'statement = "SELECT " + x\nconn.execute(statement)',
        'def f(x):\n    s = "SELECT "\n    s += x\n    conn.execute(s)',
        'conn.execute("a" if x else f"{y}")',
        'conn.execute(s := f"{y}")\nconn.execute(s)',
    ],
)
def test_glue_is_found(code: str) -> None:
    assert list(glued(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        'conn.execute("SELECT %s", (x,))',
        'conn.execute(STATEMENTS["a"], {"x": f"{x}"})',
        'conn.execute(sql.SQL("SELECT {}").format(sql.Identifier(x)))',
        'conn.execute(sql.SQL(", ").join(parts))',
        'comma = sql.SQL(", ")\nconn.execute(comma.join(parts))',
        'name = "a" if x else "b"\nconn.execute(STATEMENTS[name])',
        "rows = values.copy()",
    ],
)
def test_parameters_are_not(code: str) -> None:
    assert not list(glued(ast.parse(code)))
