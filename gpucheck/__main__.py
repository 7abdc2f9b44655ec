"""Starts the command line, and lets neither a traceback nor a broken pipe reach the user."""

import os
import signal
import sys
from typing import NoReturn

from gpucheck import console
from gpucheck.usage_error import CollectionError, NoAnswerError, UsageError

NO_ANSWER = 1
WRONG_CALL = 2
OUR_FAULT = 3
_WAY_OUT_SECONDS = 0.5
#: Options without a value that change how a report is printed, and not what is examined. A doctor
#: with these alone begins to examine before the command line is even imported, which takes as long
#: as a sixth of cuInit; any other word waits until it is understood.
PRINTING = frozenset(("--json", "--quiet", "-q", "--strict", "--verbose", "-v"))
INTERRUPTED = 130  # 128 + SIGINT, as shells say it


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and exit with its status, without atexit handlers.

    GPUCHECK_TRACEBACK=1 shows the traceback of a failure of gpucheck's own.
    """
    _open_standard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asked
            signal.signal(number, _stop)
    try:
        status = _run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Stopped as stopped:  # end as whoever sent the signal expects
        _end_examinations()
        signal.signal(stopped.number, signal.SIG_DFL)
        os.kill(os.getpid(), stopped.number)
        status = 128 + stopped.number
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends in one line
        status = _explain(error)
    _leave(status)


class Stopped(BaseException):
    """SIGTERM or SIGHUP came: as with Ctrl-C, every `with` on the way out ends what it started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _: object) -> NoReturn:
    """Take the way out by an exception; by force where that is lost in a callback or takes long.

    What dies by force leaves no child behind either: the kernel ends each with its parent.
    """

    def insist(*_: object) -> None:
        if number == signal.SIGINT:
            os._exit(INTERRUPTED)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # A second Ctrl-C is from somebody for whom the first one takes too long.
    signal.signal(number, insist if number == signal.SIGINT else signal.SIG_IGN)
    signal.signal(signal.SIGALRM, insist)
    signal.setitimer(signal.ITIMER_REAL, _WAY_OUT_SECONDS)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


def _run() -> int:
    if sys.flags.optimize >= 2:  # rules and commands are explained by their docstrings
        raise UsageError(
            "Python's -OO (PYTHONOPTIMIZE=2) removes the texts that gpucheck prints; run it "
            "without: env -u PYTHONOPTIMIZE gpucheck ..."
        )
    word, *options = sys.argv[1:] or [""]
    if word == "doctor" and PRINTING.issuperset(set(options) - {"--quick"}):
        from gpucheck import forked_collector
        from gpucheck.scope import Scope

        forked_collector.begin(Scope(quick="--quick" in options))
    import typer.main

    from gpucheck.cli import app, completion

    completion.answers()
    command = typer.main.get_command(app)
    try:
        status = command.main(prog_name="gpucheck", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except typer.Exit as leave:
        return int(leave.exit_code)
    return status if isinstance(status, int) else 0


def _end_examinations() -> None:
    """End what still examines this machine; nothing is imported where nothing does."""
    forked_collector = sys.modules.get("gpucheck.forked_collector")
    if forked_collector is not None:
        forked_collector.end_all()


def _explain(error: Exception) -> int:
    """Put *error* in one line on stderr, and return the exit status that it means."""
    if isinstance(error, BrokenPipeError):
        return 0  # whoever read our output has seen enough
    # The command line's own complaints are known by their method: their class has moved about.
    format_message = getattr(error, "format_message", None)
    if callable(format_message):
        context = getattr(error, "ctx", None)
        where = getattr(context, "command_path", "gpucheck")
        problem = str(format_message()).rstrip(".")
        console.complain(f"{where}: {problem} (see {where} --help)")
        return WRONG_CALL
    if isinstance(error, NoAnswerError):
        console.complain(f"gpucheck: {error}")
        return NO_ANSWER
    if isinstance(error, UsageError):
        console.complain(f"gpucheck: {error}")
        return WRONG_CALL
    if isinstance(error, CollectionError):
        console.complain(f"gpucheck: {error}")
        return OUR_FAULT
    if os.environ.get("GPUCHECK_TRACEBACK"):
        console.show_traceback(error)
    else:
        name = type(error).__name__
        console.complain(
            f"gpucheck: gpucheck itself failed: {name}: {error} (GPUCHECK_TRACEBACK=1 says where)"
        )
    return OUR_FAULT


def _open_standard_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed.

    Otherwise the first file that is opened gets that number, and output would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123


def _leave(status: int) -> NoReturn:
    """End at once, with what is buffered written out.

    All is said and every child is ended: the interpreter's own farewell would take 15 ms more. It
    is wanted by whoever measures this process (coverage, a profiler): GPUCHECK_ATEXIT=1.
    """
    if (why := console.flush()) is not None:
        console.complain(f"gpucheck: the output could not be written: {why}")
        status = OUR_FAULT
    _end_examinations()
    if os.environ.get("GPUCHECK_ATEXIT"):
        sys.exit(status)
    os._exit(status)


if __name__ == "__main__":
    main()
