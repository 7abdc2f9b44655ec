"""The loader model beside the real loader, on generated trees: no difference.

The trees mix all that decides a search: RPATH, RUNPATH, both, LD_LIBRARY_PATH with empty,
relative and missing elements, $ORIGIN and its kin, links, copies under one SONAME, files of
another architecture, glibc-hwcaps subfolders, LD_PRELOAD, missing and damaged files.
"""

import dataclasses
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from elf_files import AARCH64, I386, NODEFLIB, elf

from gpucheck.probes.ld_so import Loaded, Loader, Missing, Process
from gpucheck.probes.ld_so_cache import read_cache
from gpucheck.probes.this_loader import this_loader

INTERPRETER = "/lib64/ld-linux-x86-64.so.2"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not Path(INTERPRETER).exists(),
    reason="needs glibc on x86-64",
)

FOLDERS = ("d0", "d1", "d2", "d3/lib", "d4")
NAMES = tuple(f"lib{letter}.so" for letter in "abcdefgh")
#: libraries that the system has, so that the cache and the default directories are asked too
SYSTEM = ("libm.so.6", "libc.so.6")
TRACE_LINE = re.compile(r"^\t(\S.*?) => (not found|(.*) \(0x[0-9a-f]+\))$", re.MULTILINE)
TRACE_PLAIN = re.compile(r"^\t(\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def random_path(generator: random.Random, root: Path, *, separators: str = ":") -> str:
    """A search path of up to four elements."""
    elements = []
    for _ in range(generator.randint(1, 4)):
        folder = generator.choice(FOLDERS)
        elements.append(
            generator.choice(
                [
                    f"{root}/{folder}",
                    f"{root}/{folder}/",
                    f"{root}//{folder}",
                    folder,
                    f"./{folder}",
                    "$ORIGIN",
                    "${ORIGIN}/" + f"../{folder}",
                    f"$ORIGIN/../{folder}",
                    f"$ORIGINAL/{folder}",
                    "$ORIGIN/../../" + folder,
                    f"{root}/$LIB",
                    f"{root}/" + "${PLATFORM}",
                    f"{root}/nowhere",
                    f"{root}/d0/liba.so",
                    "",
                ]
            )
        )
    text = elements[0]
    for element in elements[1:]:
        text += generator.choice(separators) + element
    return text


def random_object(generator: random.Random, root: Path, name: str, **more: object) -> bytes:
    """An object that needs a few others, and says where to look for them in one way or another."""
    # A program that needs nothing is called "statically linked", and not traced.
    needed = generator.sample(NAMES, generator.choice([0, 0, 1, 1, 2, 3] if name else [1, 2, 3]))
    if generator.random() < 0.15:
        needed.append(generator.choice(SYSTEM))
    if generator.random() < 0.05:
        needed.append("libmissing.so")
    if generator.random() < 0.06:
        folder = generator.choice(FOLDERS)
        needed.append(
            generator.choice([f"{folder}/libb.so", "$ORIGIN/libc.so", f"{root}/{folder}/libd.so"])
        )
    soname = generator.choice([name, name, name, None, generator.choice(NAMES)])
    kind = generator.choice(["", "", "rpath", "rpath", "runpath", "both"])
    return elf(
        soname=soname,
        needed=needed,
        rpath=random_path(generator, root) if kind in ("rpath", "both") else None,
        runpath=random_path(generator, root) if kind in ("runpath", "both") else None,
        # Without libc, the loader gives up on a check of versions, which is not modelled.
        flags_1=NODEFLIB if generator.random() < 0.06 and "libc.so.6" not in needed else 0,
        **more,  # type: ignore[arg-type]
    )


def plant(generator: random.Random, root: Path, *, with_damage: bool) -> dict[str, str]:
    """Fill *root* with libraries, links and a program; return the variables to run it with."""
    loader = this_loader({}, INTERPRETER)
    folders = [*FOLDERS, loader.lib, loader.platform, "."]
    for folder in FOLDERS:
        if generator.random() < 0.25:
            folders.append(f"{folder}/{generator.choice(loader.subfolders[:-1] or ('plain',))}")
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for folder in folders:
        names = [*NAMES, *(n for n in SYSTEM if n != "libc.so.6" and generator.random() < 0.3)]
        for name in generator.sample(names, generator.randint(1, min(5, len(names)))):
            path = root / folder / name
            choice = generator.random()
            if choice < 0.12 and files:
                path.symlink_to(generator.choice(files))
            elif choice < 0.15 and files:
                path.hardlink_to(generator.choice([f for f in files if not f.is_symlink()]))
            elif choice < 0.17:
                path.symlink_to(root / "nothing")
            elif choice < 0.23:
                path.write_bytes(elf(soname=name, machine=generator.choice([AARCH64, I386])))
            elif choice < 0.25 and with_damage:
                path.write_bytes(generator.choice([b"", b"\x7fELF", b"not an object" * 20]))
            elif choice < 0.26 and with_damage:
                path.mkdir()
            else:
                path.write_bytes(random_object(generator, root, name))
                files.append(path)
    (root / "bin").mkdir()
    program = root / "bin" / "program"
    program.write_bytes(random_object(generator, root, "", interpreter=INTERPRETER))
    program.chmod(0o755)
    variables: dict[str, str] = {}
    if generator.random() < 0.7:
        variables["LD_LIBRARY_PATH"] = random_path(generator, root, separators="::;")
    if generator.random() < 0.1:
        variables["LD_LIBRARY_PATH"] = generator.choice(["", ":", ";", "::"])
    if generator.random() < 0.2:
        preloads = [
            generator.choice([*NAMES, f"{root}/d0/liba.so", "d1/libb.so"]) for _ in range(2)
        ]
        variables["LD_PRELOAD"] = generator.choice(" :").join(preloads)
    return variables


def real_trace(program: Path, variables: Mapping[str, str]) -> tuple[list[str], set[str], bool]:
    """What the real loader maps, in its order; what it misses; whether it gave up."""
    ended = subprocess.run(
        [str(program)],
        env={**variables, "LD_TRACE_LOADED_OBJECTS": "1"},
        cwd=program.parent.parent,
        capture_output=True,
        text=True,
    )
    return read_trace(ended.stdout, ended.returncode)


def read_trace(output: str, status: int) -> tuple[list[str], set[str], bool]:
    paths: list[str] = []
    missing: set[str] = set()
    for line in output.splitlines():
        text = f"{line}\n"
        if "linux-vdso" in line:
            continue
        if match := TRACE_LINE.match(text):
            if match[2] == "not found":
                missing.add(match[1])
            else:
                paths.append(match[3])
        elif match := TRACE_PLAIN.match(text):
            paths.append(match[1])
    return paths, missing, status != 0


def modelled(program: Path, loader: Loader) -> tuple[list[str], set[str], bool]:
    process = Process(loader, str(program))
    process.start()
    paths = [thing.path for thing in process.objects[1:]]
    missing = {m.name for m in process.missing if m.path is None}
    return paths, missing, any(m.path is not None for m in process.missing)


def without_interpreter(paths: list[str]) -> list[str]:
    """Paths made whole: the place of the loader itself in the list is its own affair."""
    return [path for path in paths if not path.endswith(INTERPRETER.rpartition("/")[2])]


def assert_same(root: Path, variables: Mapping[str, str]) -> None:
    program = root / "bin" / "program"
    loader = this_loader({**variables, "PWD": str(root)}, INTERPRETER, working_directory=str(root))

    real_paths, real_missing, gave_up = real_trace(program, variables)
    paths, missing, gives_up = modelled(program, loader)

    assert gives_up == gave_up
    if not gave_up:
        assert without_interpreter(paths) == without_interpreter(real_paths)
        assert missing == real_missing


@pytest.mark.parametrize("seed", range(40))
def test_generated_programs_load_what_the_model_says(tmp_path: Path, seed: int):
    for number in range(10):
        generator = random.Random(seed * 1000 + number)
        root = tmp_path / f"t{number}"
        root.mkdir()
        variables = plant(generator, root, with_damage=number % 5 == 0)

        assert_same(root, variables)


# -------------------------------------------------------------------------------------- the cache

#: In a namespace of its own, each tree's cache stands in for the system's while its program is run.
IN_NAMESPACE = """
mount --make-rprivate / || exit 99
while read -r root; do
    mount --bind "$root/cache" /etc/ld.so.cache || exit 99
    (cd "$root" && . ./run >trace 2>errors; echo $? >status)
    umount /etc/ld.so.cache || exit 99
done
"""


@pytest.mark.namespaces
def test_generated_caches_give_what_the_model_says(tmp_path: Path):
    """Directories of a tree in ld.so.cache, glibc-hwcaps subfolders among them."""
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if ldconfig is None or shutil.which("unshare") is None:
        pytest.skip("no ldconfig or unshare here")
    trees: list[tuple[Path, dict[str, str]]] = []
    for number in range(25):
        generator = random.Random(7_000_000 + number)
        root = tmp_path / f"t{number}"
        root.mkdir()
        variables = plant(generator, root, with_damage=False)
        variables.pop("LD_PRELOAD", None)
        if number % 2:
            variables.pop("LD_LIBRARY_PATH", None)
        cached = generator.sample(FOLDERS, 3)
        (root / "conf").write_text("".join(f"{root}/{folder}\n" for folder in cached))
        subprocess.run(
            [ldconfig, "-X", "-f", f"{root}/conf", "-C", f"{root}/cache"],
            check=True,
            capture_output=True,
        )
        words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        run = ["env", "-i", *words, "LD_TRACE_LOADED_OBJECTS=1", "./bin/program"]
        (root / "run").write_text(" ".join(run))
        trees.append((root, variables))

    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", IN_NAMESPACE],
        input="".join(f"{root}\n" for root, _ in trees),
        text=True,
        capture_output=True,
    )
    if ended.returncode != 0:
        pytest.skip(f"no private mount namespaces: {ended.stderr.strip()}")

    from_cache = 0
    for root, variables in trees:
        cache = read_cache((root / "cache").read_bytes())
        loader = this_loader(variables, INTERPRETER, working_directory=str(root))
        loader = dataclasses.replace(loader, cache=cache)
        process = Process(loader, str(root / "bin/program"))
        process.start()
        from_cache += sum(thing.found_via == "ld.so.cache" for thing in process.objects)
        paths, missing, gave_up = read_trace(
            (root / "trace").read_text(), int((root / "status").read_text())
        )
        gives_up = any(m.path is not None for m in process.missing)
        assert gives_up == gave_up, (root / "errors").read_text()
        if gave_up:  # over this system's own libc.so, which is a script for the linker
            continue
        assert without_interpreter([o.path for o in process.objects[1:]]) == without_interpreter(
            paths
        )
        assert {m.name for m in process.missing} == missing
    assert from_cache > 20


