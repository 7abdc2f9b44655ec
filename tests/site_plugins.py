"""Real distributions of a site's own rules, installed by pip in throw-away directories."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

GOOD = '''\
"""What Acme asks."""
from gpucheck.rule import Remedy, Severity, Symptom, known, rule
from gpucheck.site_probe import site_probe


@site_probe(public=["rack"])
def places():
    return {"rack": "r7", "owner": "jane", "free_gib": 3, "is_spare": False, "disk": None}


@rule("ACM001", Severity.WARNING, "The scratch disk is nearly full")
def scratch_is_full(machine):
    """Jobs write their checkpoints there."""
    free = yield from known(machine.site.fact("free_gib"))
    if free is not None and free < 50:
        yield Symptom(saw=f"{free} GiB are free", remedy=Remedy("Remove what nobody needs"))
'''


def install(folder: Path, name: str, source: str, *, group: str = "gpucheck.rules") -> Path:
    """Install a distribution whose module *name* is *source* into a new directory; return that."""
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{group}]\n{name} = {name}\n",
    }
    record = "".join(f"{file},sha256={_hash(text)},{len(text)}\n" for file, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    wheel = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    site = folder / f"site-{name}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-cache-dir", "--target", str(site), str(wheel)],
        check=True,
        timeout=60,
    )
    return site


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
