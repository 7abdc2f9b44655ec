"""The environment of whole machines: what breaks it is found first, and a healthy twin stays quiet.

The cases are what strangers met (each pair: the broken machine, and what makes it sound again).
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from built.machine import SITE, TARGETS, TOOLKIT, BuiltMachine
from built.test_kinds import compat, driver, geforce, one_card

pytestmark = pytest.mark.namespaces

Change = Callable[[BuiltMachine], Any]
PAIRS: dict[str, tuple[str, str, Change, Change]] = {}


def pair(code: str, says: str, sound: Change) -> Callable[[Change], Change]:
    """Keep a broken machine: the *code* and words of its finding, and what makes it sound."""

    def keep(breaks: Change) -> Change:
        PAIRS[breaks.__name__] = (code, says, breaks, sound)
        return breaks

    return keep


def set_variables(**variables: str) -> Change:
    return lambda machine: machine.environment.update(variables)


def without(*names: str) -> Change:
    return lambda machine: [machine.environment.pop(name, None) for name in names]


@pytest.fixture(autouse=True)
def quiet_bashrc(machine: BuiltMachine) -> None:
    machine.folder("/home/user/lib")


@pair("ENV032", f"LD_LIBRARY_PATH=/home/user/lib:{TARGETS}", set_variables(LD_LIBRARY_PATH=TARGETS))
def a_fish_list_became_one_element(machine: BuiltMachine) -> None:
    machine.environment["SHELL"] = "/usr/bin/fish"
    machine.environment["LD_LIBRARY_PATH"] = f"/home/user/lib {TARGETS}"
    machine.write(
        "/home/user/.config/fish/config.fish",
        f"set -gx LD_LIBRARY_PATH /home/user/lib {TARGETS}\n",
    )


@pair("ENV010", "/opt/env/etc/conda/activate.d/env_vars.sh:2", without("LD_LIBRARY_PATH"))
def condas_activation_script_leaves_an_empty_element(machine: BuiltMachine) -> None:
    machine.environment["CONDA_PREFIX"] = "/opt/env"
    machine.environment["LD_LIBRARY_PATH"] = f":{SITE}/nvidia/cudnn/lib"
    machine.write(
        "/opt/env/etc/conda/activate.d/env_vars.sh",
        f"#!/bin/sh\nexport LD_LIBRARY_PATH=$LD_LIBRARY_PATH:{SITE}/nvidia/cudnn/lib\n",
    )


@pair("ENV025", "libcudnn_ops_train.so.8", without("LD_PRELOAD"))
def an_old_cudnn_is_preloaded(machine: BuiltMachine) -> None:
    machine.elf("/usr/local/cuda-11.1/lib64/libcudnn_ops_train.so.8")
    machine.environment["LD_PRELOAD"] = "/usr/local/cuda-11.1/lib64/libcudnn_ops_train.so.8"


@pair("ENV033", "/home/ada/.bashrc:9", without("SUDO_USER"))
def sudo_leaves_out_what_bashrc_puts_on_path(machine: BuiltMachine) -> None:
    line = "export PATH=/usr/local/cuda/bin:$PATH\n"
    machine.write("/home/ada/.bashrc", "#\n" * 8 + line)
    machine.write(
        "/etc/passwd", "root:x:0:0::/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/bash\n"
    )
    machine.environment.pop("CUDA_HOME")
    machine.environment |= {"SUDO_USER": "ada", "PATH": "/opt/venv/bin:/usr/sbin:/usr/bin:/bin"}


@pair("ENV033", "cron", set_variables(TERM="xterm"))
def cron_has_no_compiler(machine: BuiltMachine) -> None:
    machine.write("/home/user/.bashrc", "export PATH=/usr/local/cuda/bin:$PATH\n")
    machine.environment.pop("CUDA_HOME")
    machine.environment.pop("VIRTUAL_ENV")
    machine.environment["PATH"] = "/usr/bin:/bin"


def block(home: str, rest: str = "") -> Change:
    return lambda machine: machine.write(
        "/home/user/.bashrc",
        f"# >>> gpucheck >>>\nif [ -d {home} ]; then\n    export CUDA_HOME={home}\nfi\n"
        f"# <<< gpucheck <<<\n{rest}",
    )


@pair("ENV034", "gpucheck env install", block("/usr/local/cuda"))
def the_toolkit_of_gpuchecks_own_block_is_gone(machine: BuiltMachine) -> None:
    block("/usr/local/cuda-12.0")(machine)
    machine.environment["CUDA_HOME"] = "/usr/local/cuda-12.0"


@pair("ENV034", "line 6 overrides it", block("/usr/local/cuda"))
def a_later_line_overrides_gpuchecks_own_block(machine: BuiltMachine) -> None:
    block("/usr/local/cuda", "export CUDA_HOME=/opt/cuda-11.8\n")(machine)


@pair("ENV035", "libbitsandbytes_cuda118.so", set_variables(BNB_CUDA_VERSION="130"))
def bitsandbytes_is_told_to_load_what_is_not_there(machine: BuiltMachine) -> None:
    package = f"{SITE}/bitsandbytes"
    machine.write(f"{package}/__init__.py")
    machine.elf(f"{package}/libbitsandbytes_cuda130.so")
    machine.wheel(SITE, "bitsandbytes", "0.48.0", ["bitsandbytes/__init__.py"])
    machine.environment["BNB_CUDA_VERSION"] = "118"


@pair("ENV035", "/opt/gone/ptxas", without("TRITON_PTXAS_PATH"))
def tritons_assembler_is_gone(machine: BuiltMachine) -> None:
    machine.environment["TRITON_PTXAS_PATH"] = "/opt/gone/ptxas"


@pair(
    "ENV019", "CUDA_VISIBLE_DEVICES=0,1", set_variables(CUDA_VISIBLE_DEVICES="0,1", FAKE_COUNT="2")
)
def gpus_are_separated_by_a_semicolon(machine: BuiltMachine) -> None:
    machine.environment |= {"CUDA_VISIBLE_DEVICES": "0;1", "FAKE_COUNT": "1"}


@pair("ENV018", "quotes", set_variables(CUDA_VISIBLE_DEVICES="1a", FAKE_CODE="0", FAKE_COUNT="1"))
def the_list_of_gpus_is_in_quotes(machine: BuiltMachine) -> None:
    machine.environment |= {"CUDA_VISIBLE_DEVICES": '"0,1"', "FAKE_CODE": "100"}


@pair("ENV012", "stubs", without("LD_LIBRARY_PATH"))
def the_toolkits_stubs_are_on_the_path_and_cuda_works(machine: BuiltMachine) -> None:
    machine.environment["LD_LIBRARY_PATH"] = f"{TARGETS}/stubs"


@pair("ENV023", "/home/user/.bashrc:2", without("CUDA_LAUNCH_BLOCKING"))
def bashrc_leaves_a_debugging_variable_on(machine: BuiltMachine) -> None:
    machine.write("/home/user/.bashrc", "# once\nexport CUDA_LAUNCH_BLOCKING=1\n")
    machine.environment["CUDA_LAUNCH_BLOCKING"] = "1"


@pair("ENV024", "module nccl/2", without("NCCL_P2P_DISABLE"))
def a_module_switches_peer_to_peer_off(machine: BuiltMachine) -> None:
    machine.write("/opt/modulefiles/nccl/2", "#%Module\nsetenv NCCL_P2P_DISABLE 1\n")
    machine.environment |= {
        "NCCL_P2P_DISABLE": "1",
        "LOADEDMODULES": "nccl/2",
        "_LMFILES_": "/opt/modulefiles/nccl/2",
    }


def compat_by_the_cache(machine: BuiltMachine, version: str) -> None:
    machine.write("/.dockerenv")
    compat(machine, version)
    machine.environment.pop("LD_LIBRARY_PATH")
    machine.write("/etc/ld.so.conf.d/00-compat.conf", f"{TOOLKIT}/compat\n")


@pair("ENV016", "/etc/ld.so.conf.d/00-compat.conf", set_variables(FAKE_CODE="0"))
def an_image_brings_an_older_compat_library_by_the_cache(machine: BuiltMachine) -> None:
    compat_by_the_cache(machine, "575.57.08")
    machine.environment["FAKE_CODE"] = "803"


@pair("ENV016", "error 804", set_variables(FAKE_CODE="0"))
def an_image_brings_a_compat_library_to_a_geforce(machine: BuiltMachine) -> None:
    driver(machine, "525.147.05", 12000)
    one_card(machine, geforce("RTX 4090", "8 9", "0x2684"), "0x2684")
    compat_by_the_cache(machine, "530.30.02")
    machine.environment |= {"FAKE_CODE": "804", "FAKE_VERSION": "12010"}


def findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [f for f in report["findings"] if f["code"].startswith("ENV")]


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_found_with_a_fix_for_this_machine(name: str, machine: BuiltMachine):
    code, says, breaks, _ = PAIRS[name]
    breaks(machine)

    report = machine.doctor()

    found = [finding for finding in findings(report) if finding["code"] == code]
    assert found, findings(report)
    assert found[0]["explained_by"] is None
    assert says in json.dumps(found, ensure_ascii=False)


@pytest.mark.parametrize("name", PAIRS)
def test_its_healthy_twin_is_quiet(name: str, machine: BuiltMachine):
    code, _, breaks, sound = PAIRS[name]
    breaks(machine)
    sound(machine)

    report = machine.doctor()

    assert code not in {finding["code"] for finding in findings(report)}


def test_where_no_toolkit_fits_torch_none_is_offered(machine: BuiltMachine):
    machine.remove("/usr/local/cuda-13.0")
    machine.remove("/usr/local/cuda")
    machine.toolkit("/usr/local/cuda-11.5", "11.5.119")
    machine.environment.pop("CUDA_HOME")
    machine.environment["PATH"] = "/opt/venv/bin:/usr/local/cuda-11.5/bin:/usr/bin:/bin"

    report = machine.doctor()

    [unset] = [f for f in report["findings"] if f["code"] == "ENV001"]
    assert unset["explained_by"] == "CUD003"
    assert unset["commands"] == []
    refused = machine.run("env", "--shell", "bash")
    assert refused.returncode == 2
    assert "built for CUDA 13" in refused.stderr


def test_a_distributions_toolkit_is_offered_as_usr(machine: BuiltMachine):
    machine.remove("/usr/local/cuda-13.0")
    machine.remove("/usr/local/cuda")
    home = "/usr/lib/nvidia-cuda-toolkit"
    machine.program(f"{home}/bin/nvcc", "Cuda compilation tools, release 13.0, V13.0.88")
    machine.write("/usr/bin/nvcc", f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n', mode=0o755)
    machine.write("/usr/include/cuda_runtime_api.h", "#define CUDART_VERSION 13000\n")
    machine.environment.pop("CUDA_HOME")
    machine.environment["PATH"] = "/opt/venv/bin:/usr/bin:/bin"

    report = machine.doctor("--select", "ENV")

    [unset] = report["findings"]
    assert unset["commands"] == ["export CUDA_HOME=/usr"]
    machine.environment["CUDA_HOME"] = "/usr"
    assert not machine.doctor("--select", "ENV")["findings"]