# ------------------------------------------------------------------------------------- dlopen

ROOM = "@" * 600  # stands in the templates where a search path will be written
CALLER = r"""
#include <dlfcn.h>
void *open_for_me(const char *name) { return dlopen(name, RTLD_NOW); }
"""
PROGRAM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

static int show(struct dl_phdr_info *info, size_t size, void *data) {
    puts(info->dlpi_name);
    return 0;
}

int main(int count, char **words) {
    void *caller = NULL;
    for (int i = 1; i < count; i++) {
        void *handle;
        if (!strncmp(words[i], "by:", 3)) {
            handle = caller = dlopen(words[i] + 3, RTLD_NOW);
        } else if (caller) {
            void *(*open)(const char *) = (void *(*)(const char *))dlsym(caller, "open_for_me");
            handle = open(words[i]);
        } else {
            handle = dlopen(words[i], RTLD_NOW);
        }
        puts(handle ? "+" : "-");
        if (!handle) fprintf(stderr, "%s\n", dlerror());
    }
    return dl_iterate_phdr(show, NULL);
}
"""


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A program that opens libraries, and a library that opens others, each with RUNPATH room."""
    folder = tmp_path_factory.mktemp("templates")
    for name, source, flags in (("program", PROGRAM, []), ("caller", CALLER, ["-shared", "-fPIC"])):
        subprocess.run(
            ["gcc", "-O1", *flags, "-xc", "-", "-o", name, f"-Wl,-rpath,{ROOM}", "-ldl"],
            input=source.encode(),
            cwd=folder,
            check=True,
        )
    return {name: (folder / name).read_bytes() for name in ("program", "caller")}


