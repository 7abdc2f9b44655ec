"""Programs that run in a child, or in a stranger's Python: standard library, torch and pynvml.

Nothing here imports the rest of gpucheck, whose own dependencies that Python does not have. The
syntax is Python 3.8's. `__main__.py` starts a program, `channel.py` is how it reports.
"""
