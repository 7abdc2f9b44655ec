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

    from gpucheck.render import Look, render
    from gpucheck.report import examine
    from gpucheck.snapshot import Snapshot

    empty = Snapshot()
    msgspec.msgpack.decode(msgspec.msgpack.encode(empty), type=Snapshot)
    render(examine(empty), form, Look())
