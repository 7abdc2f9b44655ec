"""Starts the command line, and lets neither a traceback nor a broken pipe reach the user."""

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.forked_collector import ForkedCollector

WRONG_CALL = 2
OUR_FAULT = 3
_WAY_OUT_SECONDS = 0.5
INTERRUPTED = 130  # 128 + SIGINT, as shells say it


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and exit with its status, without atexit handlers.

    GPUCHECK_TRACEBACK=1 shows the traceback of a failure of gpucheck's own.
    """
    _open_standard_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish stands
            signal.signal(number, _stop)
    try:
        status = _run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Stopped as stopped:  # end as whoever sent the signal expects
        signal.signal(stopped.number, signal.SIG_DFL)
        os.kill(os.getpid(), stopped.number)
        status = 128 + stopped.number
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends in one line
        status = _explain(error)
    # All is said and every child is ended: the interpreter's own farewell would take 15 ms more.
    os._exit(_flush(status))


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
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, insist)
    signal.setitimer(signal.ITIMER_REAL, _WAY_OUT_SECONDS)
    raise Stopped(number)


#: Options of the doctor that leave the examination itself as it is, and are never refused.
_SAME_EXAMINATION = {"-v", "--verbose", "--json", "--strict"}


def _run() -> int:
    if sys.flags.optimize >= 2:  # rules and commands are explained by their docstrings
        raise UsageError(
            "Python's -OO (PYTHONOPTIMIZE=2) removes the texts that gpucheck prints; run it "
            "without: env -u PYTHONOPTIMIZE gpucheck ..."
        )
    arguments = sys.argv[1:]
    if arguments[:1] == ["doctor"] and _SAME_EXAMINATION.issuperset(arguments[1:]):
        # The plain doctor: CUDA is asked while the command line is still being read. cuInit takes
        # 0.5 s on a server and importing typer 20 ms, and nothing can be said before both are done.
        from gpucheck.forked_collector import ForkedCollector
        from gpucheck.scope import Scope

        with ForkedCollector(Scope()) as forked_collector:
            return _command(forked_collector)
    return _command()


def _command(forked_collector: "ForkedCollector | None" = None) -> int:
    import typer.main

    from gpucheck.cli import app

    command = typer.main.get_command(app)
    try:
        status = command.main(prog_name="gpucheck", standalone_mode=False, obj=forked_collector)
    except typer.Abort:
        return INTERRUPTED
    except typer.Exit as leave:
        return int(leave.exit_code)
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> int:
    """Put *error* in one line on stderr, and return the exit status that it means."""
    if isinstance(error, BrokenPipeError):
        return 0  # whoever read our output has seen enough
    # The command line's own complaints are known by their method: their class has moved about.
    format_message = getattr(error, "format_message", None)
    if callable(format_message):
        context = getattr(error, "ctx", None)
        where = getattr(context, "command_path", "gpucheck")
        _say(f"{where}: {str(format_message()).rstrip('.')} (see {where} --help)")
        return WRONG_CALL
    if isinstance(error, UsageError):
        _say(f"gpucheck: {error}")
        return WRONG_CALL
    if os.environ.get("GPUCHECK_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    else:
        name = type(error).__name__
        _say(f"gpucheck: gpucheck itself failed: {name}: {error} (GPUCHECK_TRACEBACK=1 says where)")
    return OUR_FAULT


def _say(message: str) -> None:
    from gpucheck.render.sanitize import clean

    encoding = getattr(sys.stderr, "encoding", None) or "ascii"
    line = clean(message).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(line, file=sys.stderr)  # noqa: T201 - the one place that complains
    except OSError:
        pass  # nobody is listening there


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


def _flush(status: int) -> int:
    """Write out what is buffered here, where its failure can still be told."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _say(f"gpucheck: the output could not be written: {error.strerror}")
            return OUR_FAULT
    return status


if __name__ == "__main__":
    main()
