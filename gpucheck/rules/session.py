"""The rule about programs that no shell of the user's started: ENV033."""

from gpucheck.conditions import uses_cuda
from gpucheck.rule import Answers, Remedy, Severity, Symptom, command, known, rule
from gpucheck.snapshot import PathEntry, Snapshot, Unknown, value
from gpucheck.startup_lines import files_of_shell, lines, missing_elements, place, read_by

_WHO = {
    "sudo": "sudo gives its own PATH",
    "cron": "cron reads no start-up file",
    "systemd": "a systemd unit reads no start-up file",
}


@rule(
    "ENV033",
    Severity.INFO,
    "sudo, cron or systemd started this without the user's exports",
    when=uses_cuda,
)
def exports_are_left_out(machine: Snapshot) -> Answers:
    """sudo, cron and systemd start programs with a PATH of their own and no start-up file.

    nvcc and CUDA_HOME are then missing although they are there in your terminal: sudo sets PATH to
    its secure_path (sudoers(5)), cron to /usr/bin:/bin (crontab(5)), systemd to its own default
    (systemd.exec(5)). It is a warning where a toolkit is installed and no nvcc is on PATH.
    """
    session = yield from known(
        machine.environment.session, absent="started from a shell of the user's own"
    )
    if session is None:
        return
    entries = yield from known(machine.environment.path)
    line = _left_out(machine, session, entries)
    has_toolkit = any(isinstance(t.nvcc, str) for t in value(machine.toolkits.installed) or ())
    has_nvcc = any(entry.has_nvcc is True for entry in entries or ())
    if line is None and (has_nvcc or not has_toolkit):
        return
    lacks = "no nvcc is on PATH" if line is None else f"PATH lacks what {line} puts there"
    yield Symptom(
        saw=f"{_WHO[session]}: {lacks}",
        remedy=_REMEDIES[session],
        subject="PATH",
        severity=None if has_nvcc or not has_toolkit else Severity.WARNING,
    )


def _left_out(machine: Snapshot, session: str, entries: tuple[PathEntry, ...] | None) -> str | None:
    """Return the line of the user's own that puts a directory of CUDA's on PATH, unlike here."""
    if session == "sudo":
        files = read_by(machine, value(machine.startup_files.invoking_user) or ())
    else:
        files = files_of_shell(machine)
    mine = [(file, setting) for file, setting in lines(files) if setting.variable == "PATH"]
    found = missing_elements(entries, mine)
    return None if found is None or isinstance(found, Unknown) else place(found.file, found.setting)


_REMEDIES = {
    "sudo": Remedy('Run it without sudo, or let sudo keep PATH: `sudo env "PATH=$PATH" …`'),
    "cron": Remedy(
        "Let the job's line start a login shell: `bash -lc '…'`, or set PATH at the top of the "
        "crontab",
        steps=(command("crontab -e", lasts="permanent"),),
    ),
    "systemd": Remedy(
        "Name a file with the exports in the unit by EnvironmentFile=",
        steps=(command("gpucheck env --shell systemd"),),
    ),
}
