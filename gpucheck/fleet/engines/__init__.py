"""What starts a command on each of many nodes: one interface, and the engines behind it."""

from collections.abc import Callable

from gpucheck.fleet.engines.interface import Engine, Settings

ENGINES = ("local", "ssh", "slurm", "mpi", "ray", "kubernetes")


def engine(name: str, settings: Settings) -> Engine:
    """Return the engine called *name*. UsageError: what it needs is not here."""
    return _MADE[name](settings)


def _local(_: Settings) -> Engine:
    from gpucheck.fleet.engines.processes import Local

    return Local()


def _ssh(_: Settings) -> Engine:
    from gpucheck.fleet.engines.ssh import Ssh

    return Ssh()


def _slurm(settings: Settings) -> Engine:
    from gpucheck.fleet.engines.slurm import Slurm

    return Slurm(gpus=settings.gpus)


def _mpi(_: Settings) -> Engine:
    from gpucheck.fleet.engines.mpi import OpenMpi

    return OpenMpi()


def _ray(settings: Settings) -> Engine:
    from gpucheck.fleet.engines.ray_tasks import Ray

    return Ray(address=settings.ray_address, python=settings.ray_python, gpus=settings.gpus)


def _kubernetes(settings: Settings) -> Engine:
    from gpucheck.fleet.engines.kubernetes_jobs import Kubernetes

    return Kubernetes(settings)


_MADE: dict[str, Callable[[Settings], Engine]] = dict(
    zip(ENGINES, (_local, _ssh, _slurm, _mpi, _ray, _kubernetes), strict=True)
)
