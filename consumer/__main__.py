"""Commands of the consumer and their exit codes, nothing else: `python -m consumer [check|dead-letters]`."""

import sys
from typing import Annotated

import psycopg
import structlog
from cyclopts import App, Parameter

from consumer import __version__, check, command_line, logs
from consumer.access import refused_by_database
from consumer.dead_letters.commands import app as dead_letters
from consumer.errors import RollupError
from consumer.logs import Event
from consumer.service import Service
from consumer.settings import Settings

app = App(
    name="python -m consumer",
    version=__version__,
    help="Count reporting events from Kafka into exact daily rollups in PostgreSQL. "
    "Settings are environment variables: docs/configuration.md.",
)
log = structlog.get_logger()


@app.default
def run() -> int:
    """Consume until SIGTERM or Ctrl-C (the default command).

    Exit codes: 0 stopped, 1 unexpected error, 2 wrong configuration, 3 schema, 4 topic, 5 offset gap,
    6 dead-letter flood, 7 fenced, 8 refused by Kafka or PostgreSQL, 9 topic made again.
    """
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    log.info(Event.STARTING, version=__version__, **settings.describe())
    for warning in settings.warnings():
        log.warning(Event.SETTING_SUSPECT, message=warning)
    service: Service | None = None
    code = 0
    try:
        service = Service(settings)
        service.run()
    except RollupError as error:
        log.error(Event.FAILED, message=str(error), exit_code=error.exit_code)
        code = error.exit_code
    except Exception as error:
        if isinstance(error, psycopg.Error) and (refusal := refused_by_database(error)):
            code = refusal.exit_code
            log.error(Event.FAILED, message=str(refusal), exit_code=code)
        else:
            code = 1
            log.exception(Event.FAILED, message=f"{type(error).__name__}: {error}", exit_code=code)
    if service is not None and not service.has_ended:
        command_line.end_at_once(code)
    command_line.flush_log()
    return code


@app.command(name="check")
def check_command(*, timeout: Annotated[float, Parameter(help="Seconds to wait for each answer.")] = 10.0) -> int:
    """Check configuration, broker, topics, group, schema, time zones, rights, stored offsets and clock: one line each.

    Exit 0 if all are good, else 1.
    """
    return 0 if check.check(timeout) else 1


app.command(dead_letters)


def main() -> int:
    """Run the command line."""
    return command_line.run(app)


if __name__ == "__main__":
    sys.exit(main())
