"""What a handler forks, by `multiprocessing` or so, is a copy of our process: it would hear signals as us, and hold our
ends of pipes.
"""

import os
import signal

REQUESTS_TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_ours: set[int] = set()


def keep_out_of_ours() -> None:
    """From here on forks of this process heed requests to stop by themselves, and have none of its own ends. Once."""
    os.register_at_fork(before=_hold_requests, after_in_parent=_let_requests_in, after_in_child=_begin_anew)


def own(end: int) -> None:
    """A file descriptor that means something by being open."""
    _ours.add(end)


def close(end: int) -> None:
    """One that we own, and that has meant it long enough."""
    _ours.discard(end)
    os.close(end)


def _hold_requests() -> None:
    """One that reaches a fork before it heeds them would be lost: `multiprocessing` asks once, and waits for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS_TO_STOP)


def _let_requests_in() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS_TO_STOP)


def _begin_anew() -> None:
    signal.set_wakeup_fd(-1)  # else a signal to the fork wakes the event loop that it was copied from
    for number in REQUESTS_TO_STOP:
        signal.signal(number, signal.SIG_DFL)
    for end in _ours:
        os.close(end)
    _let_requests_in()
