"""What a connection URI says by mistake: a character of a password may end it too early, so that the rest of it
is taken for a host, a port or an option, and is shown wherever these are."""

import re

HOW = "keep it to one line, and write the characters @ : / ? of a user or password as %40 %3A %2F %3F"
_URI = re.compile(r"postgres(?:ql)?://(?P<authority>[^/?]*)(?P<path>/[^?]*)?(?:\?(?P<options>.*))?", re.DOTALL)
_OPTION = re.compile(r"\w+=")
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")


def misread(uri: str) -> bool:
    """Whether parts of `uri` cannot be what they stand for; False for what is no URI, such as key=value strings."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        return False
    userinfo, _, hosts = parts["authority"].rpartition("@")
    return (
        "\n" in uri  # a file with a second line
        or "@" in userinfo
        or userinfo.count(":") > 1
        or "@" in (parts["path"] or "")
        or not all(_HOST.fullmatch(host) for host in hosts.split(","))
        or not all(_OPTION.match(option) for option in (parts["options"] or "").split("&") if option)
    )
