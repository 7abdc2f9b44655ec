"""Asks NVML about every GPU, through children that a dead GPU may take down with it.

One child asks about all GPUs and says each answer as it comes. When it falls silent or dies, the
GPU whose query was under way is recorded, and a new child goes on with the others. At first every
GPU has its thread, because they do not wait for each other there; where it is not plain whose
query did the harm, the next child asks one GPU after the other.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from gpucheck.probes import nvml_child
from gpucheck.probes.child import Child
from gpucheck.probes.nvml_child import MOST_GPUS
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    Fabric,
    Gpu,
    GpuPair,
    GpuProcess,
    GpuSample,
    Maybe,
    Memory,
    NotSupported,
    NvLink,
    Nvml,
    NvmlError,
    Reading,
    RemapHistogram,
    RemappedRows,
    RetiredPages,
    ThermalThresholds,
    Unknown,
)

QUERY_SECONDS = 5.0  # a query that takes longer does not come back
WATCH_SECONDS = 1.0  # between the two readings of --deep
CORRUPTED_INFOROM = 14  # NVML_ERROR_CORRUPTED_INFOROM
P2P_READ, P2P_WRITE, P2P_NVLINK = 0, 1, 2
P2P_STATUS = ("OK", "CNS", "GNS", "TNS", "DR", "NS", "U")  # in nvidia-smi's words
LEVELS = {0: "PSB", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
LINK_ENDS: dict[int, Literal["gpu", "cpu", "switch"]] = {0: "gpu", 1: "cpu", 2: "switch"}
LEFT_OUT = {
    "inforom_check": Unknown("read with --deep only", "by design"),
    "nvlink_errors": Unknown("read with --deep or --watch only", "by design"),
}

State = Literal["ok", "lost", "hung", "crashed", "failed"]
T = TypeVar("T")


def probe(
    *,
    deep: bool = False,
    quick: bool = False,
    deadline_seconds: float,
    watch_seconds: float = 0.0,
    before_later_sample: Callable[[], bool] | None = None,
    environment: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Nvml:
    """Read all that NVML tells, twice with *deep* or *watch_seconds*.

    All of it ends within *deadline_seconds*, and half a second for the second reading where the
    time was over before. Between the readings *before_second* is called, if given: it may wait,
    and returns whether the GPUs are under load now; then *watch_seconds* pass (1 s where it is 0).
    *quick* leaves out whether pairs of GPUs would use NVLink. *environment* is the children's;
    None: this process's own.
    """
    capabilities = (P2P_READ, P2P_WRITE) if quick else (P2P_READ, P2P_WRITE, P2P_NVLINK)
    ends_at = time.monotonic() + deadline_seconds
    watch = deep or watch_seconds > 0
    talk = NvmlSession(
        deep=deep,
        watch=watch,
        later_sample=False,
        capabilities=capabilities,
        environment=environment,
    )
    talk.run(deadline_seconds)
    since = time.monotonic()
    nvml = _nvml(talk, root)
    if watch and not isinstance(nvml.gpus, Unknown) and nvml.gpus:
        under_load = before_later_sample() if before_later_sample is not None else False
        left = max(0.0, ends_at - time.monotonic())
        time.sleep(min(left, watch_seconds if watch_seconds > 0 else WATCH_SECONDS))
        nvml = later_sample(
            nvml,
            since=since,
            under_load=under_load,
            deadline_seconds=max(0.5, ends_at - time.monotonic()),
            environment=environment,
        )
    return nvml


def later_sample(
    nvml: Nvml,
    *,
    since: float,
    under_load: bool,
    deadline_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Nvml:
    """Return *nvml* with the counters of every sound GPU read a second time.

    *since* is `time.monotonic()` at the end of the first reading. A GPU that is lost or hangs only
    now keeps what it said before, and its state tells.
    """
    if isinstance(nvml.gpus, Unknown):
        return nvml
    sound = [gpu.index for gpu in nvml.gpus if gpu.state == "ok"]
    if not sound:
        return nvml
    talk = NvmlSession(
        deep=False,
        watch=True,
        later_sample=True,
        capabilities=(),
        environment=environment,
        only=sound,
    )
    talk.run(deadline_seconds)
    after_seconds = time.monotonic() - since
    gpus = tuple(
        _with_sample(gpu, talk, after_seconds, under_load=under_load) if gpu.state == "ok" else gpu
        for gpu in nvml.gpus
    )
    return msgspec.structs.replace(nvml, gpus=gpus)


# ------------------------------------------------------------------------ talking to the child


@dataclass
class NvmlSession:
    """All that the children said, and what became of them."""

    deep: bool
    watch: bool  # a second reading follows, or this is it
    later_sample: bool
    capabilities: Sequence[int]
    environment: Mapping[str, str] | None
    only: Sequence[int] | None = None
    system: dict[str, tuple[str, Any]] = field(default_factory=dict)
    gpus: dict[int, dict[str, tuple[str, Any]]] = field(default_factory=dict)
    pairs: dict[tuple[int, int], dict[str, tuple[str, Any]]] = field(default_factory=dict)
    troubles: dict[int, tuple[State, str]] = field(default_factory=dict)
    error: NvmlError | None = None  # NVML as a whole failed
    pairs_trouble: str | None = None

    def __post_init__(self) -> None:
        self._plan = nvml_child.plan(
            deep=self.deep, watch=self.watch, later_sample=self.later_sample
        )

    def run(self, deadline_seconds: float) -> None:
        """Ask until every GPU has answered or is known to be in trouble, or the time is over."""
        ends_at = time.monotonic() + deadline_seconds
        only = None if self.only is None else list(self.only)
        parallel = True
        silence: ChildOutcome | None = None
        while True:
            left = ends_at - time.monotonic()
            if left <= 0.05 or (silence is not None and silence.is_out_of_time):
                self._give_up(f"NVML's {deadline_seconds:g} s were over")
                return
            known = self.system
            silence = self._ask(only, parallel=parallel, seconds=left)
            if "count" not in self.system or self.error is not None:
                if "count" in known:  # it worked before: what is known stays
                    message = self._message(silence)
                    self.system, self.error = known, None
                    self._give_up(message)
                elif self.error is None:
                    call = self._system_call()
                    self.error = NvmlError(call=call, message=self._message(silence))
                return
            if silence is None:
                return
            if silence.is_out_of_time:
                continue
            unfinished = self._unfinished()
            if not unfinished:
                self.pairs_trouble = silence.of("nvmlDeviceGetP2PStatus")
                return
            if len(unfinished) == 1 or not parallel:
                self._blame(unfinished.pop(0), silence)
            parallel = False
            only = unfinished
            if not only and (self.later_sample or len(self._sound()) < 2):
                return

    def _ask(
        self, only: list[int] | None, *, parallel: bool, seconds: float
    ) -> "ChildOutcome | None":
        """Run one child; return how it fell silent, or None where it said all."""
        asked = 1 if only is None or parallel else len(only)
        # so short that each of them may hang and the next still has its turn
        query_seconds = min(QUERY_SECONDS, max(0.3, 0.9 * seconds / (asked + 1)))
        for index in only or ():
            self.gpus.pop(index, None)
        options = {
            "deep": self.deep,
            "watch": self.watch,
            "later_sample": self.later_sample,
            "parallel": parallel,
            "only": only,
            "also": [] if self.later_sample or only is None else self._sound(),
            "capabilities": list(self.capabilities),
        }
        self.system = {}
        with Child(
            _command(options), deadline_seconds=seconds, environment=self.environment
        ) as child:
            last = time.monotonic()
            # nvmlInit attaches to GPUs that nobody holds open: some seconds each
            for stall_seconds in (max(query_seconds, seconds / 2), query_seconds):
                for line in child.lines(stall_seconds=stall_seconds):
                    last = time.monotonic()
                    if self._take(line):
                        return None
                    if "count" in self.system and stall_seconds != query_seconds:
                        break
                else:
                    break
            waited = time.monotonic() - last
            ended = child.end()
        if ended.late_after_seconds is None:
            return ChildOutcome(ended.signal_name, ended.exit_code, ended.error)
        stalled = waited > 0.9 * stall_seconds
        return ChildOutcome(seconds=stall_seconds, is_out_of_time=not stalled)

    def _take(self, line: bytes) -> bool:
        """Take in one line; True after the last one. What makes no sense is passed over."""
        try:
            gpu, key, kind, value = _LINE.decode(line)
        except (msgspec.DecodeError, ValueError):
            return False
        if gpu == nvml_child.NO_GPU:
            if key == "end":
                return True
            self.system[key] = kind, value
            if key in ("open", "init", "count") and kind != "is":
                self.error = _error(key, kind, value)
            elif key == "count" and not (isinstance(value, int) and value <= MOST_GPUS):
                self.error = _error(key, "error", [None, f"it counts {value} GPUs"])
        elif not 0 <= gpu < MOST_GPUS:
            pass
        elif key == "pair":
            if isinstance(value, list) and len(value) == 3:
                other, name, answer = value
                self.pairs.setdefault((gpu, other), {})[str(name)] = kind, answer
        else:
            self.gpus.setdefault(gpu, {})[key] = kind, value
            if kind == "lost":
                self.troubles[gpu] = "lost", f"GPU_IS_LOST from {value}"
            elif key == "handle" and kind != "is":
                why = _why(kind, value, "nvmlDeviceGetHandleByIndex")
                self.troubles[gpu] = "failed", why
        return False

    def _count(self) -> int:
        kind, value = self.system.get("count", ("", 0))
        return value if kind == "is" and isinstance(value, int) and value <= MOST_GPUS else 0

    def _unfinished(self) -> list[int]:
        asked = range(self._count()) if self.only is None else self.only
        last = self._plan[-1][0]
        return [n for n in asked if n not in self.troubles and last not in self.gpus.get(n, {})]

    def _sound(self) -> list[int]:
        last = self._plan[-1][0]
        return [n for n in sorted(self.gpus) if n not in self.troubles and last in self.gpus[n]]

    def _blame(self, index: int, silence: "ChildOutcome") -> None:
        said = self.gpus.setdefault(index, {})
        symbol = next(query[1] for query in self._plan if query[0] not in said)
        self.troubles[index] = silence.state, silence.of(symbol)

    def _system_call(self) -> str:
        """Return the call that a child was at that could not yet say how many GPUs there are."""
        return nvml_child.SYSTEM_SYMBOLS[
            next(key for key in nvml_child.SYSTEM if key not in self.system)
        ]

    def _message(self, silence: "ChildOutcome | None") -> str:
        if self.error is not None:
            return f"{self.error.call}: {self.error.message}"
        return "NVML did not answer" if silence is None else silence.of(self._system_call())

    def _give_up(self, why: str) -> None:
        """Record that nothing more will come of the GPUs that have not said all."""
        for index in self._unfinished():
            said = self.gpus.get(index)
            if said:
                symbol = next(query[1] for query in self._plan if query[0] not in said)
                self.troubles[index] = "hung", f"{symbol} was under way when {why}"
            else:
                self.troubles[index] = "failed", f"not asked: {why}"


@dataclass(frozen=True)
class ChildOutcome:
    """How a child ended that had not said all."""

    signal_name: str | None = None
    exit_code: int | None = None
    error: str | None = None
    seconds: float | None = None  # it was still there, and silent for so long
    is_out_of_time: bool = False  # it was not silent for long: all of our time was over

    @property
    def state(self) -> State:
        return "hung" if self.seconds is not None else "crashed"

    def of(self, symbol: str) -> str:
        """Say what became of the call *symbol*."""
        if self.seconds is not None:
            return f"{symbol} did not answer in {self.seconds:.2g} s"
        if self.signal_name is not None:
            return f"NVML crashed with {self.signal_name} in {symbol}"
        if self.error is not None:
            return f"{symbol}: {self.error}"
        return f"NVML ended the process with status {self.exit_code} in {symbol}"


_LINE = msgspec.json.Decoder(tuple[int, str, str, Any])


def _command(options: dict[str, Any]) -> list[str]:
    """Return the command that runs the child.

    Its folder stands last on its path and it is imported from there: so it has its bytecode, and
    no package is imported around it. `-I -S`: nothing of the user's own comes in, and no .pth.
    """
    path = [*(entry for entry in sys.path if entry), str(Path(__file__).parent)]
    start = f"import sys; sys.path[:] = {path!r}; import nvml_child; nvml_child.main({options!r})"
    return [sys.executable, "-I", "-S", "-c", start]


def _error(key: str, kind: str, value: Any) -> NvmlError:  # noqa: ANN401 - as the child said it
    call = nvml_child.SYSTEM_SYMBOLS.get(key, key)
    if kind == "error" and isinstance(value, list) and len(value) == 2:
        code, text = value
        return NvmlError(
            call="open" if key == "open" else call,
            code=code if isinstance(code, int) else None,
            message=str(text),
        )
    code = {
        "missing": nvml_child.FUNCTION_NOT_FOUND,
        "not supported": nvml_child.NOT_SUPPORTED,
        "lost": nvml_child.GPU_IS_LOST,
    }.get(kind)
    return NvmlError(call=call, code=code, message=_why(kind, value, call))


# ------------------------------------------------------------------------- from answers to facts


def _why(kind: str, value: Any, symbol: str) -> str:  # noqa: ANN401
    if kind == "missing":
        return f"driver too old: {value} missing"
    if kind == "lost":
        return "the GPU is lost"
    if kind == "error" and isinstance(value, list) and len(value) == 2:
        return f"{symbol}: {value[1]}"
    return f"{symbol}: {kind}"


class _Answers:
    """What one GPU answered, as readings."""

    def __init__(
        self,
        said: Mapping[str, tuple[str, Any]],
        plan: "Iterable[nvml_child.Query]",
        fault: str | None,
    ) -> None:
        self._said = said
        self._symbols = {key: symbol for key, symbol, _ in plan}
        self._trouble = Unknown(fault or "NVML did not answer")

    def get(self, key: str, convert: Callable[[Any], T]) -> Reading[T]:
        """Return the answer to *key*, put through *convert*."""
        if key not in self._said:
            return self._trouble if key in self._symbols else LEFT_OUT[key]
        kind, value = self._said[key]
        if kind == "is":
            return self._converted(key, value, convert)
        if kind == "not supported":
            return NOT_SUPPORTED
        if kind == "lost":
            return self._trouble
        return Unknown(_why(kind, value, self._symbols.get(key, key)))

    def field(self, number: int, fields: Sequence[int], convert: Callable[[Any], T]) -> Reading[T]:
        """Return the field *number* out of the one call that asked for all *fields*."""

        def pick(value: list[list[Any]]) -> tuple[int, Any]:
            code, answer = value[fields.index(number)]
            return int(code), answer

        found = self.get("fields", pick)
        if isinstance(found, Unknown | NotSupported):
            return found
        code, value = found
        if code == nvml_child.NOT_SUPPORTED:
            return NOT_SUPPORTED
        if code == nvml_child.INVALID_ARGUMENT:
            return Unknown(f"driver too old: field {number} missing")
        if code:
            return Unknown(f"nvmlDeviceGetFieldValues: field {number}: error {code}")
        return self._converted("fields", value, convert)

    def error_code(self, key: str) -> int | None:
        """Return NVML's code where *key* failed with one."""
        kind, value = self._said.get(key, ("", None))
        return value[0] if kind == "error" and isinstance(value, list) and value else None

    def _converted(
        self,
        key: str,
        value: Any,  # noqa: ANN401
        convert: Callable[[Any], T],
    ) -> Reading[T]:
        try:
            return convert(value)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
            return Unknown(f"{self._symbols.get(key, key)}: {str(value)[:80]} makes no sense")


