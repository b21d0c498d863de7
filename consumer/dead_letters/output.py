"""Where an export goes: a file that is there as a whole or not at all, or something that takes it as it comes."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from consumer.errors import RollupError, WrongUse


@contextlib.contextmanager
def open_output(name: str) -> Iterator[BinaryIO]:
    """What stands at a path, or shall stand there, to write into.

    A file appears there when the block ends well, instead of one that was there, and not at all when it does not; only
    its owner may read it: contents are people's data. A symbolic link stays, and its target is the file. What is no
    file (a pipe, a terminal, /dev/stdout) gets what is written as it comes.

    Raises:
        WrongUse: it cannot be written there.
        RollupError: it could, but not to its end: the disk is full, say.
        BrokenPipeError: whoever reads it has stopped.
    """
    if not name:
        raise WrongUse("--output takes the path of a file; it is empty")
    path = Path(name)
    with _told(path, WrongUse):
        stays = _must_stay(path)
    with _as_it_comes(path) if stays else _whole_file(path) as out:
        yield out


def _must_stay(path: Path) -> bool:
    """Whether what stands there must not be replaced: it is no file, or one that somebody has opened for us."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or _descriptor(path) is not None


def _descriptor(path: Path) -> int | None:
    """Which of our descriptors a path stands for that exists: that of /dev/stdout is 1. None if it is another path."""
    ours = Path("/proc/self/fd").resolve()
    while not (path.name.isdecimal() and path.parent.resolve() == ours):
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return int(path.name)


@contextlib.contextmanager
def _as_it_comes(path: Path) -> Iterator[BinaryIO]:
    with _told(path, WrongUse):
        # A descriptor is copied and not opened by its path: a file would be written from its start again.
        number = _descriptor(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY) if number is None else os.dup(number)
    with _told(path, RollupError), os.fdopen(descriptor, "wb") as out:
        yield out


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    with _told(path, WrongUse):
        path.parent.resolve(strict=True)
        place = path.resolve()
        if place.exists() and not os.access(place, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with _told(path, RollupError), os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        with _told(path, WrongUse):  # a folder may let us add files, and not replace those of others
            beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _told(path: Path, kind: type[RollupError]) -> Iterator[None]:
    """Say what the system said of a path, as an error of this kind."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise kind(f"cannot write {path}: {error.strerror}; name another --output") from error
