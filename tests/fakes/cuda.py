"""A fake libcuda.so.1 for tests: built with gcc, and told by the environment what to answer.

`FAKE_CODE=803` is what cuInit returns; `FAKE_CUDA=cuInit=hang` (or crash, exit, flood) is what it
does instead (`sleep` answers after FAKE_SECONDS); `FAKE_COUNT=2` is the number of devices. Each
cuInit appends a byte to the file that FAKE_CALLS names.
"""

import os
import subprocess
from pathlib import Path

SOURCE = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void act(const char *call) {
    const char *wish = getenv("FAKE_CUDA");
    if (!wish || strncmp(wish, call, strlen(call)) != 0) return;
    wish += strlen(call) + 1;
    if (!strcmp(wish, "hang")) for (;;) pause();
    if (!strcmp(wish, "crash")) *(volatile int *)0 = 1;
    if (!strcmp(wish, "exit")) _exit(3);
    if (!strcmp(wish, "sleep")) usleep((unsigned)(1e6 * atof(getenv("FAKE_SECONDS"))));
    if (!strcmp(wish, "flood")) {
        char block[65536];
        memset(block, 'x', sizeof block);
        for (int i = 0; i < 512; i++) write(1 + i % 2, block, sizeof block);
    }
}
static int number(const char *name, int usual) {
    return getenv(name) ? atoi(getenv(name)) : usual;
}
int cuInit(unsigned flags) {
    const char *calls = getenv("FAKE_CALLS");
    if (calls) write(open(calls, O_WRONLY | O_APPEND | O_CREAT, 0600), "i", 1);
    act("cuInit");
    return number("FAKE_CODE", 0);
}
int cuDriverGetVersion(int *version) {
    act("cuDriverGetVersion");
    *version = number("FAKE_VERSION", 13000);
    return 0;
}
int cuDeviceGetCount(int *count) {
    act("cuDeviceGetCount");
    *count = number("FAKE_COUNT", 2);
    return 0;
}
"""


def build(library: Path) -> Path:
    """Compile the fake to *library*, whole at once for whoever looks at it from beside."""
    source = library.with_suffix(f".{os.getpid()}.c")
    unfinished = library.with_suffix(f".{os.getpid()}.so")
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", unfinished, source],
        check=True,
    )
    source.unlink()
    unfinished.rename(library)
    return library