def _integer(value: float | None) -> int:
    """Return a number that a snapshot can hold: JSON here ends at 64 bits."""
    if isinstance(value, int | float) and -(1 << 63) <= value < 1 << 64:
        return int(value)
    raise TypeError(value)


def _watts(milliwatts: int) -> float:
    return round(_integer(milliwatts) / 1000, 3)


def _text(value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value.strip()


def bus_id(text: str) -> str:
    """Write NVML's bus id as Linux does: "00000000:0A:00.0" → "0000:0a:00.0"."""
    domain, bus, device = text.lower().split(":")
    return f"{int(domain, 16):04x}:{bus}:{device}"


def ranges(words: Sequence[int]) -> str:
    """Write a mask, 64 bits to a number, as Linux writes lists of CPUs: "0-31,64-95"."""
    found: list[list[int]] = []
    for position, word in enumerate(words):
        for bit in range(word.bit_length()):
            if word >> bit & 1:
                number = 64 * position + bit
                if found and found[-1][1] == number - 1:
                    found[-1][1] = number
                else:
                    found.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)


def _nvml(talk: NvmlSession, root: Path) -> Nvml:
    """Put together all that was said."""

    def system(key: str, convert: Callable[[Any], T]) -> T | Unknown:
        kind, value = talk.system.get(key, ("", None))
        if kind == "is":
            try:
                return convert(value)
            except (TypeError, ValueError):
                return Unknown(f"{nvml_child.SYSTEM_SYMBOLS[key]}: {value!r} makes no sense")
        symbol = nvml_child.SYSTEM_SYMBOLS[key]
        if kind:
            return Unknown(_why(kind, value, symbol))
        return Unknown(talk.error.message if talk.error is not None else "NVML did not answer")

    library = talk.system.get("open", ("", None))
    facts: dict[str, Any] = {
        "library": library[1] or Unknown("cannot tell which") if library[0] == "is" else None,
        "error": talk.error,
        "nvml_version": system("nvml", _text),
        "driver_version": system("driver", _text),
        "cuda_version": system("cuda", lambda n: f"{n // 1000}.{n % 1000 // 10}"),
        "count": system("count", int),
    }
    if talk.error is not None:
        call = talk.error.call if talk.error.call != "open" else "NVML does not load"
        why = Unknown(f"{call}: {talk.error.message}")
        facts |= {"gpus": why, "pairs": why}
        if talk.error.call == "open" and not library[0]:
            facts["library"] = why
        return Nvml(**facts)
    gpus = _gpus(talk, root)
    facts |= {"gpus": gpus, "pairs": _pairs(talk, gpus, root)}
    return Nvml(**facts)


