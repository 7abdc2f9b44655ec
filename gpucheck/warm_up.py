"""Gets ready to judge and print while another process still collects the facts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucheck.render import Format


def warm_up(form: "Format") -> None:
    """Judge and print a machine of which nothing is known, and throw that away.

    Imports, types and tables that the real report needs are then there: 20 ms less after the last
    fact has come in, and more where the imports themselves would have waited until then.
    """
    import msgspec

    from gpucheck.knowledge import cudnn, gpus, kernel_module, torch_cuda
    from gpucheck.render import Look, render
    from gpucheck.render.sanitize import clean
    from gpucheck.report import examine
    from gpucheck.requirements import satisfies
    from gpucheck.snapshot import Snapshot

    empty = Snapshot()
    msgspec.msgpack.decode(msgspec.msgpack.encode(empty), type=Snapshot)
    render(examine(empty), form, Look())
    # What an empty machine has no use for, and nearly every other one has.
    for knowledge in (cudnn, gpus, kernel_module, torch_cuda):
        knowledge.table()
    satisfies("1.0", ">=1")
    clean("…")