def with_search_path(template: bytes, kind: str, text: str) -> bytes:
    """Write a DT_RPATH or DT_RUNPATH into a template; kind "" takes it away."""
    data = template.replace(ROOM.encode(), text.encode().ljust(len(ROOM), b"\0"))
    at = next(
        at
        for at in range(0, len(data) - 16, 8)
        if data[at : at + 8] == (29).to_bytes(8, "little")
        and ROOM
        in template[_strings_at(template) + _word(data, at + 8) :][: len(ROOM)].decode("latin-1")
    )
    tag = {"rpath": 15, "runpath": 29, "": 21}[kind]  # 21 is DT_DEBUG, which a library ignores
    return data[:at] + tag.to_bytes(8, "little") + data[at + 8 :]


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _strings_at(template: bytes) -> int:
    """The offset of the dynamic string table: it holds the room, and starts with a null."""
    header = int(_word(template, 40))
    for number in range(int.from_bytes(template[60:62], "little")):
        section = template[header + 64 * number :][:64]
        if int.from_bytes(section[4:8], "little") == 3 and section[8] & 2:  # SHT_STRTAB, alloc
            return _word(section, 24)
    raise AssertionError("no string table")


@pytest.mark.parametrize("seed", range(25))
def test_generated_dlopens_load_what_the_model_says(
    tmp_path: Path, seed: int, templates: dict[str, bytes]
):
    for number in range(8):
        generator = random.Random(seed * 1000 + number)
        root = tmp_path / f"t{number}"
        root.mkdir()
        variables = plant(generator, root, with_damage=number % 4 == 0)
        variables.pop("LD_PRELOAD", None)
        program = root / "bin" / "opener"
        for path, template in ((program, "program"), (root / "d1" / "caller", "caller")):
            kind = generator.choice(["", "rpath", "runpath"])
            path.write_bytes(
                with_search_path(templates[template], kind, random_path(generator, root))
            )
            path.chmod(0o755)
        words = [
            generator.choice(
                [
                    *NAMES,
                    f"{root}/{generator.choice(FOLDERS)}/{generator.choice(NAMES)}",
                    "d0/liba.so",
                ]
            )
            for _ in range(4)
        ]
        words.insert(generator.randint(0, 3), f"by:{root}/d1/caller")

        ended = subprocess.run(
            [str(program), *words], env=variables, cwd=root, capture_output=True, text=True
        )
        loader = this_loader(variables, INTERPRETER, working_directory=str(root))
        process = Process(loader, str(program))
        process.start()
        caller: Loaded | None = None
        answers = []
        for word in words:
            opened = process.open(word.removeprefix("by:"), caller)
            if word.startswith("by:") and isinstance(opened, Loaded):
                caller = opened
            answers.append("-" if isinstance(opened, Missing) else "+")

        lines = ended.stdout.splitlines()
        assert ended.returncode == 0, ended.stderr
        assert answers == lines[: len(words)], ended.stderr
        paths = [line for line in lines[len(words) :] if line and "linux-vdso" not in line]
        assert without_interpreter([o.path for o in process.objects[1:]]) == without_interpreter(
            paths
        )


