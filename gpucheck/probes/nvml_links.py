"""Makes facts of a GPU's NVLinks and of the ways between GPUs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from gpucheck.payload import nvml_queries as queries
from gpucheck.probes.messages import NvmlAnswer
from gpucheck.probes.nvml_child import P2P_NVLINK, P2P_READ, P2P_WRITE
from gpucheck.probes.nvml_readings import Answers, integer
from gpucheck.probes.nvml_session import NvmlSession, why
from gpucheck.snapshot import NOT_SUPPORTED, Gpu, GpuPair, NotSupported, NvLink, Reading, Unknown

P2P_STATUS = ("OK", "CNS", "GNS", "TNS", "DR", "NS", "U")  # in nvidia-smi's words
LEVELS = {0: "PSB", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
LINK_ENDS: dict[int, Literal["gpu", "cpu", "switch"]] = {0: "gpu", 1: "cpu", 2: "switch"}
T = TypeVar("T")


def nvlinks(answers: Answers) -> Reading[tuple[NvLink, ...]]:
    """Return the links of one GPU, with their errors where those were asked for."""
    errors = answers.get("nvlink_errors", lambda value: {one[0]: one[1:] for one in value})

    def links(value: list[list[Any]]) -> tuple[NvLink, ...]:
        return tuple(_nvlink(number, facts, errors) for number, facts in enumerate(value))

    return answers.get("nvlinks", links)


def _nvlink(number: int, facts: list[Any], errors: Reading[dict[int, list[Any]]]) -> NvLink:
    state, version, end, remote = facts
    is_up = _code(state, "nvmlDeviceGetNvLinkState", bool)
    counts: list[Reading[int]]
    if isinstance(errors, Unknown | NotSupported):
        counts = [errors] * 4
    elif number in errors:
        counts = [_code(one, "nvmlDeviceGetNvLinkErrorCounter", integer) for one in errors[number]]
    else:
        counts = [Unknown("the link is down")] * 4
    remote_kind: Reading[Literal["gpu", "switch", "cpu", "other"]]
    remote_bus_id: Reading[str]
    if is_up is not True:
        remote_kind = remote_bus_id = Unknown("the link is down")
    else:
        remote_kind = _code(
            end, "nvmlDeviceGetNvLinkRemoteDeviceType", lambda kind: LINK_ENDS.get(kind, "other")
        )
        remote_bus_id = (
            NOT_SUPPORTED  # not asked for: every link of this GPU ends at a switch
            if remote is None
            else _code(remote, "nvmlDeviceGetNvLinkRemotePciInfo_v2", queries.bus_id)
        )
    return NvLink(
        index=number,
        is_up=is_up,
        version=_code(version, "nvmlDeviceGetNvLinkVersion", integer),
        remote_kind=remote_kind,
        remote_bus_id=remote_bus_id,
        replay_errors=counts[0],
        recovery_errors=counts[1],
        crc_flit_errors=counts[2],
        crc_data_errors=counts[3],
    )


def _code(value: Any, symbol: str, convert: Callable[[Any], T]) -> Reading[T]:  # noqa: ANN401
    """Return *value*, or what NVML's error code in its place means."""
    if not isinstance(value, list):
        return convert(value)
    [code] = value
    if code == queries.NOT_SUPPORTED:
        return NOT_SUPPORTED
    if code == queries.FUNCTION_NOT_FOUND:
        return Unknown(f"driver too old: {symbol} missing")
    return Unknown(f"{symbol}: error {code}")


