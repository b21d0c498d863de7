"""How a table of settings is read from environment variables: values, one-line errors, near misses, descriptions.

`consumer.settings` declares the tables; this file knows no setting by name. A field's variable is its name in
capitals. What a person needs to know about it travels in the field itself, so that errors and docs cannot differ.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from consumer.errors import ConfigurationError
from consumer.kafka_properties import FILE_SUFFIX, read_secret_file
from consumer.logs import redact


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting as an operator sees it: one row of the table in the docs."""

    name: str
    default: str
    unit: str
    allowed: str
    meaning: str
    secret: bool


def setting(
    default: object,
    meaning: str,
    *,
    unit: str = "",
    allowed: str = "",
    between: tuple[int, int] | None = None,
    secret: bool = False,
) -> Any:
    """Declare a field that is an environment variable.

    Args:
        default: what it is when the variable is absent; checked like a given value.
        meaning: a sentence for the docs.
        unit: a plural noun.
        allowed: what may be given, for errors and docs; not needed for `Literal` fields and with `between`.
        between: least and greatest whole number allowed.
        secret: never shown, and can be read from the file that the variable with `_FILE` added names.
    """
    low, high = between or (None, None)
    if between:
        allowed = f"a whole number from {low} to {high}"
    row: dict[str, JsonValue] = {"unit": unit, "allowed": allowed, "secret": secret}
    return Field(default=default, ge=low, le=high, description=meaning, json_schema_extra={"setting": row})


class EnvironmentSettings(BaseModel):
    """Base of frozen settings. `load` reads them; keyword arguments set them directly and read nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings of this process, or of `environ`.

        Raises:
            ConfigurationError: one line for each wrong variable, without secrets.
        """
        try:
            return cls(**cls.read(os.environ if environ is None else environ))
        except ValidationError as error:
            # Without the cause: pydantic's own text shows the values, secrets too.
            raise ConfigurationError("\n".join(cls._lines(error))) from None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> dict[str, Any]:
        """The unchecked values that `environ` gives, by field. An empty value is a value, and mostly a wrong one:
        it tends to come from a template that found nothing."""
        values: dict[str, Any] = {}
        for row in cls.variables():
            in_file = row.name + FILE_SUFFIX
            if row.secret and in_file in environ:
                if row.name in environ:
                    raise ConfigurationError(f"{row.name} and {in_file} are both set; keep one of them")
                values[row.name.lower()] = read_secret_file(in_file, environ[in_file])
            elif row.name in environ:
                values[row.name.lower()] = environ[row.name]
        return values

    @classmethod
    def _lines(cls, error: ValidationError) -> Iterator[str]:
        rows = {row.name: row for row in cls.variables()}
        for problem in error.errors():
            name = str(problem["loc"][0]).upper() if problem["loc"] else ""
            # Only our own checks raise ValueError, and word it for operators.
            reason = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else ""
            if row := rows.get(name):
                found = "a value that is not shown" if row.secret else repr(problem["input"])[:100]
                because = f"{reason}; " if reason else ""
                unit = f" ({row.unit})" if row.unit else ""
                yield f"{name} is wrong: {because}found {found}; allowed: {row.allowed}{unit}"
            else:
                yield reason or f"{name} is wrong: {problem['msg']}"

    @classmethod
    def variables(cls) -> Iterator[Variable]:
        """The table of this class's settings, in the order they are declared."""
        for field, info in cls.model_fields.items():
            extra = info.json_schema_extra
            if not isinstance(extra, dict) or not isinstance(row := extra.get("setting"), dict):
                continue
            choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
            yield Variable(
                name=field.upper(),
                default=str(info.default),
                unit=str(row["unit"]),
                allowed=str(row["allowed"]) or f"one of {', '.join(choices)}",
                meaning=info.description or "",
                secret=bool(row["secret"]),
            )

    @classmethod
    def warnings(cls, environ: Mapping[str, str] | None = None) -> list[str]:
        """A sentence for each variable that is none of ours but looks like a misspelt one of ours."""
        names = [row.name for row in cls.variables()]
        known = {*names, *(row.name + FILE_SUFFIX for row in cls.variables() if row.secret)}
        found = []
        for variable in sorted(set(os.environ if environ is None else environ) - known):
            without_unit = [name for name in names if "_" in variable and name.startswith(variable + "_")]
            close = without_unit or difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
            if close:
                found.append(f"{variable} is not a setting; did you mean {close[0]}?")
        return found

    def describe(self) -> dict[str, str | int]:
        """Every setting in force by its variable's name, with passwords hidden: for logs and `repr`."""
        shown: dict[str, str | int] = {}
        for row in self.variables():
            value = getattr(self, row.name.lower())
            shown[row.name] = redact(value) if isinstance(value, str) else value
        return shown

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        yield from self.describe().items()
