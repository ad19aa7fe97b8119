"""`python -m runtime.cli`."""

import os
import signal
import sys
import threading
from typing import Any

_INTERRUPTED = 130  # as in runtime.cli.base, which takes a while to load
_AGAIN = 0.02
"""Seconds until a dropped Ctrl-C comes again."""


def _leave(*_: Any) -> None:
    os._exit(_INTERRUPTED)


def _dropped(what: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised in a callback out of which nothing can be raised, as of a weak reference in the
    middle of an import. A Ctrl-C must not get lost like that: it is sent to this process once more."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(what)


if __name__ == "__main__":
    # Nothing is open while modules are loaded: a Ctrl-C then is an end, and no traceback out of an import.
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears:
        signal.signal(signal.SIGINT, _leave)
    from runtime.cli.app import main

    if hears:
        sys.unraisablehook = _dropped
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
