from pathlib import Path

import pytest

from gpucheck.probes import module_obstacles
from gpucheck.probes.module_obstacles import blocks, dkms_failure, first_error
from gpucheck.snapshot import DkmsFailure, ModuleBlock

RELEASE = "6.8.0-50-generic"


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_prime_select_s_file_blocks_the_module(tmp_path: Path):
    path = "usr/lib/modprobe.d/blacklist-nvidia.conf"
    put(
        tmp_path,
        path,
        "# by prime-select\nblacklist nvidia\nblacklist nvidia-drm\nalias nvidia off\n",
    )
    put(tmp_path, "etc/prime-discrete", "off\n")

    assert blocks(tmp_path) == (
        ModuleBlock(path=f"/{path}", text="blacklist nvidia"),
        ModuleBlock(path=f"/{path}", text="alias nvidia off", is_total=True),
    )
    assert module_obstacles.prime_profile(tmp_path) == "off"


@pytest.mark.parametrize(
    ("line", "is_total"),
    [
        ("blacklist nvidia", False),
        ("install nvidia /bin/false", True),
        ("install nvidia /usr/bin/true  # no", True),
        ("alias nvidia off", True),
    ],
)
def test_every_way_of_modprobe_d_counts(tmp_path: Path, line: str, is_total: bool):
    put(tmp_path, "etc/modprobe.d/x.conf", f"{line}\n")

    [block] = blocks(tmp_path)

    assert (block.path, block.is_total) == ("/etc/modprobe.d/x.conf", is_total)


@pytest.mark.parametrize(
    "line",
    [
        "# blacklist nvidia",
        "blacklist nouveau",
        "blacklist nvidiafb",
        "install nvidia modprobe -i nvidia-current $CMDLINE_OPTS",
        "options nvidia NVreg_PreserveVideoMemoryAllocations=1",
        "alias nvidia-drm off",
    ],
)
def test_what_distributions_write_besides_is_no_block(tmp_path: Path, line: str):
    put(tmp_path, "etc/modprobe.d/nvidia.conf", f"{line}\n")

    assert blocks(tmp_path) == ()


def test_a_file_of_etc_replaces_the_one_of_the_same_name_in_lib(tmp_path: Path):
    put(tmp_path, "usr/lib/modprobe.d/nvidia.conf", "blacklist nvidia\n")
    put(tmp_path, "etc/modprobe.d/nvidia.conf", "# emptied\n")

    assert blocks(tmp_path) == ()


@pytest.mark.parametrize(
    ("option", "is_total"),
    [("modprobe.blacklist=nouveau,nvidia", False), ("module_blacklist=nvidia", True)],
)
def test_the_kernel_s_command_line_blocks_it(tmp_path: Path, option: str, is_total: bool):
    put(tmp_path, "proc/cmdline", f"root=/dev/sda1 {option} quiet\n")

    assert blocks(tmp_path) == (ModuleBlock(path="/proc/cmdline", text=option, is_total=is_total),)


def test_nouveau_s_blacklist_is_none_of_ours(tmp_path: Path):
    put(tmp_path, "proc/cmdline", "rd.driver.blacklist=nouveau modprobe.blacklist=nouveau\n")

    assert blocks(tmp_path) == ()


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (
            "proc/cmdline",
            "quiet vfio-pci.ids=10de:1e84,10de:10f8 splash\n",
            "vfio-pci.ids=10de:1e84,10de:10f8 on the kernel's command line",
        ),
        (
            "etc/modprobe.d/vfio.conf",
            "softdep nvidia pre: vfio-pci\noptions vfio-pci ids=10de:1e84 disable_vga=1\n",
            "/etc/modprobe.d/vfio.conf: options vfio-pci ids=10de:1e84 disable_vga=1",
        ),
    ],
)
def test_the_option_that_lends_a_gpu_is_named(tmp_path: Path, path: str, text: str, said: str):
    put(tmp_path, path, text)

    assert module_obstacles.passthrough_option(tmp_path) == said


def test_another_vendor_s_card_is_lent_without_us(tmp_path: Path):
    put(tmp_path, "etc/modprobe.d/vfio.conf", "options vfio-pci ids=1002:73bf\n")

    assert module_obstacles.passthrough_option(tmp_path) is None


def test_the_versions_of_firmware_are_those_with_gsp_files(tmp_path: Path):
    put(tmp_path, "lib/firmware/nvidia/550.67/gsp_ga10x.bin")
    put(tmp_path, "lib/firmware/nvidia/ga102/gsp/booter.bin")
    put(tmp_path, "lib/firmware/nvidia/580.159.04/readme")

    assert module_obstacles.firmware_versions(tmp_path) == ("550.67",)


LOG = """DKMS make.log for nvidia-535.98 for kernel 6.8.0-50-generic (x86_64)
warning: the compiler differs from the one used to build the kernel
  The kernel was built by: x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0
  You are using:           cc (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0
cc: error: unrecognized command-line option '-ftrivial-auto-var-init=zero'
make[3]: *** [scripts/Makefile.build:251: nv.o] Error 1
"""


def test_the_first_error_of_a_failed_build_is_quoted_with_both_compilers(tmp_path: Path):
    put(tmp_path, "var/lib/dkms/nvidia/535.98/build/make.log", LOG)

    assert dkms_failure(tmp_path, RELEASE, ()) == DkmsFailure(
        log="/var/lib/dkms/nvidia/535.98/build/make.log",
        error="cc: error: unrecognized command-line option '-ftrivial-auto-var-init=zero'",
        kernel_compiler="x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0",
        compiler="cc (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0",
    )


def test_the_compiler_of_the_kernel_is_also_told_by_the_kernel(tmp_path: Path):
    path = f"var/lib/dkms/nvidia/535.98/{RELEASE}/x86_64/log/make.log"
    put(tmp_path, path, "nv.c:12:5: error: implicit declaration of function 'x'\n")
    put(
        tmp_path,
        "proc/version",
        "Linux version 6.8.0 (b@h) (x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23) 13.2.0, GNU ld) #1",
    )

    found = dkms_failure(tmp_path, RELEASE, ())

    assert isinstance(found, DkmsFailure)
    assert found.kernel_compiler == "x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23) 13.2.0"
    assert found.compiler is None


def test_a_build_for_another_kernel_or_one_that_ended_well_is_no_failure(tmp_path: Path):
    put(tmp_path, "var/lib/dkms/nvidia/535.98/build/make.log", LOG.replace(RELEASE, "6.2.6"))

    assert dkms_failure(tmp_path, RELEASE, ()) is None
    assert dkms_failure(tmp_path, "6.2.6", ("6.2.6",)) is None


def test_a_full_disk_is_an_error_too():
    assert first_error("cc x.c\nld: final link failed: No space left on device\n") == (
        "ld: final link failed: No space left on device"
    )
    assert first_error("make: Leaving directory '/x'\n# exit code 0\n") is None
