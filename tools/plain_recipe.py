"""Times the recipe as everybody writes it beside `gpucheck smoke`, in one run, as a table.

    python -m tools.plain_recipe [DIR] [--gpus 0,1] [--device cpu]

DIR holds the MNIST files. Whole processes, start to exit, in turns; the epochs are what each
program measures itself.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpucheck.payload import mnist

# The recipe as in any tutorial: torchvision reads where it imports, a DataLoader with workers hands
# out batches.
RECIPE = """
import json, os, sys, time, warnings
started = time.perf_counter()
warnings.filterwarnings("ignore")
import torch, torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
folder, variant, device, gpus = sys.argv[1:5]
numbers = [int(part) for part in gpus.split(",") if part]

def idx(name, header):
    with open(os.path.join(folder, name), "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)[header:]

def tensors():
    images = idx("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28).float().div(255)
    return images.sub(0.1307).div(0.3081), idx("train-labels-idx1-ubyte", 8).long()

reader = "own IDX reader"
if variant == "loader":
    try:
        from torchvision import datasets, transforms
        steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        root = os.path.dirname(os.path.dirname(folder))
        data = datasets.MNIST(root, train=True, transform=transforms.Compose(steps))
        data[0]
        reader = "torchvision"
    except (ImportError, RuntimeError):
        data = TensorDataset(*tensors())
    loader = DataLoader(data, batch_size=256, shuffle=True, num_workers=4)
else:
    images, labels = (tensor.to(device) for tensor in tensors())

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
if device == "cuda":
    model = nn.DataParallel(model, device_ids=numbers)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loss_of = nn.CrossEntropyLoss()

def batches():
    if variant == "loader":
        return loader
    order = torch.randperm(len(images)).to(device)
    return zip(images[order].split(256), labels[order].split(256))

def epoch():
    began = time.perf_counter()
    for number, (some, answers) in enumerate(batches()):
        optimizer.zero_grad()
        loss = loss_of(model(some.to(device)), answers.to(device))
        loss.backward()
        optimizer.step()
        if number % 25 == 0:
            loss.item()
    loss.item()
    return time.perf_counter() - began

first = epoch()
verdict_after = time.perf_counter() - started
best = min(epoch() for _ in range(2))
print(json.dumps({"epoch": first, "best": best, "verdict": verdict_after, "reader": reader}))
os._exit(0)
"""
BASE = "import torch; torch.zeros(1){}"


def run(command: list[str]) -> tuple[float, str]:
    """Return how long *command* took, in seconds, and what it printed."""
    began = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if ended.returncode:
        sys.exit(f"{command[:3]} failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return seconds, ended.stdout


def row(name: str, total: float, epoch: float, best: float, rest: str) -> str:
    """Return a line of the table."""
    return f"| {name} | {total:.2f} | {epoch:.2f} | {best:.2f} | {rest} |"


def unpacked(folder: Path, root: Path) -> str:
    """Put the four files, unpacked, where torchvision looks for them, and return that folder."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in mnist.FILES:
        packed = folder / f"{file.name}.gz"
        plain = folder / file.name
        content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
        (raw / file.name).write_bytes(content)
    return str(raw)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", default="0,1")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory() as root:
        folder = unpacked(options.folder, Path(root))
        base, _ = run([python, "-c", BASE.format(".cuda()" if options.device == "cuda" else "")])
        lines = [
            "| | start to verdict, s | first epoch, s | a further epoch, s | |",
            "|---|---|---|---|---|",
            f"| `import torch` and the first call | {base:.2f} | | | |",
        ]
        for variant, name in (
            ("loader", "plain recipe, DataLoader with 4 workers"),
            ("resident", "plain recipe, resident tensors"),
        ):
            _, output = run([python, "-c", RECIPE, folder, variant, options.device, options.gpus])
            reported = json.loads(output)
            lines.append(
                row(
                    name,
                    reported["verdict"],
                    reported["epoch"],
                    reported["best"],
                    reported["reader"],
                )
            )
        command = [python, "-m", "gpucheck", "smoke", "--json", "--data", folder]
        command += ["--gpus", options.gpus, "--device", options.device]
        seconds, output = run(command)
        # As with the plain recipe: the better one of two epochs after the first.
        _, longer = run([*command, "--epochs", "3"])
    training = json.loads(output)["training"]
    phases = training["phases_ms"]
    steady = 60_000 / json.loads(longer)["training"]["images_per_second"]
    reported = ", ".join(f"{name} {spent / 1000:.2f}" for name, spent in phases.items())
    lines.append(row("`gpucheck smoke`", seconds, phases["training"] / 1000, steady, reported))
    steps = (phases["training"] + phases["parity"]) / 1000
    limit = 1.5 * base + steps
    lines += ["", f"target: 1.5 × {base:.2f} s + training steps {steps:.2f} s = {limit:.2f} s; "]
    lines[-1] += f"gpucheck smoke took {seconds:.2f} s"
    print("\n".join(lines))


if __name__ == "__main__":
    main()
