"""What one program, test or suite came to."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`result` is PASS, FAIL or SKIP; `why` says why it is not PASS, or something worth knowing."""

    name: str
    result: str
    why: str = ""

    def line(self):
        """The one line that is printed."""
        return f"{self.name}: {self.result}" + (f" {self.why}" if self.why else "")


def summary(outcomes):
    """The closing line that counts them."""
    count = {word: sum(1 for outcome in outcomes if outcome.result == word) for word in ("PASS", "FAIL", "SKIP")}
    return f"{count['PASS']} passed, {count['FAIL']} failed, {count['SKIP']} skipped"