def _gpus(talk: NvmlSession, root: Path) -> tuple[Gpu, ...]:
    count = max([talk._count(), *(n + 1 for n in talk.troubles)])
    gpus = []
    for index in range(count):
        state: State
        fault: str | None
        state, fault = talk.troubles.get(index, ("ok", None))
        said = talk.gpus.get(index)
        if said is None and fault is None:
            state, fault = "failed", "NVML did not answer"
        answers = _Answers(said or {}, talk._plan, fault)
        gpus.append(_gpu(index, state, fault, answers, root))
    return _with_link_ends(_with_last_bus_id(gpus, root))


def _gpu(index: int, state: State, fault: str | None, answers: _Answers, root: Path) -> Gpu:
    get = answers.get

    def number(which: int, convert: Callable[[Any], T]) -> Reading[T]:
        return answers.field(which, nvml_child.FIELDS, convert)

    inforom = get("inforom_check", lambda _: True)
    if answers.error_code("inforom_check") == CORRUPTED_INFOROM:
        inforom = False
    thresholds = ThermalThresholds(
        shutdown_celsius=get("shutdown", _integer),
        slowdown_celsius=get("slowdown", _integer),
        memory_max_celsius=get("memory_max", _integer),
        gpu_max_celsius=get("gpu_max", _integer),
    )
    return Gpu(
        index=index,
        state=state,
        error=fault,
        name=get("name", _text),
        uuid=get("uuid", _text),
        serial=get("serial", _text),
        bus_id=get("pci", lambda value: bus_id(value[0])),
        pci_device_id=get("pci", lambda value: f"{value[1] >> 16:#06x}"),
        minor_number=get("minor_number", _integer),
        compute_capability=get("compute_capability", lambda v: f"{v[0]:d}.{v[1]:d}"),
        vbios_version=get("vbios", _text),
        inforom_version=get("inforom", _text),
        inforom_is_valid=inforom,
        gsp_firmware_version=get("gsp", _text),
        memory=get("memory", _memory),
        bar1_total_bytes=get("bar1", _integer),
        processes=_processes(answers, root),
        temperature_celsius=get("temperature", _integer),
        memory_temperature_celsius=number(nvml_child.MEMORY_TEMPERATURE, _integer),
        temperature_margin_celsius=get("margin", lambda v: _integer(v[0])),
        slowdown_margin_celsius=number(nvml_child.SLOWDOWN_MARGIN, _integer),
        thresholds=_one_reading(thresholds),
        power_watts=get("power", _watts),
        power_limit_enforced_watts=get("power_limit", _watts),
        power_limit_default_watts=get("power_default", _watts),
        power_limit_minimum_watts=get("power_range", lambda v: _watts(v[0])),
        power_limit_maximum_watts=get("power_range", lambda v: _watts(v[1])),
        clock_sm_mhz=get("clock_sm", _integer),
        clock_memory_mhz=get("clock_memory", _integer),
        clock_sm_max_mhz=get("clock_sm_max", _integer),
        clock_memory_max_mhz=get("clock_memory_max", _integer),
        application_clock_sm_mhz=get("application_clock", _integer),
        application_clock_sm_default_mhz=get("application_clock_default", _integer),
        performance_state=get("performance_state", _integer),
        utilization_percent=get("utilization", _integer),
        clocks_event_reasons=get("event_reasons", _integer),
        software_power_cap_ns=number(nvml_child.SOFTWARE_POWER_CAP, _integer),
        hardware_thermal_slowdown_ns=number(nvml_child.HARDWARE_THERMAL, _integer),
        power_brake_slowdown_ns=number(nvml_child.POWER_BRAKE, _integer),
        software_thermal_slowdown_ns=number(nvml_child.SOFTWARE_THERMAL, _integer),
        ecc_is_on=get("ecc_mode", lambda v: bool(v[0])),
        ecc_is_on_after_reboot=get("ecc_mode", lambda v: bool(v[1])),
        ecc_default=get("ecc_default", lambda v: bool(v[0])),
        corrected_ecc_volatile=get("corrected_volatile", _integer),
        uncorrected_ecc_volatile=get("uncorrected_volatile", _integer),
        corrected_ecc_aggregate=get("corrected_aggregate", _integer),
        uncorrected_ecc_aggregate=get("uncorrected_aggregate", _integer),
        sram_threshold_exceeded=get("sram", lambda v: bool(v[3])),
        sram_corrected_volatile=get("sram", lambda v: _integer(v[0])),
        sram_uncorrected_volatile=get("sram", lambda v: _integer(v[1])),
        sram_uncorrected_aggregate=get("sram", lambda v: _integer(v[2])),
        remapped_rows=get("remapped_rows", _remapped_rows),
        remap_histogram=get("remap_histogram", _histogram),
        retired_pages=get("retired_pages", _retired_pages),
        recovery_action=number(nvml_child.RECOVERY_ACTION, _integer),
        has_unrepairable_memory=get("unrepairable", lambda v: bool(v[0])),
        repair_is_pending=get("repair", any),
        pcie_generation=get("pcie_generation", _integer),
        pcie_generation_gpu_max=get("pcie_generation_gpu_max", _integer),
        pcie_generation_max=get("pcie_generation_max", _integer),
        pcie_width=get("pcie_width", _integer),
        pcie_width_max=get("pcie_width_max", _integer),
        pcie_replays=get("pcie_replays", _integer),
        nvlinks=_nvlinks(answers),
        fabric=get("fabric", _fabric),
        c2c_is_on=get("c2c", bool),
        persistence=get("persistence", bool),
        display_active=get("display_active", bool),
        compute_mode=get("compute_mode", _integer),
        mig_is_on=get("mig_mode", lambda v: bool(v[0])),
        mig_is_on_after_reset=get("mig_mode", lambda v: bool(v[1])),
        mig_devices=get("mig_devices", lambda v: tuple(map(_text, v))),
        numa_node=get("numa_node", _integer),
        cpu_affinity=get("cpu_affinity", ranges),
        numa_affinity=get("memory_affinity", ranges),
    )


