"""Where an export goes. What must not be replaced stands in a folder of the test, or cannot be: never try this with
/dev/stdout or /dev/null, which a user who may do everything could lose."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consumer.dead_letters.output import open_output
from consumer.errors import RollupError, WrongUse

TEXT = b'{"id": 1}\n'
NOBODY = 65534


def export_to(path: Path | str) -> None:
    with open_output(str(path)) as out:
        out.write(TEXT)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, b"what was there before\n"])
def test_a_file_is_there_when_all_of_it_is_written(tmp_path: Path, before: bytes | None) -> None:
    target = tmp_path / "letters.jsonl"
    if before is not None:
        target.write_bytes(before)
    with open_output(str(target)) as out:
        out.write(TEXT)
        out.flush()
        assert (target.read_bytes() if target.exists() else None) == before
    assert target.read_bytes() == TEXT
    assert target.stat().st_mode & 0o777 == 0o600
    assert files(tmp_path) == ["letters.jsonl"]


def test_a_file_stays_as_it_was_when_not_all_of_it_is_written(tmp_path: Path) -> None:
    target = tmp_path / "letters.jsonl"
    target.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), open_output(str(target)) as out:
        out.write(TEXT)
        raise KeyboardInterrupt
    assert target.read_bytes() == b"before"
    assert files(tmp_path) == ["letters.jsonl"]


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_symbolic_link_stays_and_its_target_is_the_file(tmp_path: Path, before: bytes | None) -> None:
    target, link = tmp_path / "there" / "letters.jsonl", tmp_path / "here"
    target.parent.mkdir()
    if before is not None:
        target.write_bytes(before)
    link.symlink_to(Path("there") / "letters.jsonl")
    with open_output(str(link)) as out:
        out.write(TEXT)
        out.flush()
        assert (target.read_bytes() if target.exists() else None) == before
    assert link.is_symlink()
    assert target.read_bytes() == TEXT
    assert (files(tmp_path), files(target.parent)) == (["here", "there"], ["letters.jsonl"])


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_into(tmp_path: Path, linked: bool) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    export_to(link if linked else pipe)
    reader.join(10)
    assert read == [TEXT]
    assert pipe.is_fifo()
    assert files(tmp_path) == ["link", "pipe"]


def test_a_reader_may_stop_reading_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BrokenPipeError), open_output(str(pipe)) as out:
        os.close(reading)
        out.write(TEXT)
        out.flush()


def test_a_device_is_written_into() -> None:
    ours, terminal = os.openpty()
    try:
        export_to(os.ttyname(terminal))
        assert os.read(ours, 100) == TEXT.replace(b"\n", b"\r\n")
    finally:
        os.close(ours)
        os.close(terminal)


def test_what_is_open_already_is_written_on_where_it_stands(tmp_path: Path) -> None:
    """As in `export --output /dev/stdout >> letters.jsonl`: nothing that is there is lost."""
    target, link = tmp_path / "letters.jsonl", tmp_path / "stdout"
    target.write_bytes(b"before\n")
    number = os.open(target, os.O_WRONLY | os.O_APPEND)
    link.symlink_to(f"/proc/self/fd/{number}")
    try:
        export_to(f"/dev/fd/{number}")
        export_to(link)
        os.write(number, b"after\n")
    finally:
        os.close(number)
    assert target.read_bytes() == b"before\n" + 2 * TEXT + b"after\n"
    assert link.is_symlink()
    assert files(tmp_path) == ["letters.jsonl", "stdout"]


def test_what_cannot_be_written_to_its_end_is_told_in_one_line() -> None:
    number = os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(RollupError, match=f"^cannot write /dev/fd/{number}: Bad file descriptor; name") as raised:
            export_to(f"/dev/fd/{number}")
    finally:
        os.close(number)
    assert raised.value.exit_code == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "--output takes the path of a file; it is empty"),
        ("{tmp}", "cannot write {tmp}: Is a directory; name another --output"),
        (".", "cannot write .: Is a directory; name another --output"),
        ("/", "cannot write /: Is a directory; name another --output"),
        ("{tmp}/none/x", "cannot write {tmp}/none/x: No such file or directory; name another --output"),
        ("{tmp}/none/..", "cannot write {tmp}/none/..: No such file or directory; name another --output"),
        ("{tmp}/to none", "cannot write {tmp}/to none: No such file or directory; name another --output"),
        ("{tmp}/to itself", "cannot write {tmp}/to itself: Too many levels of symbolic links; name another --output"),
        ("{tmp}/file/x", "cannot write {tmp}/file/x: Not a directory; name another --output"),
        ("{tmp}/" + 256 * "x", "cannot write {tmp}/" + 256 * "x" + ": File name too long; name another --output"),
    ],
)
def test_what_cannot_be_written_is_wrong_use(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "to none").symlink_to("none/x")
    (tmp_path / "to itself").symlink_to("to itself")
    before = files(tmp_path)
    with pytest.raises(WrongUse) as raised:
        export_to(name.format(tmp=tmp_path))
    assert str(raised.value) == said.format(tmp=tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("folder", "file", "said"),
    [
        (0o755, 0o666, "Permission denied"),
        (0o777, 0o644, "Permission denied"),
        (0o1777, 0o666, "Operation not permitted"),  # as in /tmp: whoever adds files, replaces none of others
    ],
)
def test_files_of_others_are_left_alone(tmp_path: Path, folder: int, file: int, said: str) -> None:
    target = tmp_path / "letters.jsonl"
    target.write_bytes(b"before")
    target.chmod(file)
    tmp_path.chmod(folder)
    with somebody_else(tmp_path), pytest.raises(WrongUse, match=f"^cannot write {target}: {said}; name another"):
        export_to(target)
    assert target.read_bytes() == b"before"
    assert files(tmp_path) == ["letters.jsonl"]


@contextmanager
def somebody_else(folder: Path) -> Iterator[None]:
    """Another user's rights, who may get to the folder; only root can have them."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    passed = [up for up in folder.parents if up.stat().st_mode & 0o001 == 0]
    modes = [up.stat().st_mode for up in passed]
    for up in passed:
        up.chmod(0o711)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for up, mode in zip(passed, modes, strict=True):
            up.chmod(mode)
