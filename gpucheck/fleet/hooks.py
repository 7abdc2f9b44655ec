"""Prints what lets a scheduler or a monitor call gpucheck, within that host's own limits."""

from importlib import resources

from gpucheck.usage_error import UsageError

HOOKS = {
    "slurm-healthcheck": "slurm-healthcheck.sh",
    "slurm-prolog": "slurm-prolog.sh",
    "nhc": "gpucheck.nhc",
    "npd": "npd.json",
    "textfile": "textfile.sh",
    "systemd-timer": "systemd-timer.txt",
    "kubernetes-daemonset": "kubernetes-daemonset.yaml",
}


def hook(name: str) -> str:
    """Return the text of a hook. UsageError: there is none of that name."""
    if name not in HOOKS:
        raise UsageError(f"{name}: no such hook; there are {', '.join(HOOKS)}")
    return (resources.files(__package__) / "hook_files" / HOOKS[name]).read_text(encoding="utf-8")
