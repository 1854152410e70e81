"""Collects figures and says them: medians, ranges, ratios of pairs."""

import statistics

from comparison.brokers import OURS, SHIPPED, SYNCED


def spread(values, digits):
    """`median (least-most)`."""
    if not values:
        return "void"
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


class Figures:
    """All that was measured, by row and broker, in the order of the rounds."""

    def __init__(self, when, machine):
        self.when, self.machine = when, machine
        self.runs, self.disk, self.void = {}, {}, []

    def take_in(self, earlier):
        """What an earlier run on this machine wrote down."""
        if earlier["machine"] != self.machine:
            raise SystemExit(f"figures of another machine ({earlier['machine']}) can't be added to")
        self.runs, self.void = earlier["runs"], earlier["void"]
        self.disk = {int(size): outcomes for size, outcomes in earlier["disk"].items()}

    def add(self, row, broker, outcome):
        """One run; `None` for a void one."""
        self.runs.setdefault(row.name, {}).setdefault(broker, []).append(outcome)

    def add_void(self, row, broker, why):
        """A run that does not count, and why."""
        self.void.append(f"{row.name}, {broker}: {why}")
        self.add(row, broker, None)

    def add_disk(self, size, outcome):
        """One raw loop."""
        self.disk.setdefault(size, []).append(outcome)

    def last(self, row):
        """The latest round, in short."""
        latest = {broker: runs[-1] for broker, runs in self.runs[row.name].items()}
        return ", ".join(f"{broker} " + ("void" if run is None else " / ".join(f"{v:,.3g}" for v in run.values()))
                         for broker, run in sorted(latest.items(), reverse=True))

    def _values(self, row, broker, figure):
        return [run and run[figure] for run in self.runs[row.name].get(broker, [])]

    def ratios(self, row, figure, other):
        """Ours over theirs, pair by pair."""
        pairs = zip(self._values(row, OURS, figure), self._values(row, other, figure))
        return [mine / theirs for mine, theirs in pairs if mine and theirs]

    def rounds(self):
        """How many there were of the row that had most."""
        return max(len(runs) for brokers in self.runs.values() for runs in brokers.values())

    def table(self, rows):
        """A table in Markdown."""
        lines = [f"{self.when:%Y-%m-%d %H:%M} UTC; {self.machine}; {self.rounds()} interleaved rounds; median (range)", "",
                 "| Work (acks=all) | Kafka as shipped | Kafka synced | StreamBus | to shipped | to synced | wanted |",
                 "|---|---|---|---|---|---|---|"]
        for row in rows:
            for figure in next(run for runs in self.runs[row.name].values() for run in runs if run):
                title = row.title if figure == "rate" else f"{row.title}, {figure}"
                small = max([v for v in self._values(row, OURS, figure) if v], default=0) < 10
                cells = [spread([v for v in self._values(row, broker, figure) if v], 2 if small else 0)
                         for broker in (SHIPPED, SYNCED, OURS)]
                times = [f"{spread(self.ratios(row, figure, other), 2)}x" for other in (SHIPPED, SYNCED)]
                lines.append(f"| {title}, {row.unit} | {' | '.join(cells + times)} | {row.wanted} |")
        lines += ["", "| Disk alone, one write at a time | MB/s | p50 ms | p99 ms |", "|---|---|---|---|"]
        for size, outcomes in sorted(self.disk.items()):
            for how in outcomes[0]:
                mbs, p50, p99 = zip(*(outcome[how] for outcome in outcomes))
                lines.append(f"| {size:,} B, {how} | {spread(mbs, 0)} | {spread(p50, 3)} | {spread(p99, 3)} |")
        return "\n".join(lines + [f"\nVOID: {why}" for why in self.void])

    def busy_table(self, rows, busy_name):
        """Each row's figure beside other work, by the one without, pair by pair."""
        lines = ["", "| Busy by quiet | Kafka as shipped | Kafka synced | StreamBus |", "|---|---|---|---|"]
        for row in rows:
            runs, busy = self.runs[row.name], self.runs[busy_name(row)]
            for figure in next(run for of in runs.values() for run in of if run):
                cells = []
                for broker in (SHIPPED, SYNCED, OURS):
                    pairs = zip(runs[broker], busy[broker])
                    cells.append(spread([with_[figure] / without[figure] for without, with_ in pairs if without and with_], 2))
                title = row.title if figure == "rate" else f"{row.title}, {figure}"
                lines.append(f"| {title} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def as_json(self):
        """Everything, for a machine."""
        return {"when": self.when.isoformat(), "machine": self.machine, "runs": self.runs,
                "disk": {str(size): outcomes for size, outcomes in self.disk.items()}, "void": self.void}
