"""Replaces what names a machine, its owner or their work by stable short tokens.

Tokens replace the same thing everywhere in one snapshot, so that it is judged as the original
is: a prefix of a UUID in CUDA_VISIBLE_DEVICES still names its GPU, and two paths under one home
still share it. A token is itself left alone: redacting twice gives what once does.

Free text is not searched for secrets but cut down to what is known to be none: of a line of a
start-up file the words that set CUDA's variables, of a compiler's flags those that rules read, of a
line of the kernel log the numbers and NVIDIA's own words.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gpucheck.report import Report
    from gpucheck.snapshot import Snapshot

HOST = "host"
USER = "user"
CUT = "…"
#: The owner's home in a snapshot: an absolute path still, so that rules tell `~/cuda`, which
#: nothing expands, from a good path. Reports show it as `~`.
HOME = "/~"

_UUID = re.compile(r"\b(GPU|MIG)-(?!GPU-)([0-9A-Fa-f][0-9A-Fa-f-]{0,35})")
_UUID_TOKEN = re.compile(r"[0-9a-f]{12}")  # a real one has a "-" behind its eighth digit
_SERIAL_TOKEN = re.compile(r"serial-[0-9a-f]{8}")
_HOMES = re.compile(r"/(?:home|Users)/([^/:;,=\s'\"`)(]+)")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
#: Secrets that say of themselves what they are: GitHub, GitLab, Hugging Face, OpenAI, Slack, AWS.
_TOKENS = re.compile(
    r"\b(?:gh[opsu]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA|ASIA)[\w-]{12,}"
    r"|(?i:(?<![a-z])(?:token|passw(?:or)?d|secret|api[_-]?key|authorization)\s*[=:]\s*"
    r"(?:bearer\s+|basic\s+)?)[^\s'\"]+"
)
_RANK_HOST = re.compile(HOST + r"-\d+")  # the token of a host of a training
_MAC = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}(?![\w:])")
#: An address stands where no version can: after a space, `=`, `@`, a quote or `//`.
_IP = re.compile(
    r"(?:(?<=[\s=@'\"(\[,])|(?<=//)|^)(?:\d{1,3}\.){3}\d{1,3}(?=[\s:,/'\")\]]|$)"
    r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){2,7}:?[0-9a-fA-F:]*[0-9a-fA-F](?![\w.])"
)
#: Names that say nothing of a person or a machine, and stand in many paths for other reasons.
_COMMON = frozenset(
    {
        *("root", "user", "ubuntu", "debian", "admin", "nvidia", "cuda", "lib", "bin", "usr"),
        *("local", "opt", "python", "torch", "home", "data", "vm", "gpu", "localhost"),
        *("localdomain", "linux", "docker", "h100", "h200", "a100", "b200", "host", "tmp"),
        *("dev", "proc", "sys", "etc", "run", "mnt", "srv", "var", "share", "lib64", "test"),
        *("work", "build", "conda", "venv", "site", "include", "kernel", "system", "driver"),
    }
)
#: Homes of users who have none, or share them with the system.
_NO_HOMES = frozenset(("/", "/usr", "/var", "/opt", "/tmp", "/home", "/usr/local", "/nonexistent"))  # noqa: S108
#: Variables whose assignment in a start-up file is kept, and what may stand before it.
_OURS = "CUDA_HOME|CUDA_PATH|CUDA_ROOT|PATH|LD_LIBRARY_PATH|LD_PRELOAD|CUDA_VISIBLE_DEVICES|path"
_ASSIGNMENT = re.compile(
    r"(?:\b(?:export|setenv|setx?|declare|typeset|fish_add_path|prepend_path|append_path)\b"
    r"(?:\s+-\S+)*\s*|export)?(?:\b|(?<=export))(?:" + _OURS + r")\b"
    r"(?:\s*\+?=\s*|\s+)(?:\([^)]*\)|(?:\"[^\"]*\"|'[^']*'|[^\s;&|#'\"])*)"
)
#: Of a variable that holds flags: those that a rule reads.
_FLAGS = {
    "XLA_FLAGS": re.compile(r"--xla_gpu_cuda_data_dir=\S+"),
    "NVCC_APPEND_FLAGS": re.compile(r"(?:-ccbin|--compiler-bindir)(?:=|\s+)\S+"),
    "NVCC_PREPEND_FLAGS": re.compile(r"(?:-ccbin|--compiler-bindir)(?:=|\s+)\S+"),
}
_PROGRAMS = ("CC", "CXX", "CUDAHOSTCXX", "CC_FOR_BUILD", "NVCC_CCBIN")  # a program and its flags
#: Words of a module's name that rules read; the others are a site's own.
_MODULE = re.compile(r"(?i)cuda|cudnn|nccl|nvhpc|gcc|openmpi|python|conda|torch|tensorrt|ucx|hpcx")
_PRIVATE_NAMES = ("CONDA_DEFAULT_ENV", "MASTER_ADDR")
#: Programs that hold GPU memory on many machines; any other process's name is its owner's matter.
_KNOWN_PROGRAMS = re.compile(
    r"(?:python[\d.]*|Xorg|Xwayland|gnome-shell|kwin\w*|nvidia-\w[\w-]*|nv-\w+|dcgm\w*|nv-hostengine"
    r"|systemd\w*|ray::\w+|java|gpucheck|a process)"
)
_WORD = re.compile(r"[^\W\d_]\w*(?:['-]\w+)*")


@cache
def _key() -> bytes:
    """Return what keys this machine's tokens: nobody can try serial numbers without it.

    systemd's machine id is made for that: 128 random bits that stay on the machine
    (machine-id(5): use a keyed hash of it). Where there is none, the id of this boot.
    """
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            text = Path(path).read_bytes().strip()
        except OSError:
            continue
        if len(text) >= 32:
            return text
    return os.urandom(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose private names to look for, in addition to those that the snapshot itself shows."""

    home: str = ""
    user: str = ""
    host: str = ""


