"""What holds for every test process."""

import signal

# Where the tests run in the background of a shell, or under nohup, these are ignored, and so they
# would be in every program that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