def _one_reading(thresholds: ThermalThresholds) -> Reading[ThermalThresholds]:
    """Take together what is the same for all four thresholds."""
    readings = set(msgspec.structs.astuple(thresholds))
    [first, *others] = readings
    return first if not others and isinstance(first, Unknown | NotSupported) else thresholds


def _memory(value: list[int]) -> Memory:
    total, used, free, reserved = value
    return Memory(
        total_bytes=_integer(total),
        used_bytes=_integer(used),
        free_bytes=_integer(free),
        # the older query counts what the driver keeps for itself as used
        reserved_bytes=NOT_SUPPORTED if reserved is None else _integer(reserved),
    )


def _remapped_rows(value: list[int]) -> RemappedRows:
    correctable, uncorrectable, pending, failed = value
    return RemappedRows(
        correctable=_integer(correctable),
        uncorrectable=_integer(uncorrectable),
        is_pending=bool(pending),
        has_failed=bool(failed),
    )


def _histogram(value: list[int]) -> RemapHistogram:
    maximum, high, partial, low, none = map(_integer, value)
    return RemapHistogram(maximum=maximum, high=high, partial=partial, low=low, none=none)


def _retired_pages(value: list[int]) -> RetiredPages:
    single_bit, double_bit, pending = value
    return RetiredPages(
        single_bit=_integer(single_bit), double_bit=_integer(double_bit), is_pending=bool(pending)
    )