def owner() -> Owner:
    """Return the owner of this process."""
    import platform

    try:
        import pwd

        entry = pwd.getpwuid(os.getuid())
        home, user = entry.pw_dir, entry.pw_name
    except (ImportError, KeyError):
        home, user = "", ""
    return Owner(
        home=os.environ.get("HOME") or home,
        user=os.environ.get("SUDO_USER") or user,
        host=platform.node(),
    )


class Redactor:
    """Replaces private names in the texts of one machine."""

    def __init__(
        self, machine: "Snapshot", owner: Owner, *, home: str = HOME, texts: Iterable[str] = ()
    ) -> None:
        gpus = machine.nvml.gpus if isinstance(machine.nvml.gpus, tuple) else ()
        self._home = home
        self._cut: dict[str, str] = {}  # what `tree` cut down, and to what
        self._uuids: dict[str, str] = {}
        self._serials: dict[str, str] = {}
        for gpu in gpus:
            for uuid in (
                gpu.uuid,
                *(gpu.mig_devices if isinstance(gpu.mig_devices, tuple) else ()),
            ):
                if isinstance(uuid, str):
                    for _, digits in _UUID.findall(uuid):
                        self._uuids[digits.lower()] = _token(digits.lower())
            if isinstance(gpu.serial, str) and len(gpu.serial) >= 4:
                self._serials[gpu.serial] = f"serial-{_hash(gpu.serial)[:8]}"
        self._homes = self._find_homes((*_texts(msgspec.to_builtins(machine)), *texts), owner)
        self._user = _word(owner.user)
        hosts = {owner.host, owner.host.partition(".")[0]}
        if isinstance(machine.host.name, str):
            hosts |= {machine.host.name, machine.host.name.partition(".")[0]}
        self._hosts = [
            word for host in sorted(hosts, key=len, reverse=True) if (word := _word(host))
        ]

        named = dict.fromkeys(_hosts_of_ranks(machine))
        self._rank_hosts = {host: f"{HOST}-{at}" for at, host in enumerate(named)}
        self._rank_words = [
            (word, token)
            for host, token in self._rank_hosts.items()
            for name in (host, host.partition(".")[0])
            if (word := _word(name)) is not None and not _RANK_HOST.fullmatch(host)
        ]

    def _find_homes(self, texts: Iterable[str], owner: Owner) -> re.Pattern[str] | None:
        """Give each home that the texts show a number; the owner's own has none."""
        own = owner.home.rstrip("/")
        homes = [own] if "/" in own and own not in _NO_HOMES else []
        shown = {
            match.group(0)
            for text in texts
            for match in _HOMES.finditer(text)
            if not match.group(1).startswith("~")
        }
        homes += sorted(shown - set(homes))
        tokens = [
            self._home if home == own or len(homes) == 1 else f"{self._home}{number}"
            for number, home in enumerate(homes, 1)
        ]
        self._home_tokens = dict(zip(homes, tokens, strict=True))
        if not homes:
            return None
        longest_first = sorted(homes, key=len, reverse=True)
        return re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?![\\w.-])")

    def text(self, text: str) -> str:
        """Return *text* with all private names in it replaced."""
        if text in self._rank_hosts:
            return text if _RANK_HOST.fullmatch(text) else self._rank_hosts[text]
        for word, token in self._rank_words:
            text = word.sub(token, text)
        for serial, token in self._serials.items():
            if serial in text and not _SERIAL_TOKEN.fullmatch(serial):
                text = text.replace(serial, token)
        if "GPU-" in text or "MIG-" in text:
            text = _UUID.sub(self._uuid, text)
        if self._homes is not None:
            text = self._homes.sub(lambda home: self._home_tokens[home.group(0)], text)
        if "://" in text:
            text = _CREDENTIALS.sub(f"{CUT}@", text)
        text = _TOKENS.sub(CUT, text)
        if self._user:
            text = self._user.sub(USER, text)
        for host in self._hosts:
            text = host.sub(HOST, text)
        return text

    def _uuid(self, match: re.Match[str]) -> str:
        kind, digits = match.group(1), match.group(2).lower()
        if _UUID_TOKEN.fullmatch(digits):
            return match.group(0)
        named = [token for uuid, token in self._uuids.items() if uuid.startswith(digits)]
        if len(named) > 1:  # a prefix of several names none of them, and "GPU-" does likewise
            return f"{kind}-"
        return f"{kind}-{named[0] if named else _token(digits)}"

    def tree(self, tree: object, key: str = "") -> object:
        """Return builtins with every text in them replaced, each kind of text by its own rule."""
        if isinstance(tree, str):
            if key not in _KERNEL_TEXTS:
                return self.text(tree)
            words = _kernel_words(self.text(tree))
            self._note(tree, words)
            return words
        if isinstance(tree, (list, tuple)):
            return [self.tree(item, key) for item in tree]
        if isinstance(tree, dict):
            changes = _cut_down(tree)
            if tree.get("type") in _QUOTED:
                for name, short in changes.items():
                    self._note(tree.get(name), short)
            cut = {**tree, **changes}
            is_kernel = tree.get("type") in ("kernellog", "kernelline", "xid", "sxid")
            return {
                name: value
                if name in ("type", "schema", "kind")
                else self.tree(value, name if is_kernel else "")
                for name, value in cut.items()
            }
        return tree

    def _note(self, long: object, short: object) -> None:
        if isinstance(long, (list, tuple)) and isinstance(short, (list, tuple)):
            for one, other in zip(long, short, strict=False):
                self._note(one, other)
        elif isinstance(long, str) and isinstance(short, str) and long != short and len(long) > 3:
            self._cut[long] = short

    def evidence(self, text: str) -> str:
        """Return *text*, which may quote facts, with those cut down as `tree` cut them before."""
        for long in sorted(self._cut, key=len, reverse=True):
            if long in text:
                whole_words = rf"(?<!\w){re.escape(long)}(?!\w)"
                text = re.sub(whole_words, lambda _: self._cut[long], text)  # noqa: B023
        return self.text(text)


