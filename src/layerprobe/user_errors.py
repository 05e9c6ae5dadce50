"""Errors that are messages to a user, told from faults of the program."""

from __future__ import annotations


def is_message(error: BaseException) -> bool:
    """Whether an error is a message of this package: of a kind that carries one, and raised by its own code.

    Args:
        error: An error that has been raised.
    """
    if not isinstance(error, ValueError | TypeError | LookupError | RuntimeError | ImportError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] == "layerprobe" and not isinstance(error, KeyError | IndexError)
