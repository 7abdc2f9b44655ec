"""Breaks a smoke training on purpose, for the tests of gpucheck alone.

The child reads GPUCHECK_TEST_FAULT: "NAME" or "NAME:NUMBER" or "NAME:NUMBER@RANK". The number is
a step, or a replica, or a GPU.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from gpucheck.workloads import training
from gpucheck.workloads.plan import Plan

Tell = Callable[..., None]


def arrange(fault: str, plan: Plan, emit: Tell) -> Tell:
    """Prepare the fault that *fault* names, and return what to tell with."""
    text, _, rank = fault.partition("@")
    name, _, number = text.partition(":")
    if rank and int(rank) != plan.rank:
        return emit
    if name in _IN_A_STEP:
        return _at_step(int(number), _IN_A_STEP[name], emit)
    if name == "zero replica":
        _spoil(int(number), lambda scores: scores * 0)
    elif name == "nan":
        return _spoil_step(int(number), lambda scores: scores / 0 * 0, emit)
    elif name == "nan gradient":
        return _spoil_step(int(number), _with_nan_gradient, emit)
    elif name == "flipped bit":
        _flip_a_bit(int(number))
    elif name == "hang in copies":
        training.copy = lambda *_: time.sleep(3600)
    elif name == "wrong gpu":
        _spoil_alone(int(number))
    else:
        raise ValueError(f"unknown fault {fault}")
    return emit


def _at_step(step: int, act: Callable[[], object], emit: Tell) -> Tell:
    def telling(event: str, **facts: object) -> None:
        emit(event, **facts)
        if event == "step" and facts["step"] == step:
            act()

    return telling


def _hang() -> None:
    time.sleep(3600)


def _hang_on_gpu() -> None:
    torch.cuda._sleep(1 << 62)  # a kernel that spins


def _out_of_memory() -> None:
    if torch.cuda.is_available():
        torch.empty(1 << 50, device="cuda")
    torch.empty(1 << 60, dtype=torch.uint8)


_IN_A_STEP: dict[str, Callable[[], object]] = {
    "hang": _hang,
    "hang on gpu": _hang_on_gpu,
    "segv": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "out of memory": _out_of_memory,
    "leave": lambda: os._exit(7),
    "raise": lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: an illegal memory access")),
}


def _spoil(replica: int, change: Callable[[Any], Any]) -> None:
    """Change the scores of one replica: by its GPU, or on the CPU by its turn."""
    forward = training.Classifier.forward
    turn = [0]

    def spoiled(self: training.Classifier, images: torch.Tensor) -> torch.Tensor:
        scores = forward(self, images)
        if not self.training or len(images) > 128:
            return scores
        if scores.device.index is None:
            turn[0] += 1
            mine = (turn[0] - 1) % 4 == replica
        else:
            mine = scores.device.index == replica
        return change(scores) if mine else scores

    training.Classifier.forward = spoiled  # type: ignore[method-assign]


def _spoil_alone(gpu: int) -> None:
    """Let one GPU compute wrongly, in whatever it takes part."""
    forward = training.Classifier.forward

    def spoiled(self: training.Classifier, images: torch.Tensor) -> torch.Tensor:
        scores = forward(self, images)
        return scores * 1.01 if scores.device.index == gpu else scores

    training.Classifier.forward = spoiled  # type: ignore[method-assign]


def _with_nan_gradient(scores: torch.Tensor) -> torch.Tensor:
    if scores.requires_grad:
        scores.register_hook(lambda gradient: gradient * float("nan"))
    return scores


def _spoil_step(step: int, change: Callable[[Any], Any], emit: Tell) -> Tell:
    """Change the scores of one step of the training, but not of the trainings beside it."""
    forward = training.Classifier.forward
    now, phase = [0], [""]

    def spoiled(self: training.Classifier, images: torch.Tensor) -> torch.Tensor:
        scores = forward(self, images)
        return change(scores) if now[0] == step else scores

    training.Classifier.forward = spoiled  # type: ignore[method-assign]

    def telling(event: str, **facts: object) -> None:
        if event == "step" and phase[0] == "training":
            now[0] = int(str(facts["step"]))
        elif event == "phase":
            now[0] = 0
            phase[0] = str(facts["name"])
        emit(event, **facts)

    return telling


def _flip_a_bit(target: int) -> None:
    """Flip one bit of what is copied to one GPU (on the CPU: in every copy)."""
    copy = training.copy

    def flipping(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        copied = copy(tensor, device)
        if device.index in (None, target) and len(copied) > 1000:
            copied[1000] ^= 4
        return copied

    training.copy = flipping  # type: ignore[assignment]
