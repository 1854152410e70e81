"""The tables of README.md: what passes, by client and by test of librdkafka's suite. `write` makes them
from a run; `check` fails when a run came out otherwise, so that they cannot grow old."""

import re

from lib import librdkafka, tools
from lib.outcome import Outcome

README = tools.HERE / "README.md"
CLIENT = re.compile(r"^(\S+) (\S+) \((core|node)\)$")
MARKS = {"clients": "client table", "librdkafka": "librdkafka table"}


def client_rows(outcomes):
    """{(client, version): {mode: result}} in order of appearance; skipped ones have no version."""
    rows = {}
    for outcome in outcomes:
        found = CLIENT.match(outcome.name)
        if found:
            rows.setdefault((found[1], found[2]), {})[found[3]] = outcome.result
    return rows


def clients_table(outcomes):
    """Lines of the table of clients."""
    lines = ["| Client | Version | core mode | node mode |", "|---|---|---|---|"]
    for (client, version), modes in client_rows(outcomes).items():
        lines.append(f"| {client} | {version} | {modes.get('core', '')} | {modes.get('node', '')} |")
    return lines


def librdkafka_table(outcomes):
    """Lines of the table of librdkafka's tests: those that ran, then those that are not run and why."""
    results = {outcome.name.removeprefix("librdkafka "): outcome for outcome in outcomes
               if outcome.name.startswith("librdkafka ")}
    lines = ["| Test | Result | What it proves, or why it is not run |", "|---|---|---|"]
    for test, part, run, words in sorted(librdkafka.table_rows(), key=lambda row: not row[2]):
        name = test if part is None else f"{test} {part}"
        outcome = results.get(name)
        result = "not run" if not run else outcome.result if outcome else ""
        why = f"{words} ({outcome.why})" if outcome and outcome.result == "FAIL" else words
        lines.append(f"| {name} | {result} | {why} |".replace("  ", " "))
    return lines


def between(text, mark):
    """The span of a table between its two marks."""
    start, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    at = text.index(start) + len(start)
    return at, text.index(end, at)


def write(outcomes):
    """Puts a run's results into README.md."""
    text = README.read_text()
    for mark, lines in ((MARKS["clients"], clients_table(outcomes)), (MARKS["librdkafka"], librdkafka_table(outcomes))):
        at, end = between(text, mark)
        text = text[:at] + "\n".join(lines) + "\n" + text[end:]
    README.write_text(text)


def check(outcomes):
    """Whether README.md says what this run saw. What was skipped here proves nothing either way."""
    text, stale = README.read_text(), []
    for mark, lines in ((MARKS["clients"], clients_table(outcomes)), (MARKS["librdkafka"], librdkafka_table(outcomes))):
        at, end = between(text, mark)
        written = set(text[at:end].splitlines())
        # A reason may name a time or an address: only rows that did not fail are compared to the letter.
        stale += [line for line in lines if line not in written and "FAIL" not in line and "|  |" not in line]
    if stale:
        return Outcome("README table", "FAIL", f"{len(stale)} rows differ (--write-table), first: {stale[0]}")
    return Outcome("README table", "PASS")