#: Facts whose texts findings quote: what was cut out of those is cut out of these.
_QUOTED = ("unknown", "gpuprocess", "kernelline", "xid", "trainingfailure", "startupsetting")
#: Fields of the kernel log's facts that hold lines as the kernel wrote them.
_KERNEL_TEXTS = ("text", "module_said", "module_refused")


def _cut_down(facts: dict[str, object]) -> dict[str, object]:
    """Return the fields of one fact that are cut down to what a rule reads."""
    kind = facts.get("type")
    if kind == "startupsetting":
        text = facts.get("text")
        kept = _ASSIGNMENT.findall(text) if isinstance(text, str) else []
        return {"text": f" {CUT} ".join(each.strip() for each in kept) or CUT}
    if kind == "sitefact":
        return _site_fact(facts)
    if kind == "sitefailure":
        return {"why": _without_addresses(facts.get("why"))}
    if kind == "unknown":
        return {"why": _MAC.sub(CUT, _IP.sub(CUT, str(facts.get("why"))))}
    if kind == "trainingfailure":  # what a connection to another host says
        return {
            name: _without_addresses(facts.get(name)) for name in _ERROR_TEXTS if facts.get(name)
        }
    if kind == "variable":
        return {"value": _variable(str(facts.get("name")), str(facts.get("value")))}
    if kind == "gpuprocess" and isinstance(facts.get("name"), str):
        return {"name": _program(str(facts["name"]))}
    if kind == "kernelline" and facts.get("process"):
        return {"process": _program(str(facts["process"]))}
    if kind == "xid" and isinstance(names := facts.get("processes"), (list, tuple)):
        return {"processes": [_program(str(name)) for name in names]}
    return {}


