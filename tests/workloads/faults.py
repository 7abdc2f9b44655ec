"""Breaks a smoke training on purpose: what `faulty_python` slips into `payload/training.py`.

GPUCHECK_TEST_FAULT is "NAME", "NAME:NUMBER" or "NAME:NUMBER@RANK". The number is a batch, or a
replica, or a GPU.
"""

# It runs in the names of the module training: Classifier, copy, torch and time are that module's.
# ruff: noqa: F821, PLW0603
# mypy: disable-error-code="name-defined, import-not-found"

import ctypes
import json
import os
import signal
import sys

from gpucheck_payload import channel


def at_batch(wanted, act):
    emit = channel.emit

    def emitting(tag, **facts):
        emit(tag, **facts)
        if tag == "batch" and facts["number"] == wanted:
            act()

    channel.emit = emitting


def _hang():
    time.sleep(3600)


def hang_on_gpu():
    torch.cuda._sleep(1 << 62)  # a kernel that spins


def run_out_of_memory():
    if torch.cuda.is_available():
        torch.empty(1 << 50, device="cuda")
    torch.empty(1 << 60, dtype=torch.uint8)


def raise_an_error():
    raise RuntimeError("CUDA error: an illegal memory access")


IN_A_BATCH = {
    "hang": _hang,
    "hang on gpu": hang_on_gpu,
    "segv": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "out of memory": run_out_of_memory,
    "leave": lambda: os._exit(7),
    "raise": raise_an_error,
}


def spoil_replica(replica, change):
    """Change the scores of one replica: by its GPU, or on the CPU by its turn."""
    forward, turn = Classifier.forward, [0]

    def spoiled(self, images):
        scores = forward(self, images)
        if not self.training or len(images) > 128:
            return scores
        if scores.device.index is None:
            turn[0] += 1
            mine = (turn[0] - 1) % 4 == replica
        else:
            mine = scores.device.index == replica
        return change(scores) if mine else scores

    Classifier.forward = spoiled


def spoil_gpu(gpu):
    """Let one GPU compute wrongly, in whatever it takes part."""
    forward = Classifier.forward

    def spoiled(self, images):
        scores = forward(self, images)
        return scores * 1.01 if scores.device.index == gpu else scores

    Classifier.forward = spoiled


def with_nan_gradient(scores):
    if scores.requires_grad:
        scores.register_hook(lambda gradient: gradient * float("nan"))
    return scores


def spoil_batch(wanted, change):
    """Change the scores of one batch of the training, but not of the trainings next to it."""
    forward, emit, now, phase = Classifier.forward, channel.emit, [0], [""]

    def spoiled(self, images):
        scores = forward(self, images)
        return change(scores) if now[0] == wanted else scores

    def emitting(tag, **facts):
        if tag == "batch" and phase[0] == "training":
            now[0] = facts["number"]
        elif tag == "phase":
            now[0], phase[0] = 0, facts["name"]
        emit(tag, **facts)

    Classifier.forward = spoiled
    channel.emit = emitting


def flip_a_bit(target):
    """Flip one bit of what is copied to one GPU (on the CPU: in every copy)."""
    global copy
    faithful = copy

    def flipping(tensor, device):
        copied = faithful(tensor, device)
        if device.index in (None, target) and len(copied) > 1000:
            copied[1000] ^= 4
        return copied

    copy = flipping


def hang_in_copies():
    global copy
    copy = lambda *_: time.sleep(3600)  # noqa: E731


def arrange(fault, work):
    text, _, rank = fault.partition("@")
    name, _, number = text.partition(":")
    if rank and int(rank) != work["rank"]:
        return
    if name in IN_A_BATCH:
        at_batch(int(number), IN_A_BATCH[name])
    elif name == "zero replica":
        spoil_replica(int(number), lambda scores: scores * 0)
    elif name == "nan":
        spoil_batch(int(number), lambda scores: scores / 0 * 0)
    elif name == "nan gradient":
        spoil_batch(int(number), with_nan_gradient)
    elif name == "flipped bit":
        flip_a_bit(int(number))
    elif name == "hang in copies":
        hang_in_copies()
    elif name == "wrong gpu":
        spoil_gpu(int(number))
    else:
        raise ValueError(f"unknown fault {fault}")


if "GPUCHECK_TEST_FAULT" in os.environ:
    arrange(os.environ["GPUCHECK_TEST_FAULT"], json.loads(sys.argv[-1]))
