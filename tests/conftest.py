"""What holds for every test process."""

import signal

from matrix_coverage import pytest_sessionfinish, pytest_testnodedown

__all__ = ["pytest_sessionfinish", "pytest_testnodedown"]

# Where the tests run in the background of a shell, or under nohup, these are ignored, and so they
# would be in every program that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