def _site_fact(facts: dict[str, object]) -> dict[str, object]:
    """A site's texts may be anything: without the word of the probe that gave them, none leaves."""
    text = facts.get("value")
    if not isinstance(text, str):
        return {}
    if facts.get("is_public"):
        return {"value": _MAC.sub(CUT, _IP.sub(CUT, text))}
    return {"value": {"type": "unknown", "why": "a text of the site", "kind": "no permission"}}


_ERROR_TEXTS = ("message", "stack", "last_lines")


def _without_addresses(texts: object) -> object:
    if isinstance(texts, (list, tuple)):
        return [_without_addresses(text) for text in texts]
    return _MAC.sub(CUT, _IP.sub(CUT, texts)) if isinstance(texts, str) else texts


def _variable(name: str, value: str) -> str:
    if name in _FLAGS:
        return " ".join(_FLAGS[name].findall(value)) or CUT
    if name in _PROGRAMS:
        return value.split(None, 1)[0] if value.strip() else value
    if name in ("LOADEDMODULES", "_LMFILES_"):
        return ":".join(part if _MODULE.search(part) else CUT for part in value.split(":"))
    if name in _PRIVATE_NAMES and value != "base":
        return CUT
    return _MAC.sub(CUT, _IP.sub(CUT, value))


def _program(name: str) -> str:
    base = name.rpartition("/")[2]
    return base if _KNOWN_PROGRAMS.fullmatch(base) else "a process"


@cache
def _vocabulary() -> frozenset[str]:
    """Every word of the tables about the driver's messages, in lower case."""
    words: set[str] = set()
    folder = Path(__file__).parent / "knowledge"
    for name in ("kernel_words.txt", "xid.json", "error_messages.json", "cuda_errors.json"):
        words.update(_WORD.findall((folder / name).read_text(encoding="utf-8").lower()))
    return frozenset(words)


