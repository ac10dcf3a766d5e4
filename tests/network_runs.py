"""A process that trains both networks a few steps, alone or as one of several: `python network_runs.py FOLDER`, with the variables of torchrun.

Writes all that the steps change into FOLDER/NETWORK-RANK-of-SIZE.pt.
"""
from __future__ import annotations

import sys
from pathlib import Path

import torch

from pixels_to_resnet.fast_resnet import ResNet18Trainer
from pixels_to_resnet.network_steps import NetworkTrainer
from pixels_to_resnet.processes import joined, rank, world_size
from pixels_to_resnet.small_net import Recipe, SmallNetTrainer

FLOAT, CPU = torch.float32, torch.device("cpu")


def trainers(device: torch.device = CPU, dtype: torch.dtype = FLOAT, seed: int = 0) -> dict[str, NetworkTrainer]:
    """Trainers of both networks for random images, 13 in a batch, which two processes cannot share evenly."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (30, 28, 28), generator=generator).to(torch.uint8).to(device)
    targets = (torch.arange(30) % 10).to(device)
    recipe = Recipe(epochs=1.5, batch_size=13, reach=2)
    return {
        "small_net": SmallNetTrainer(images, targets, recipe, seed, dtype),
        "resnet18": ResNet18Trainer(images, targets, range(10), 4, seed, learning_rate=1e-4, batch_size=13, dtype=dtype),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined(CPU):
        for name, trainer in trainers().items():
            trainer.train()
            torch.save(trainer.steps.state(), folder / f"{name}-{rank()}-of-{world_size()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
