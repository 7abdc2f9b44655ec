"""Replaces a file by what a second one holds: `write_once.py FILE NEW BACKUPS`, under strace."""

import os
import sys
from pathlib import Path

from gpucheck.shellenv import atomic_write
from gpucheck.usage_error import UsageError

file, new, backups = (Path(argument) for argument in sys.argv[1:])
content = new.read_bytes()
os.access("/the-write-begins", os.F_OK)
try:
    atomic_write.replace(atomic_write.read(file), content, backups=backups)
except UsageError as usage_error:
    print(usage_error, flush=True)
    os._exit(2)
os.access("/the-write-ends", os.F_OK)
os._exit(0)
