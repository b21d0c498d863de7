"""Connection URIs whose password ends too early; nothing of it may be shown as a host, a port or an option."""

import pytest

from consumer.connection_uri import misread
from consumer.errors import ConfigurationError
from consumer.settings import DatabaseSettings
from local.migrate import migrate
from local.processes import LocalError

SECRET = "hunter2secret"


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://",
        "postgresql:///reports",
        "postgresql://db",
        "postgresql://me:p%40%2F%3F%3A@db.example:5432/reports?sslmode=verify-full&options=-c%20search_path%3Da",
        "postgres://me@a:1,b:2,[::1]:3,[fe80::1]/reports?target_session_attrs=primary",
        "postgresql://%2Frun%2Fpostgresql/reports",
        "postgresql://me:@db/reports?application_name=a@b",
        "postgresql://me:p:q@db/reports",
        "host=db dbname=reports password='p@:/?'",
    ],
)
def test_what_is_meant_so(uri: str) -> None:
    assert not misread(uri)


@pytest.mark.parametrize("character", "@/?")
@pytest.mark.parametrize("before", ["Tr0ub", "123", ""])
@pytest.mark.parametrize("rest", ["@db.example:5432/reports", "@db.example", "@db/reports?sslmode=require"])
def test_a_password_that_ends_too_early_is_refused_and_not_shown(character: str, before: str, rest: str) -> None:
    uri = f"postgresql://rollup:{before}{character}{SECRET}{rest}"
    assert misread(uri)
    with pytest.raises(ConfigurationError, match="%40") as refused:
        DatabaseSettings.load({"DATABASE_URL": uri})
    with pytest.raises(LocalError, match="%40") as not_migrated:
        migrate(uri)
    for error in (refused, not_migrated):
        assert SECRET not in str(error.value)
        assert "db.example" not in str(error.value)
