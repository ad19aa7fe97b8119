"""`python -m runtime.cli`."""

import os
import signal
from typing import Any

_INTERRUPTED = 130  # as in runtime.cli.base, which takes a while to load


def _leave(*_: Any) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    # Nothing is open while modules are loaded: a Ctrl-C then is an end, and no traceback out of an import.
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears:
        signal.signal(signal.SIGINT, _leave)
    from runtime.cli.app import main

    if hears:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
