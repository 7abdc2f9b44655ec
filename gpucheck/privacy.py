"""Replaces what names a machine or its owner by stable short tokens.

Tokens stand in for the same thing everywhere in one snapshot, so that it is judged as the original
is: a prefix of a UUID in CUDA_VISIBLE_DEVICES still names its GPU, and two paths under one home
still share it. A token is itself left alone: redacting twice gives what once does.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gpucheck.report import Report
    from gpucheck.snapshot import Snapshot

HOST = "host"
USER = "user"
#: An absolute path still, unlike "~": rules tell `~/cuda`, which nothing expands, from a good path.
HOME = "/home/~"

_UUID = re.compile(r"\b(GPU|MIG)-(?!GPU-)([0-9A-Fa-f][0-9A-Fa-f-]{0,35})")
_UUID_TOKEN = re.compile(r"[0-9a-f]{12}")  # a real one has a "-" behind its eighth digit
_SERIAL_TOKEN = re.compile(r"serial-[0-9a-f]{8}")
_HOMES = re.compile(r"/(?:home|Users)/([^/:;,=\s'\"`)(]+)")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose private names to look for, beside those that the snapshot itself shows."""

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
                # A serial number alone could be found by trying them all; with the UUID it cannot.
                secret = gpu.uuid if isinstance(gpu.uuid, str) else ""
                self._serials[gpu.serial] = f"serial-{_hash(gpu.serial + secret)[:8]}"
        self._homes = self._find_homes((*_texts(msgspec.to_builtins(machine)), *texts), owner)
        self._user = _word(owner.user)
        hosts = {owner.host, owner.host.partition(".")[0]}
        if isinstance(machine.host.name, str):
            hosts |= {machine.host.name, machine.host.name.partition(".")[0]}
        self._hosts = [
            word for host in sorted(hosts, key=len, reverse=True) if (word := _word(host))
        ]

    def _find_homes(self, texts: Iterable[str], owner: Owner) -> list[tuple[re.Pattern[str], str]]:
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
            self._home if home == own or len(homes) == 1 else f"{HOME}{number}"
            for number, home in enumerate(homes, 1)
        ]
        pairs = sorted(zip(homes, tokens, strict=True), key=lambda pair: -len(pair[0]))
        return [(re.compile(re.escape(home) + r"(?![\w.-])"), token) for home, token in pairs]

    def text(self, text: str) -> str:
        """Return *text* with all private names in it replaced."""
        for serial, token in self._serials.items():
            if serial in text and not _SERIAL_TOKEN.fullmatch(serial):
                text = text.replace(serial, token)
        if "GPU-" in text or "MIG-" in text:
            text = _UUID.sub(self._uuid, text)
        for home, token in self._homes:
            text = home.sub(token, text)
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

    def tree(self, tree: object) -> object:
        """Return builtins with every text in them replaced."""
        if isinstance(tree, str):
            return self.text(tree)
        if isinstance(tree, (list, tuple)):
            return [self.tree(item) for item in tree]
        if isinstance(tree, dict):
            return {
                key: value if key in ("type", "schema", "kind") else self.tree(value)
                for key, value in tree.items()
            }
        return tree


def redact(machine: "Snapshot", whose: Owner | None = None) -> "Snapshot":
    """Return *machine* without host and user names, serials and UUIDs; homes become "/home/~"."""
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
        findings=with_texts(report.findings, redactor.text),
        not_checked=with_texts(report.not_checked, redactor.text),
        not_applicable=with_texts(report.not_applicable, redactor.text),
    )


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
    """Return what finds *name* as a whole word; None where it is too common to be private."""
    if len(name) < 3 or name.lower() in _COMMON:
        return None
    return re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")


def _token(digits: str) -> str:
    return digits if _UUID_TOKEN.fullmatch(digits) else _hash(digits)[:12]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), person=b"gpucheck").hexdigest()
