"""What a connection URI says by mistake: a character of a password may end it too early, so that the rest of it
is taken for a host, a port or an option, and is shown wherever these are."""

import re

HOW = "keep it to one line, and write the characters @ : / ? of a user or password as %40 %3A %2F %3F"
# As libpq reads it: a user and password end at the first @, if there is one before any slash. Other tools end them at a
# question mark, too.
_URI = re.compile(
    r"postgres(?:ql)?://((?P<user>[^/@]*)@)?(?P<hosts>[^/?]*)(?P<path>/[^?]*)?(\?(?P<options>.*))?", re.DOTALL
)
_OPTION = re.compile(r"\w+=")
_HOST = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:\d*)?")


def misread(uri: str) -> bool:
    """Whether parts of `uri` cannot be what they stand for; False for what is no URI, such as key=value strings."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        return False
    return (
        "\n" in uri  # a file with a second line
        or "?" in (parts["user"] or "")
        or "@" in (parts["path"] or "")
        or not all(_HOST.fullmatch(host) for host in parts["hosts"].split(","))
        or not all(_OPTION.match(option) for option in (parts["options"] or "").split("&") if option)
    )
