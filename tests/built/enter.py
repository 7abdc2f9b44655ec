"""Enters a built machine and runs a command there: `unshare -m python enter.py < order.json`.

The machine's root is an overlay: the test's own files above this system's. /proc is the real one
with files and folders of the machine bound over it; /sys and /dev are the machine's alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    order = json.load(sys.stdin)
    place = Path(order["place"])
    root = place / "root"
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "none", str(place / "work"))
    # Layers may not lie within one another, so both are copied away from below "/".
    for name, source in (("layer", order["layer"]), ("up", place / "own")):
        subprocess.run(["cp", "-a", str(source), str(place / "work" / name)], check=True)
    (place / "work/work").mkdir()
    within = f"{place}/work"
    options = f"lowerdir={within}/layer:/,upperdir={within}/up,workdir={within}/work"
    mount("-t", "overlay", "overlay", "-o", options, str(root))
    mount("--rbind", "/proc", str(root / "proc"))
    mount("--bind", str(place / "driver"), str(root / "proc/driver"))
    for path in sorted((place / "proc").rglob("*")):
        target = root / "proc" / path.relative_to(place / "proc")
        if path.is_file() and target.exists():
            mount("--bind", str(path), str(target))
    mount("--bind", str(place / "sys"), str(root / "sys"))
    mount("-t", "tmpfs", "-o", "mode=755", "none", str(root / "dev"))
    subprocess.run(["cp", "-a", f"{place}/dev/.", str(root / "dev")], check=True)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        if Path("/dev", name).exists():
            (root / "dev" / name).touch()
            mount("--bind", f"/dev/{name}", str(root / "dev" / name))
    for name, mode in order["devices"].items():
        # A character device that everybody knows how to open; its owner and mode are the point.
        node = root / "dev" / name
        node.parent.mkdir(exist_ok=True)
        if mode["openable"]:
            kind = os.makedev(1, 5 if name in order["denied"] else 3)
            os.mknod(node, 0o020000 | mode["mode"], kind)
            node.chmod(mode["mode"])
        else:
            os.mknod(node, 0o020000, os.makedev(1, 3))
            node.chmod(0)
    (root / "dev/shm").mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={order['shm_bytes']}", "none", str(root / "dev/shm"))
    for path in order["mounted"]:
        target = root / path.lstrip("/")
        mount("--bind", str(target), str(target))
    if order["read_only"]:
        mount("-o", "remount,ro", str(root))
    if order["device_cgroup"]:
        Path(order["device_cgroup"], "cgroup.procs").write_text(str(os.getpid()))
    os.chroot(root)
    os.chdir(order["cwd"])
    if order["uid"]:
        os.setgroups(order["groups"])
        os.setgid(order["uid"])
        os.setuid(order["uid"])
    os.execvpe(order["command"][0], order["command"], order["environment"])


main()
