"""What clients published on the daemon's own topics: dropped by the broker, told and buried by the daemon."""

from collections import Counter
from collections.abc import Callable

import structlog

from config.times import time_text
from execution.ledger import derived_id
from execution.model import AlertRaised, Reason, Severity
from execution.orders import DeadLetter
from execution.service import ExecutionService
from runtime.broker import Violation
from runtime.clock import WallClock

log = structlog.get_logger(__name__)

_KINDS_AT_ONCE = 100


class Forgeries:
    """Counts violations between two tellings, so that a flood of them is told in a few lines."""

    def __init__(self) -> None:
        self._violations: Counter[Violation] = Counter()

    def note(self, violation: Violation) -> None:
        """The broker kept somebody from speaking for the daemon."""
        if len(self._violations) < _KINDS_AT_ONCE or violation in self._violations:
            self._violations[violation] += 1

    async def tell(self, execution: ExecutionService | None, publish: Callable[[AlertRaised], None]) -> None:
        """One alert and one dead letter for each topic and client, however many there were."""
        violations, self._violations = self._violations, Counter()
        for violation, times in violations.items():
            log.warning("forged message dropped", topic=violation.topic, client=violation.client_id, times=times)
            message = (
                f"a client published on {violation.topic}, which only the daemon may; the broker dropped it"
                f" ({times} time{'s' if times > 1 else ''})"
            )
            letter = _letter(violation)
            about = {"topic": letter.topic, "client": violation.client_id, "times": str(times), "letter": letter.id}
            alert = AlertRaised(Severity.HIGH, "forged_topic", message, None, about)
            if execution is not None:
                alert = await execution.bury_with(letter, alert)
            publish(alert)


def _letter(violation: Violation) -> DeadLetter:
    """The broker does not show what it dropped, only where."""
    now = WallClock().now()
    reason = Reason("forged_topic", "topic", violation.topic, "a topic that clients may publish on")
    key = derived_id("letter", violation.topic, violation.client_id, time_text(now))
    return DeadLetter(key, now, violation.topic, b"", 0, reason, retained=False)
