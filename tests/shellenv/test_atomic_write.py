import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from gpucheck.shellenv import atomic_write, records, startup_file
from gpucheck.usage_error import UsageError

HERE = Path(__file__).parent
OLD = b"umask 022\n" * 3000  # more than a page
NEW = b"export CUDA_HOME=/usr/local/cuda\n" * 2000
is_root = os.geteuid() == 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / ".bashrc"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def write(path: Path, content: bytes | None, backups: Path | None = None) -> None:
    original = atomic_write.read(path)
    atomic_write.replace(original, content, backups=backups or path.parent.parent / "backups")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_bytes_take_the_old_ones_place(file: Path):
    write(file, NEW)

    assert file.read_bytes() == NEW
    assert names(file.parent) == [".bashrc"]


def test_mode_and_times_of_nothing_else_change(file: Path):
    file.chmod(0o640)

    write(file, NEW)

    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(not is_root, reason="only root may give a file away")
def test_the_owner_stays(file: Path):
    os.chown(file, 1234, 2345)

    write(file, NEW)

    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 2345)


def test_extended_attributes_stay(file: Path):
    try:
        os.setxattr(file, "user.note", b"mine\0")
    except OSError:
        pytest.skip("this file system has no extended attributes")

    write(file, NEW)

    assert os.getxattr(file, "user.note") == b"mine\0"


def test_a_link_stays_a_link_and_its_target_gets_the_bytes(file: Path, tmp_path: Path):
    link, second = tmp_path / "link", tmp_path / "second"
    link.symlink_to("home/.bashrc")
    second.symlink_to("link")

    write(second, NEW, tmp_path / "backups")

    assert second.readlink() == Path("link")
    assert link.readlink() == Path("home/.bashrc")
    assert file.read_bytes() == NEW


def test_an_absent_file_is_made_with_its_folders(tmp_path: Path):
    path = tmp_path / "a" / "b" / "gpucheck.fish"

    write(path, NEW, tmp_path / "backups")

    assert path.read_bytes() == NEW
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0


def test_nothing_in_place_of_a_file_removes_it(file: Path):
    write(file, None)

    assert not file.exists()


def test_the_last_ten_backups_stay(file: Path, tmp_path: Path):
    for number in range(13):
        write(file, b"%d\n" % number)

    [folder] = (tmp_path / "backups").iterdir()
    kept = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert kept == [b"%d\n" % number for number in range(2, 12)]
    assert stat.S_IMODE(next(folder.iterdir()).stat().st_mode) == 0o600


def test_writing_what_is_there_already_writes_nothing(file: Path, tmp_path: Path):
    before = file.stat().st_ino

    write(file, OLD)

    assert file.stat().st_ino == before
    assert not (tmp_path / "backups").exists()


def test_a_file_changed_since_it_was_read_is_left_alone(file: Path, tmp_path: Path):
    original = atomic_write.read(file)
    file.write_bytes(b"somebody else's\n")

    with pytest.raises(UsageError, match="changed by somebody"):
        atomic_write.replace(original, NEW, backups=tmp_path / "backups")
    assert file.read_bytes() == b"somebody else's\n"
    assert names(file.parent) == [".bashrc"]


def test_a_file_that_came_or_went_since_is_left_alone(file: Path, tmp_path: Path):
    original = atomic_write.read(file)
    absent = atomic_write.read(tmp_path / "absent")
    file.unlink()
    (tmp_path / "absent").write_bytes(b"new\n")

    with pytest.raises(UsageError, match="changed by somebody"):
        atomic_write.replace(original, NEW, backups=tmp_path / "backups")
    with pytest.raises(UsageError, match="changed by somebody"):
        atomic_write.replace(absent, NEW, backups=tmp_path / "backups")
    assert not file.exists()
    assert (tmp_path / "absent").read_bytes() == b"new\n"


def test_a_killed_writers_leavings_are_swept_up(file: Path):
    (file.parent / ".bashrc.gpucheck-0123456789ab").write_bytes(b"half")

    write(file, NEW)

    assert names(file.parent) == [".bashrc"]