def with_link_ends(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Say "gpu" of links that end at a GPU here, where the driver does not tell the kind."""
    here = {gpu.bus_id for gpu in gpus if isinstance(gpu.bus_id, str)}

    def with_kind(link: NvLink) -> NvLink:
        if isinstance(link.remote_kind, Unknown) and link.remote_bus_id in here:
            return msgspec.structs.replace(link, remote_kind="gpu")
        return link

    return tuple(
        msgspec.structs.replace(gpu, nvlinks=tuple(map(with_kind, gpu.nvlinks)))
        if isinstance(gpu.nvlinks, tuple)
        else gpu
        for gpu in gpus
    )


def pairs(session: NvmlSession, gpus: Sequence[Gpu], root: Path) -> tuple[GpuPair, ...]:
    """Return what is known of the way between every two GPUs."""
    found = []
    for a in gpus:
        for b in gpus[a.index + 1 :]:
            answered = session.pairs.get((a.index, b.index), {})
            unknown = _pair_error(a, b) or Unknown(session.pairs_error or "NVML did not answer")
            statuses: list[Reading[str]] = []
            for capability in (P2P_READ, P2P_WRITE, P2P_NVLINK):
                if capability in session.capabilities:
                    answer = answered.get(f"p2p {capability}")
                    statuses.append(_pair_fact(answer, "nvmlDeviceGetP2PStatus", _status, unknown))
                else:
                    statuses.append(Unknown("left out by --quick", "by design"))
            found.append(
                GpuPair(
                    a=a.index,
                    b=b.index,
                    topology=_topology(a, b, answered.get("level"), unknown, root),
                    p2p_read=statuses[0],
                    p2p_write=statuses[1],
                    p2p_nvlink=statuses[2],
                )
            )
    return tuple(found)


def _pair_error(a: Gpu, b: Gpu) -> Unknown | None:
    for gpu in (a, b):
        if gpu.state != "ok":
            return Unknown(f"{gpu.subject}: {gpu.error}")
    return None


def _pair_fact(
    answer: NvmlAnswer | None, symbol: str, convert: Callable[[Any], str], unknown: Unknown
) -> Reading[str]:
    if answer is None:
        return unknown
    if answer.outcome == "value":
        try:
            return convert(answer.value)
        except TypeError:
            return Unknown(f"{symbol}: unexpected value {str(answer.value)[:80]}")
    return NOT_SUPPORTED if answer.outcome == "not supported" else Unknown(why(answer, symbol))


def _status(value: Any) -> str:  # noqa: ANN401
    return P2P_STATUS[value] if isinstance(value, int) and 0 <= value < 6 else "U"


def _topology(
    a: Gpu, b: Gpu, level: NvmlAnswer | None, unknown: Unknown, root: Path
) -> Reading[str]:
    """Say how two GPUs are joined: by NVLinks first, else by the way through PCIe.

    NVML's own answer takes 25 ms a pair, so only --deep asks for it; the kernel's tree of
    devices says the same.
    """
    links = _links_between(a, b)
    if links:
        return f"NV{links}"
    if level is not None:
        symbol = "nvmlDeviceGetTopologyCommonAncestor"
        return _pair_fact(level, symbol, lambda value: LEVELS.get(value, "U"), unknown)
    if isinstance(a.bus_id, str) and isinstance(b.bus_id, str):
        return pcie_level(a.bus_id, b.bus_id, root) or unknown
    return unknown


def _links_between(a: Gpu, b: Gpu) -> int:
    """Return the NVLinks that join two GPUs, directly or through switches."""
    if not isinstance(a.nvlinks, tuple) or not isinstance(b.nvlinks, tuple):
        return 0
    direct = sum(
        link.is_up is True and isinstance(b.bus_id, str) and link.remote_bus_id == b.bus_id
        for link in a.nvlinks
    )
    switched = [
        sum(link.is_up is True and link.remote_kind == "switch" for link in gpu.nvlinks)
        for gpu in (a, b)
        if isinstance(gpu.nvlinks, tuple)
    ]
    return direct or min(switched)


def pcie_level(a: str, b: str, root: Path = Path("/")) -> str | None:
    """Return nvidia-smi's word for the way between two PCI devices; None: the kernel hides it.

    "PIX" one bridge at most, "PXB" several but no host bridge, "PHB" one host bridge, "NODE"
    several host bridges of one NUMA node, "SYS" across NUMA nodes.
    """
    devices = root / "sys/bus/pci/devices"
    try:
        # "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/…/0000:03:00.0"
        ways = [os.path.realpath(devices / one, strict=True).split("/") for one in (a, b)]
        nodes = [(devices / one / "numa_node").read_text().strip() for one in (a, b)]
    except OSError:
        return None
    ways = [
        [part for part in way[_root_position(way) :] if part]  # from the host bridge down
        for way in ways
    ]
    shared = 0
    while all(len(way) > shared for way in ways) and ways[0][shared] == ways[1][shared]:
        shared += 1
    if shared == 0:
        return "NODE" if nodes[0] == nodes[1] else "SYS"
    if shared == 1:
        return "PHB"
    # each side: its own bridges below the last one that they share, and the GPU itself
    return "PIX" if max(len(way) - shared for way in ways) <= 2 else "PXB"


def _root_position(way: list[str]) -> int:
    return next((n for n, part in enumerate(way) if part.startswith("pci")), len(way))