def _kernel_words(text: str) -> str:
    """Keep of a kernel line numbers, signs, words in capitals, and words that NVIDIA's have."""
    text = _MAC.sub(CUT, _IP.sub(CUT, text))
    vocabulary = _vocabulary()

    def kept(match: re.Match[str]) -> str:
        word = match.group(0)
        if word.isupper() or word.lower() in vocabulary or _CHIP.fullmatch(word):
            return word
        return CUT

    return _WORD.sub(kept, text)


#: Names of chips, registers and firmware files: "gsp_ga10x", "ga102", "x8", "cfg0".
_CHIP = re.compile(
    r"(?:gsp|nv|tu|ga|ad|gh|gb|gv|gp|gm|gk)_?[a-z]{0,3}\d\w*|[a-z]{1,4}\d{1,4}|bin|gz|zst|xz|ko|lib"
)


def redact(machine: "Snapshot", whose: Owner | None = None) -> "Snapshot":
    """Return *machine* without host and user names, serials and UUIDs; homes become "/~"."""
    redactor = Redactor(machine, owner() if whose is None else whose)
    facts = redactor.tree(msgspec.to_builtins(machine))
    redacted = msgspec.convert(facts, type=type(machine))
    if isinstance(machine.host.name, str):
        host = msgspec.structs.replace(redacted.host, name=HOST)
        redacted = msgspec.structs.replace(redacted, host=host)
    groups = machine.host.groups
    user = owner().user if whose is None else whose.user
    if isinstance(groups, tuple) and user in groups and user not in _COMMON:
        renamed = tuple(USER if group == user else group for group in groups)
        host = msgspec.structs.replace(redacted.host, groups=renamed)
        redacted = msgspec.structs.replace(redacted, host=host)
    return redacted


def redact_report(report: "Report", whose: Owner | None = None) -> "Report":
    """Return *report* without private details; homes become "~"."""
    from dataclasses import replace

    from gpucheck.report import with_texts

    whose = owner() if whose is None else whose
    entries = (
        *report.findings,
        *report.not_checked,
        *report.not_applicable,
    )
    texts = (getattr(entry, name) for entry in entries for name in entry.__struct_fields__)
    redactor = Redactor(
        report.machine, whose, home="~", texts=[text for text in texts if isinstance(text, str)]
    )

    machine = msgspec.convert(
        redactor.tree(msgspec.to_builtins(report.machine)), type=type(report.machine)
    )
    return replace(
        report,
        machine=machine,
        findings=tuple(
            msgspec.structs.replace(
                with_texts(finding, redactor.text), saw=redactor.evidence(finding.saw)
            )
            for finding in report.findings
        ),
        ignored=with_texts(report.ignored, redactor.evidence),
        not_checked=with_texts(report.not_checked, redactor.evidence),
        not_applicable=with_texts(report.not_applicable, redactor.text),
    )


def _hosts_of_ranks(machine: "Snapshot") -> Iterator[str]:
    """Yield the names of the hosts that trained together with this one."""
    training = machine.training
    if training is not None:
        replicas = training.replicas if isinstance(training.replicas, tuple) else ()
        for one in (*replicas, *((training.failure,) if training.failure else ())):
            if isinstance(host := getattr(one, "host", None), str):
                yield host


def _texts(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _texts(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _texts(item)


def _word(name: str) -> re.Pattern[str] | None:
    """Return what finds *name*, glued to other letters too; None where it is too common.

    A short name is found between what is no letter or digit: `/scratch/ada_x`, not "adapter".
    """
    if len(name) < 3 or name.lower() in _COMMON:
        return None
    if len(name) < 5:
        return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
    return re.compile(re.escape(name), re.IGNORECASE)


def _token(digits: str) -> str:
    return digits if _UUID_TOKEN.fullmatch(digits) else _hash(digits)[:12]


def _hash(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return hmac.new(_key(), b"gpucheck:" + data, hashlib.sha256).hexdigest()
