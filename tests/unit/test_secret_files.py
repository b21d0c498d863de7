"""Secrets from files: what is read of them, and what an error says, which is nothing of what is in them."""

import os
import re
from pathlib import Path

import pytest

from consumer.errors import ConfigurationError
from consumer.kafka_properties import MOST_SECRET_BYTES, from_environment, read_secret_file
from consumer.settings import Settings

MARK = "hunter2"

SECRETS = (
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
)
"""All properties of librdkafka 2.16 whose values are secret."""


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_property_can_be_in_a_file_and_is_hidden(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{MARK}\n")
    variable = "KAFKA_" + name.upper().replace(".", "_") + "_FILE"
    assert from_environment({variable: str(file)}) == {name: MARK}
    settings = Settings.load({variable: str(file)})
    assert settings.kafka_properties()[name] == MARK
    assert MARK not in repr(settings) + str(settings.describe())


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\n\n", "secret"),
        (b" secret ", " secret "),  # part of it, for all that we know
        (b"-----BEGIN\nkey\n-----END\n", "-----BEGIN\nkey\n-----END"),
        ("pässwörd\n".encode(), "pässwörd"),
        (b"x" * MOST_SECRET_BYTES, "x" * MOST_SECRET_BYTES),
    ],
)
def test_line_ends_that_editors_add_are_no_part_of_it(content: bytes, read: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert read_secret_file("X_FILE", str(file)) == read


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (MARK.encode() + b"\xff", "it is not UTF-8 text"),
        (MARK.encode() + b"\0", "it is not text"),
        (MARK.encode() * MOST_SECRET_BYTES, f"it has more than {MOST_SECRET_BYTES} bytes"),
    ],
)
def test_what_cannot_be_a_secret_is_one_line_without_it(content: bytes, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read_secret_file("X_FILE", str(file))
    assert str(raised.value) == (
        f"X_FILE is wrong: cannot read '{file}' ({cause}); allowed: the path of a readable text file"
    )
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__  # a UnicodeError holds what it could not decode


def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    for path, cause in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(ConfigurationError, match=re.escape(cause)):
            read_secret_file("X_FILE", str(path))
    with pytest.raises(ConfigurationError, match="has more than"):
        read_secret_file("X_FILE", "/dev/zero")  # never ends


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(MARK)
    file.chmod(0)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        read_secret_file("X_FILE", str(file))


@pytest.mark.parametrize("slip", [MARK, f"postgresql://user:{MARK}@db/x", f"{MARK}\0", "~/" + MARK])
def test_a_secret_given_where_a_path_belongs_is_not_shown(slip: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_secret_file("KAFKA_SASL_PASSWORD_FILE", slip)
    assert MARK not in str(raised.value)
    assert "it is no absolute path" in str(raised.value)
