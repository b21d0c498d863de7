"""The commands that rebuild chosen days: plan, run, go on with a run that did not end."""

import threading
import time
from dataclasses import asdict, dataclass
from datetime import datetime

from backfill import runs
from backfill.plan import Estimate, estimate, units
from backfill.report import Report
from backfill.run import Runner
from backfill.selection import Resolved, Selection, resolve
from backfill.settling import Settling
from backfill.work import work
from consumer.rollup.days import tzdata_version
from consumer.rollup.rebuild import Result
from consumer.settings import DatabaseSettings
from consumer.tables import cell_text, harmless, print_json


@dataclass(frozen=True, slots=True)
class Options:
    """How to rebuild, and how to tell of it."""

    jobs: int = 1
    force: bool = False
    json: bool = False
    quiet: bool = False


def run(settings: DatabaseSettings, selection: Selection, options: Options, stop: threading.Event) -> int:
    """Rebuild a selection. Returns the exit code."""
    with Runner(settings, stop) as runner:
        resolved = _resolve(runner, selection)
        run_id = runner.attempt(lambda: runs.begin(runner.connection(), selection, force=options.force))
    return _rebuild(settings, resolved, run_id, options, stop)


def resume(settings: DatabaseSettings, options: Options, stop: threading.Event) -> int:
    """Go on with the newest run that did not end. Returns the exit code."""
    report = Report(0, quiet=options.quiet, json=options.json)
    with Runner(settings, stop) as runner:
        last = runner.attempt(lambda: runs.unfinished(runner.connection()))
        if last is None:
            report.say("every run has ended: nothing to resume")
            return 0
        # `yesterday` stays what it was when the run began.
        began_us = int(last.started_at.timestamp() * 1e6)
        resolved = runner.attempt(lambda: resolve(runner.connection(), last.selection, began_us))
        done = runner.attempt(lambda: runs.count_done(runner.connection(), resolved, last.started_at))
    if not options.quiet:
        words = f"{last.selection} --force" if last.force else f"{last.selection}"
        left = f"{resolved.count - done:,} of {resolved.count:,} days are left"
        report.say(f"going on with the run of {cell_text(last.started_at)}, {words}: {left}", error=True)
    forced = Options(options.jobs, last.force, options.json, options.quiet)
    return _rebuild(settings, resolved, last.id, forced, stop, since=last.started_at, done_before=done)


def dry_run(settings: DatabaseSettings, selection: Selection, options: Options) -> int:
    """Print what a selection comes to, and write nothing, not even temporary tables. Returns the exit code."""
    with Runner(settings) as runner:
        resolved = _resolve(runner, selection)
        found = runner.attempt(lambda: estimate(runner.connection(), resolved, options.jobs))
    refused = [(account, "has no reporting_timezone") for account in resolved.without_timezone]
    refused += [
        (account, f"is in {harmless(name)}, which this program's tzdata ({tzdata_version()}) does not know")
        for account, name in resolved.unknown_timezone.items()
    ]
    if options.json:
        accounts = {
            "without_timezone": list(resolved.without_timezone),
            "unknown_timezone": list(resolved.unknown_timezone),
        }
        print_json({**asdict(found), **accounts})
    else:
        report = Report(0)
        report.say(describe(found, options.jobs))
        for account, why in refused:
            report.say(f"account {account} {why}, and would fail", error=True)
    return 1 if refused else 0


def plan(settings: DatabaseSettings, selection: Selection, options: Options) -> str:
    """What a selection comes to, in one line."""
    with Runner(settings) as runner:
        resolved = _resolve(runner, selection)
        return describe(runner.attempt(lambda: estimate(runner.connection(), resolved, options.jobs)), options.jobs)


def describe(found: Estimate, jobs: int) -> str:
    """A plan in one line."""
    if not found.days:
        return "nothing to rebuild: no raw events, or no account with a time zone"
    span = f"{found.first}" if found.first == found.last else f"{found.first} to {found.last}"
    with_jobs = f" with {jobs} connections" if jobs > 1 else ""
    return (
        f"{found.accounts:,} accounts, {found.days:,} account-days ({span}), {found.raw_events:,} raw events: "
        f"about {max(1.0, found.seconds):,.0f} s{with_jobs}"
    )


def _resolve(runner: Runner, selection: Selection) -> Resolved:
    return runner.attempt(lambda: resolve(runner.connection(), selection, time.time_ns() // 1000))


def _rebuild(
    settings: DatabaseSettings,
    resolved: Resolved,
    run_id: int,
    options: Options,
    stop: threading.Event,
    *,
    since: datetime | None = None,
    done_before: int = 0,
) -> int:
    days = resolved.count - done_before
    refused = len(resolved.without_timezone) + len(resolved.unknown_timezone)
    report = Report(days + refused, json=options.json, quiet=options.quiet)
    if not (days or refused):
        report.say("there are no days to rebuild")
    with report:
        for account in resolved.without_timezone:
            report.refused(account, Result.NO_TIMEZONE)
        for account in resolved.unknown_timezone:
            report.refused(account, Result.UNKNOWN_TIMEZONE)
        done = work(
            settings,
            units(resolved) if days else (),
            jobs=options.jobs,
            force=options.force,
            progress=report,
            stop=stop,
            since=since,
            warn=lambda line: report.say(line, error=True),
        )
    report.finish()
    if report.settling:
        with Runner(settings) as runner:
            settling = Settling.of(runner.fetch, report.settling)
        report.note(f"{report.results[Result.SETTLING]:,} days stay stale: {settling}")
    if not done.finished:
        why = f"the database went away ({done.lost})" if done.lost else "stopped"
        left = max(1, days + refused - report.done)  # others may have done some
        report.say(f"{why}: {left:,} days are left; go on with: python -m backfill --resume", error=True)
        return 1
    with Runner(settings) as runner:
        runner.attempt(lambda: runs.end(runner.connection(), run_id))
    return 0 if report.good else 1
