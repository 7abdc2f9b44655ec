"""Asks each node by OpenSSH, with this user's own configuration and keys."""

import random
import re
import shlex

from gpucheck.fleet.engines.interface import Task
from gpucheck.fleet.engines.processes import Ended, ProcessEngine
from gpucheck.usage_error import UsageError

CONNECT_SECONDS = 10
MOST_TRIES = 5
_SSH_FAILED = 255
#: A server, most often a jump host, that has as many logins under way as its MaxStartups allows
#: closes the next ones at random before they begin (sshd_config(5)): nothing has run yet.
_TURNED_AWAY = re.compile(
    r"kex_exchange_identification: (?!.*timed out)|Exceeded MaxStartups"
    r"|Connection (?:reset|closed) by \S+ port \d+"
)


class Ssh(ProcessEngine):
    """One `ssh` for each node."""

    def nodes(self) -> tuple[str, ...]:
        """OpenSSH knows no list of nodes."""
        raise UsageError("--engine ssh needs --nodes")

    def command(self, task: Task, timeout_seconds: float) -> tuple[str, ...]:
        """Ask nothing, share no connection, and give the remote shell one quoted line."""
        del timeout_seconds
        if task.node.startswith("-"):
            raise UsageError(f"{task.node!r} is no name of a node")
        options = (
            "BatchMode=yes",
            f"ConnectTimeout={CONNECT_SECONDS}",
            "ControlMaster=no",
            "ControlPath=none",
            "LogLevel=ERROR",
        )
        return (
            *("ssh", "-T"),
            *(word for option in options for word in ("-o", option)),
            *(task.node, shlex.join(task.words)),
        )

    def pause_before_retry(self, ended: Ended, tries: int) -> float | None:
        """Try again, later each time, what a busy server closed before it began."""
        turned_away = ended.status == _SSH_FAILED and _TURNED_AWAY.search(ended.errors)
        if ended.failure or not turned_away or ended.output or tries >= MOST_TRIES:
            return None
        return random.uniform(0.5, 1.0) * float(1 << tries - 1)  # noqa: S311 - spreads retries