# ------------------------------------------------------------------ objects that gcc has made


@pytest.mark.parametrize("seed", range(6))
def test_trees_built_by_gcc_load_what_the_model_says(tmp_path: Path, seed: int):
    generator = random.Random(seed)
    variables = {"LD_LIBRARY_PATH": random_path(generator, tmp_path, separators=":;")}
    built: list[str] = []
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    for name in NAMES[:6]:
        folder = generator.choice(FOLDERS)
        _gcc(generator, tmp_path, f"{folder}/{name}", ["-shared", f"-Wl,-soname,{name}"], built)
        built.append(f"{folder}/{name}")
    (tmp_path / "bin").mkdir()
    _gcc(generator, tmp_path, "bin/program", ["-Wl,-e,0"], built)

    assert_same(tmp_path, variables)


GCC = ("gcc", "-nostdlib", "-Wl,--no-as-needed", "-Wl,--unresolved-symbols=ignore-all")


def _gcc(
    generator: random.Random, root: Path, output: str, flags: list[str], needs: list[str]
) -> None:
    tags = generator.choice(["--enable-new-dtags", "--disable-new-dtags"])
    search = (
        [f"-Wl,{tags},-rpath,{random_path(generator, root)}"] if generator.random() < 0.7 else []
    )
    needed = generator.sample(needs, min(len(needs), generator.randint(1, 3)))
    subprocess.run(
        [*GCC, *flags, *search, "-o", output, "-xc", "-", "-xnone", *needed],
        input=b"",
        cwd=root,
        check=True,
    )