def refused(path: Path, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        write(path, NEW, path.parent / "backups")
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_refused(tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    refused(tmp_path, "is a directory")
    refused(Path("/dev/null"), "no regular file")
    refused(fifo, "no regular file")


def test_a_read_only_file_is_refused(file: Path):
    file.chmod(0o444)

    refused(file, "read-only")


def test_a_file_with_a_second_name_is_refused(file: Path):
    os.link(file, file.parent / "second")

    refused(file, "2 names")


def test_a_loop_of_links_is_refused(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    refused(tmp_path / "a", "link")


def as_nobody(command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    if not is_root or not shutil.which("setpriv"):
        pytest.skip("only root can become somebody else")
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    return subprocess.run([*become, command, *arguments], capture_output=True, timeout=60)


def open_to_all(folder: Path) -> bool:
    """Whether somebody else reaches *folder* and our Python at all."""
    return (
        as_nobody("test", "-x", str(folder)).returncode
        == 0
        == (
            as_nobody(
                sys.executable, "-I", "-c", "import gpucheck.shellenv.atomic_write"
            ).returncode
        )
    )


def test_a_file_of_another_owner_is_refused(tmp_path_factory: pytest.TempPathFactory):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "file").write_bytes(OLD)
        (folder / "file").chmod(0o666)
        (folder / "new").write_bytes(NEW)
        if not open_to_all(folder):
            pytest.skip("nobody cannot reach this Python")

        ended = as_nobody(
            sys.executable,
            str(HERE / "write_once.py"),
            *(str(folder / each) for each in ("file", "new", "backups")),
        )

        assert ended.returncode == 2, ended.stderr
        assert b"belongs to another user" in ended.stdout
        assert (folder / "file").read_bytes() == OLD


def test_of_many_writers_at_once_one_wins_and_none_is_torn(file: Path, tmp_path: Path):
    contents = [b"%d" % number * 50_000 for number in range(8)]
    originals = [atomic_write.read(file) for _ in contents]
    won: list[bytes] = []

    def run(number: int) -> None:
        try:
            atomic_write.replace(originals[number], contents[number], backups=tmp_path / "backups")
        except UsageError:
            return
        won.append(contents[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert won == [file.read_bytes()]
    assert names(file.parent) == [".bashrc"]


# ------------------------------------------------------------ killed, and refused by the system


def traced(
    arguments: list[str], folder: Path, program: str = "write_once.py"
) -> subprocess.CompletedProcess[bytes]:
    """Run *program* on fresh files in *folder* under strace with *arguments*."""
    home = folder / "home"
    home.mkdir(parents=True)
    (home / ".bashrc").write_bytes(OLD)
    (folder / "new").write_bytes(NEW)
    paths = (home / ".bashrc", folder / "new", folder / "backups")
    words = [sys.executable, str(HERE / program), *map(str, paths)]
    return subprocess.run(
        ["strace", "-o", str(folder / "trace"), *arguments, *words],
        capture_output=True,
        env={
            "HOME": str(home),
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONPATH": str(HERE.parents[1]),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        timeout=60,
    )


MEMORY = ("brk", "mmap", "munmap", "mremap", "madvise")  # not the same from one run to the next


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Each system call of the write, as its name and which call of that name in the program."""
    return calls_of("write_once.py", tmp_path_factory.mktemp("traced"))


def calls_of(program: str, folder: Path) -> list[tuple[str, int]]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (make shells)")
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"strace does not work here: {tried.stderr.decode()[-200:]}")
    folder /= "first"
    ended = traced([], folder, program)
    assert ended.returncode == 0, ended.stderr
    seen: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    is_writing = False
    for line in (folder / "trace").read_text().splitlines():
        called = re.match(r"(\w+)\(", line)
        if called is None:
            continue
        seen[called[1]] += 1
        if "/the-write-ends" in line:
            break
        if is_writing and called[1] not in MEMORY:
            found.append((called[1], seen[called[1]]))
        is_writing = is_writing or "/the-write-begins" in line
    assert {"rename", "fsync", "write", "flock"} <= {name for name, _ in found}
    return found


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_system_call_the_file_is_the_old_or_the_new(
    part: int, calls: list[tuple[str, int]], tmp_path: Path
):
    outcomes = set()
    spared = 0
    mine = list(enumerate(calls))[part::4]
    for number, (name, which) in mine:
        folder = tmp_path / str(number)

        ended = traced(["-e", f"inject={name}:signal=KILL:when={which}"], folder)

        assert ended.returncode in (-9, 0), ended.stderr
        spared += ended.returncode == 0  # the program made a call less than at first
        content = (folder / "home" / ".bashrc").read_bytes()
        assert content in (OLD, NEW), f"killed at {name} number {which}"
        outcomes.add(content)
        shutil.rmtree(folder)
    assert OLD in outcomes
    assert spared <= len(mine) // 4  # other tests may write bytecode that the first run lacked


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_error_of_any_system_call_leaves_the_old_or_the_new_and_says_so(
    error: str, part: int, calls: list[tuple[str, int]], tmp_path: Path
):
    can_fail = ["openat", "write", "fsync", "rename", "mkdir"]
    if error != "ENOSPC":
        can_fail += ["read", "fchmod", "newfstatat", "fstat", "lseek", "ftruncate", "close"]
        can_fail += ["fchown", "fsetxattr"]
    chosen = [call for call in calls if call[0] in can_fail]
    for number, (name, which) in list(enumerate(chosen))[part::4]:
        folder = tmp_path / str(number)

        ended = traced(["-e", f"inject={name}:error={error}:when={which}"], folder)

        content = (folder / "home" / ".bashrc").read_bytes()
        where = f"{name} number {which}: {ended.stdout!r} {ended.stderr!r}"
        assert ended.returncode in (0, 2), where
        assert content == (NEW if ended.returncode == 0 else OLD), where
        assert ended.stdout.count(b"\n") == (ended.returncode != 0), where
        shutil.rmtree(folder)


@pytest.mark.skipif(not os.environ.get("GPUCHECK_SOAK"), reason="takes minutes (make soak)")
def test_killed_at_any_system_call_what_undoes_the_block_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written = 0
    calls = calls_of("install_once.py", tmp_path / "traced")
    for number, (name, which) in enumerate(calls):
        folder = tmp_path / str(number)

        traced(["-e", f"inject={name}:signal=KILL:when={which}"], folder, "install_once.py")

        file = folder / "home" / ".bashrc"
        content = file.read_bytes()
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
        assert content == OLD or startup_file.find(content), f"killed at {name} number {which}"
        assert startup_file.uninstall(content, records.load(file)) == OLD, (name, which)
        assert content == OLD or records.load(file), (name, which)
        written += content != OLD
        shutil.rmtree(folder)
    print(f"killed at each of {len(calls)} system calls; {written} times the block was written")
    assert 0 < written < len(calls)


IN_A_SMALL_FILE_SYSTEM = """
import os, sys
from pathlib import Path
from gpucheck.usage_error import UsageError
from gpucheck.shellenv import atomic_write

OLD, NEW = b"old\\n" * 5000, b"new\\n" * 15000
outcomes = set()
for small in ("home", "backups"):
    for pages in range(0, 30, 3):
        for folder in ("home", "backups"):
            os.makedirs(folder, exist_ok=True)
        assert os.system(f"mount -t tmpfs -o size=200k none {small}") == 0
        file = Path("home/.bashrc")
        file.write_bytes(OLD)
        try:
            with open(f"{small}/filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
        except OSError:
            size = os.path.getsize(f"{small}/filler")
            os.truncate(f"{small}/filler", max(0, size - pages * 4096))
        try:
            atomic_write.replace(atomic_write.read(file), NEW, backups=Path("backups"))
            outcome = NEW
        except UsageError as refusal:
            assert "No space left" in str(refusal), refusal
            outcome = OLD
        assert file.read_bytes() == outcome
        assert not list(file.parent.glob(".bashrc.gpucheck-*"))
        outcomes.add((small, outcome))
        os.system(f"umount {small}")
assert len(outcomes) == 4, len(outcomes)
print("fine")
"""


@pytest.mark.namespaces
def test_on_a_full_disk_the_file_stays_whole(tmp_path: Path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("no private mount namespaces here")

    ended = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", IN_A_SMALL_FILE_SYSTEM],
        capture_output=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(HERE.parents[1]), "PATH": os.environ["PATH"]},
        timeout=60,
    )

    assert ended.stdout == b"fine\n", ended.stderr


def test_a_default_acl_of_the_folder_opens_the_new_file_to_nobody(tmp_path: Path):
    setfacl = shutil.which("setfacl")
    if setfacl is None:
        pytest.skip("needs setfacl")
    file = tmp_path / ".bashrc"
    file.write_bytes(b"old\n")
    file.chmod(0o660)
    given = subprocess.run([setfacl, "-d", "-m", "u:1234:rwx", str(tmp_path)], capture_output=True)
    if given.returncode:
        pytest.skip("this file system knows no ACLs")

    atomic_write.replace(atomic_write.read(file), b"new\n", backups=tmp_path / "backups")

    assert "system.posix_acl_access" not in os.listxattr(file)
    assert file.stat().st_mode & 0o777 == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_group_that_the_user_is_not_in_is_let_go_and_reported(
    tmp_path_factory: pytest.TempPathFactory,
):
    folder = tmp_path_factory.mktemp("home")
    for above in folder.parents[:3]:
        above.chmod(0o755)
    file = folder / ".bashrc"
    file.write_bytes(b"old\n")
    file.chmod(0o664)
    os.chown(folder, 1234, 1234)
    os.chown(file, 1234, 4321)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            note = atomic_write.replace(
                atomic_write.read(file), b"new\n", backups=folder / "backups"
            )
            status = 0 if "group 4321 could not be kept" in note else 2
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert file.read_bytes() == b"new\n"
    assert (file.stat().st_gid, file.stat().st_mode & 0o777) == (1234, 0o644)
