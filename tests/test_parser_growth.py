"""Every parser of text from outside takes twice as long for twice as much, whatever the text."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from soak import rounds

from gpucheck import snapshot_file
from gpucheck.explain import explanation
from gpucheck.fleet.nodes import expanded
from gpucheck.privacy import Owner, redact
from gpucheck.probes import (
    calling_shell,
    cxx_compiler,
    daemons,
    distributions,
    driver_libraries,
    frameworks,
    host,
    ignore_list,
    kernel_log,
    kernel_module,
    ld_so_cache,
    ld_so_interpreter,
    loader_conf,
    messages,
    module_obstacles,
    package_files,
    pytorch,
    startup_files,
    surroundings,
    toolkit,
    toolkit_files,
    torch_preloading,
    variable_sources,
)
from gpucheck.render import Format, render
from gpucheck.render.sanitize import clean
from gpucheck.report import examine
from gpucheck.requirements import satisfies
from gpucheck.shellenv import records, startup_file, user_units
from gpucheck.usage_error import UsageError
from machines import machine, with_variables

SIZE = rounds(
    1 << 14, 1 << 16
)  # and twice that: what a parser is handed is bounded by its reader, mostly to 1 MiB
#: A time below this says nothing of growth; a pattern that backtracks takes more by far.
NOISE_SECONDS = 0.08
MOST_SECONDS = 6.0
HERE = Path("/nonexistent/gpucheck-test")


def sh(text: str) -> object:
    return startup_files.parse(text, "/home/u/.bashrc", "sh", "/home/u")


def in_metadata(text: str) -> object:
    line = text[: len(text) // 2].replace("\n", " ")
    fields = f"Name: x\nRequires-Dist: {line}\nRequires-Dist: a; {line}\n{text}"
    return list(distributions.parse_requirements(fields, "3.12"))


def refused(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parsed(text: str) -> object:
        try:
            return parse(text)
        except UsageError:
            return None

    return parsed


def in_bytes(parse: Callable[[bytes], object]) -> Callable[[str], object]:
    return lambda text: parse(text.encode())


PARSERS: dict[str, Callable[[str], object]] = {
    "bash start-up file": sh,
    "fish start-up file": lambda text: startup_files.parse(text, "/x.fish", "fish"),
    "csh start-up file": lambda text: startup_files.parse(text, "/x.cshrc", "csh"),
    "/etc/environment": lambda text: startup_files.parse(text, "/etc/environment", "environment"),
    "old exports": lambda text: startup_file.old_exports(text.encode(), "bash"),
    "sourced files": lambda text: startup_file.sources(text.encode(), "bash", "/home/u"),
    "our own block": refused(lambda text: startup_file.find(text.encode())),
    "records": records.parse,
    "systemd unit": user_units.parse,
    "METADATA": in_metadata,
    "METADATA's name": distributions.normalise,
    "dist-info": distributions.split_name,
    "RECORD": lambda text: list(distributions.parse_record(text)),
    "RECORD's libraries": lambda text: list(package_files.compiled_files(text.encode())),
    "build info": frameworks.build_info,
    "specifier": lambda text: satisfies("1.0", text),
    "dpkg status": daemons.parse_package_version,
    "mountinfo": driver_libraries.parse_mount_points,
    "kernel log": lambda text: kernel_log.parse(text.splitlines()),
    "kernel log's lines": lambda text: list(kernel_log.interesting(text.encode())),
    "module kind": kernel_module.parse_module_kind,
    "/proc/modules": kernel_module.parse_modules,
    "modinfo": kernel_module.parse_fields,
    "build log": module_obstacles.first_error,
    "ld.so.conf": lambda text: list(loader_conf._directories(text, HERE / "x", HERE, 0)),
    "ld.so": in_bytes(ld_so_interpreter.read_interpreter),
    "os-release": host.parse_os_release,
    "meminfo": host.parse_meminfo,
    "capabilities": host.parse_capabilities,
    "CPU list": host.parse_cpu_list,
    "cgroup": host.parse_cgroup,
    "container variables": in_bytes(surroundings.parse_container_variables),
    "container's cgroup": surroundings.parse_container_group,
    "cpuinfo": surroundings.parse_hypervisor_flag,
    "firmware": surroundings.parse_firmware_names,
    "/proc/PID/stat": calling_shell.parse_stat,
    "conda's state": variable_sources.parse_state,
    "gpucheck.toml": refused(lambda text: ignore_list.parse(text.encode(), "x")),
    "pyvenv.cfg": pytorch.parse_pyvenv,
    "torch/version.py": pytorch.parse_torch_version,
    "torch/__init__.py": torch_preloading.read_preloading,
    "a child's messages": lambda text: pytorch.described(text.encode()),
    "nvcc --version": toolkit.parse_nvcc_version,
    "host_config.h": toolkit.parse_host_config,
    "nvcc --list-gpu-code": toolkit.parse_gpu_codes,
    "nvcc that is a script": toolkit_files.nvcc_in_script,
    "version.json": toolkit_files.parse_version_json,
    "version.txt": toolkit_files.parse_version_txt,
    "cuda_runtime_api.h": toolkit_files.parse_cudart_version,
    "NVCC_APPEND_FLAGS": cxx_compiler.ccbin_in_flags,
    "explain": refused(explanation),
    "node names": lambda text: _or_value_error(expanded, text),
    "snapshot": refused(lambda text: snapshot_file.parse(text.encode(), "x")),
    "clean": clean,
    "redact": lambda text: redact(with_variables(CUDA_HOME=text), Owner(home="/home/u", user="u")),
}

PATTERNS = (
    *("a", " ", "\n", "\t", "(", "{", "[", '"', "'", "`", "\\", "/", "=", ":", ";", "#", "0", ","),
    *(
        "$(a ",
        "${a:-",
        "f() { (",
        "<<a\n",
        "/lib",
        "/lib64/",
        "a=b\n",
        "a\\\n",
        "a[b",
        "1.2.",
        "a,",
    ),
    *("export PATH=$PATH:/opt/x/bin:$PATH\n", "export X='\n", "set -gx A (b) \n", "( a ==\n"),
    *(
        "a,",
        "NVRM: Xid (PCI:0000:00:",
        "NVRM: Xid (PCI:0000:00:06): 79, pid=1, name=a, b\n",
        "6,1,1,-;",
    ),
    *(
        "Package: nvidia-fabricmanager\nStatus: install ok installed\nVersion: 1\n\n",
        "Package: a\n",
    ),
    *("1 2 0:3 / /a\\040b rw - x y z\n", "include /a*/b*\n", "a.so,sha256=x,1\n", "nvcc -ccbin "),
    *("# >>> gpucheck >>>\n", "source ~/.a\n", "\x1b[", "\x1b]0;", "\u202e", "#define A 1\n"),
    *("/home/a", "https://a@", "token=", "fd00:1:", "10.0.0.", "GPU-0", "n[1-2]", "CUDA error: "),
    *('{"a":', "[[a.b]]\n", "[a]\nb = 'c'\n", "#if __GNUC__ > 1\n", " and ", "a[b]==1;", "@ b"),
)


def _or_value_error(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text)
    except ValueError:
        return None


def seconds(parse: Callable[[str], object], text: str) -> float:
    gc.collect()
    gc.disable()  # its passes over what was made so far grow by themselves
    try:
        began = time.process_time()
        parse(text)
        return time.process_time() - began
    finally:
        gc.enable()


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_twice_as_long_for_twice_as_much(name: str):
    parse = PARSERS[name]
    slow = {}
    for pattern in PATTERNS:
        text = pattern * (2 * SIZE // len(pattern))
        began = time.process_time()
        parse(text)
        took = time.process_time() - began
        if took < NOISE_SECONDS:
            continue
        half = min(seconds(parse, text[: len(text) // 2]) for _ in range(2))
        if took > MOST_SECONDS or min(took, seconds(parse, text)) > 3.2 * half:
            slow[pattern] = (half, took)

    assert slow == {}


def test_a_cache_of_the_loader_that_repeats_itself_is_read_in_its_time():
    """Each entry may name the same long text: ld.so.cache is read by offsets into it."""
    entries = 20_000
    head = ld_so_cache_of(entries)

    began = time.process_time()
    ld_so_cache.read_cache(head)

    assert time.process_time() - began < 3


def ld_so_cache_of(entries: int) -> bytes:
    """A cache in which all *entries* have one name of 60 kB."""
    import struct

    size = 48 + 24 * entries
    head = b"glibc-ld.so.cache1.1" + struct.pack("<II5I", entries, 60_001, 2, 0, 0, 0, 0)
    rows = struct.pack("<iIIIQ", 0x303, size, size, 0, 0) * entries
    return head + rows + b"a" * 60_000 + b"\0"


def test_messages_of_a_child_that_floods_are_read_in_their_time():
    began = time.process_time()
    with pytest.raises(messages.MessageError):
        messages.decode_all(messages._PREFIX + b'{"a":[' * (1 << 18) + b"\n")

    assert time.process_time() - began < 3


def test_a_report_with_thousands_of_homes_is_written_in_its_time():
    paths = ":".join(f"/home/user{number}/bin" for number in range(6000))
    report = examine(machine(with_variables(CUDNN_PATH=paths)))

    began = time.process_time()
    render(report, Format.MARKDOWN)

    assert time.process_time() - began < 4