def _fabric(value: list[int | None]) -> Fabric:
    state, status, health, summary = value
    return Fabric(
        state=_integer(state or 0),
        status=_integer(status or 0),
        health=NOT_SUPPORTED if health is None else _integer(health),
        health_summary=NOT_SUPPORTED if summary is None else _integer(summary),
    )


def _processes(answers: _Answers, root: Path) -> Reading[tuple[GpuProcess, ...]]:
    """Put the three lists of processes together; one that computes and draws computes."""
    found: dict[int, GpuProcess] = {}
    compute = answers.get("compute", _process_sizes)
    if isinstance(compute, Unknown | NotSupported):
        return compute
    kinds: tuple[Literal["compute", "mps", "graphics"], ...] = ("compute", "mps", "graphics")
    for kind in kinds:
        listed = answers.get(kind, _process_sizes)
        for process, used_bytes in () if isinstance(listed, Unknown | NotSupported) else listed:
            if process in found:
                continue
            name, is_zombie = process_name(process, root)
            found[process] = GpuProcess(
                pid=process,
                name=name,
                used_bytes=NOT_SUPPORTED if used_bytes is None else used_bytes,
                kind=kind,
                is_zombie=is_zombie,
            )
    return tuple(found[process] for process in sorted(found))


def _process_sizes(value: list[list[int | None]]) -> list[tuple[int, int | None]]:
    return [
        (_integer(process), None if used_bytes is None else _integer(used_bytes))
        for process, used_bytes in value
    ]


def process_name(process: int, root: Path = Path("/")) -> tuple[Maybe[str], bool]:
    """Return the name of a process and whether it is a zombie; None: there is none here."""
    try:
        stat = (root / "proc" / str(process) / "stat").read_text("utf-8", "replace")
    except OSError:
        return _unseen(process) if root == Path("/") else None, False
    # "4242 (python3) Z 1 …": the name may hold blanks and brackets of its own
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return name or None, rest.split()[:1] == ["Z"]


def _unseen(process: int) -> Unknown | None:
    """Tell a process that /proc does not show to this user (mounted with hidepid) from none."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return Unknown(f"process {process} is hidden from this user", "no permission")
    except (OSError, OverflowError):
        pass
    return None


# ----------------------------------------------------------------------------------------- links


def _nvlinks(answers: _Answers) -> Reading[tuple[NvLink, ...]]:
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
        counts = [_code(one, "nvmlDeviceGetNvLinkErrorCounter", _integer) for one in errors[number]]
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
            else _code(remote, "nvmlDeviceGetNvLinkRemotePciInfo_v2", bus_id)
        )
    return NvLink(
        index=number,
        is_up=is_up,
        version=_code(version, "nvmlDeviceGetNvLinkVersion", _integer),
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
    if code == nvml_child.NOT_SUPPORTED:
        return NOT_SUPPORTED
    if code == nvml_child.FUNCTION_NOT_FOUND:
        return Unknown(f"driver too old: {symbol} missing")
    return Unknown(f"{symbol}: error {code}")


def _with_last_bus_id(gpus: list[Gpu], root: Path) -> list[Gpu]:
    """Tell which GPU it is that cannot say so itself, where the driver knows one more than NVML."""
    silent = [gpu for gpu in gpus if not isinstance(gpu.bus_id, str)]
    if len(silent) != 1:
        return gpus
    try:
        listed = {entry.name for entry in (root / "proc/driver/nvidia/gpus").iterdir()}
    except OSError:
        return gpus
    [gpu] = silent
    left = listed - {other.bus_id for other in gpus if isinstance(other.bus_id, str)}
    if len(listed) == len(gpus) and len(left) == 1:
        gpus[gpu.index] = msgspec.structs.replace(gpu, bus_id=left.pop())
    return gpus


def _with_link_ends(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
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


def _pairs(talk: NvmlSession, gpus: Sequence[Gpu], root: Path) -> tuple[GpuPair, ...]:
    pairs = []
    for a in gpus:
        for b in gpus[a.index + 1 :]:
            said = talk.pairs.get((a.index, b.index), {})
            why = _pair_trouble(a, b) or Unknown(talk.pairs_trouble or "NVML did not answer")
            statuses: list[Reading[str]] = []
            for capability in (P2P_READ, P2P_WRITE, P2P_NVLINK):
                if capability in talk.capabilities:
                    answer = said.get(f"p2p {capability}")
                    statuses.append(_pair_fact(answer, "nvmlDeviceGetP2PStatus", _status, why))
                else:
                    statuses.append(Unknown("left out by --quick", "by design"))
            pairs.append(
                GpuPair(
                    a=a.index,
                    b=b.index,
                    topology=_topology(a, b, said.get("level"), why, root),
                    p2p_read=statuses[0],
                    p2p_write=statuses[1],
                    p2p_nvlink=statuses[2],
                )
            )
    return tuple(pairs)


def _pair_trouble(a: Gpu, b: Gpu) -> Unknown | None:
    for gpu in (a, b):
        if gpu.state != "ok":
            return Unknown(f"{gpu.subject}: {gpu.error}")
    return None


def _pair_fact(
    answer: tuple[str, Any] | None, symbol: str, convert: Callable[[Any], str], why: Unknown
) -> Reading[str]:
    if answer is None:
        return why
    kind, value = answer
    if kind == "is":
        try:
            return convert(value)
        except TypeError:
            return Unknown(f"{symbol}: {str(value)[:80]} makes no sense")
    return NOT_SUPPORTED if kind == "not supported" else Unknown(_why(kind, value, symbol))


def _status(value: Any) -> str:  # noqa: ANN401
    return P2P_STATUS[value] if isinstance(value, int) and 0 <= value < 6 else "U"


def _topology(
    a: Gpu, b: Gpu, level: tuple[str, Any] | None, why: Unknown, root: Path
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
        return _pair_fact(level, symbol, lambda value: LEVELS.get(value, "U"), why)
    if isinstance(a.bus_id, str) and isinstance(b.bus_id, str):
        return pcie_level(a.bus_id, b.bus_id, root) or why
    return why


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


# ---------------------------------------------------------------------------- the second reading


def _with_sample(gpu: Gpu, talk: NvmlSession, after_seconds: float, *, under_load: bool) -> Gpu:
    state, fault = talk.troubles.get(gpu.index, ("ok", None))
    if fault is not None:
        fault += ", in the second reading"
    elif talk.error is not None:
        fault = f"{talk.error.call}: {talk.error.message}"
    answers = _Answers(talk.gpus.get(gpu.index, {}), talk._plan, fault)

    def number(which: int) -> Reading[int]:
        return answers.field(which, nvml_child.SECOND_FIELDS, _integer)

    def links(*positions: int) -> Reading[int]:
        return answers.get(
            "nvlink_errors",
            lambda value: _integer(sum(one[n] for one in value for n in positions)),
        )

    sample = GpuSample(
        after_seconds=round(after_seconds, 3),
        under_load=under_load,
        clocks_event_reasons=answers.get("event_reasons", _integer),
        corrected_ecc_volatile=answers.get("corrected_volatile", _integer),
        pcie_replays=answers.get("pcie_replays", _integer),
        pcie_generation=answers.get("pcie_generation", _integer),
        performance_state=answers.get("performance_state", _integer),
        clock_sm_mhz=answers.get("clock_sm", _integer),
        utilization_percent=answers.get("utilization", _integer),
        hardware_thermal_slowdown_ns=number(nvml_child.HARDWARE_THERMAL),
        power_brake_slowdown_ns=number(nvml_child.POWER_BRAKE),
        software_thermal_slowdown_ns=number(nvml_child.SOFTWARE_THERMAL),
        nvlink_replay_errors=links(1),
        nvlink_recovery_errors=links(2),
        nvlink_crc_errors=links(3, 4),
    )
    gpu = msgspec.structs.replace(gpu, later_sample=sample)
    return gpu if state == "ok" else msgspec.structs.replace(gpu, state=state, error=fault)
