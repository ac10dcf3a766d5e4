"""The fast path with products of 16-bit numbers, for measurements: the course's own keeps 32."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from pixels_to_resnet.fast_path import Call
from pixels_to_resnet.fast_ten import SplitTrainer


class HalfTrainer(SplitTrainer):
    """The same with the two products of the common pixels in bfloat16. Weights, list, and everything else keep their 32 bits."""

    def held(self, n: int) -> tuple[torch.Tensor, ...]:
        """For batches of `n` images: pixels, weights, what the layer gives and its slope, and the gradient."""
        kept, (k, m) = self.__dict__.setdefault("halves", {}), self.matrices[0].shape
        if n not in kept:
            kept[n] = tuple(torch.empty(shape, dtype=torch.bfloat16) for shape in ((n, k), (k, m), (n, m), (k, m)))
        return kept[n]

    def forward(self, number: int, rows: torch.Tensor, activations: Sequence[torch.Tensor]) -> list[Call]:
        pixels, weights, given, _ = self.held(len(rows))
        product = [partial(pixels.copy_, rows), partial(weights.copy_, self.matrices[0]), partial(torch.mm, pixels, weights, out=given)]
        return [*product, partial(activations[1].copy_, given), *super().forward(number, rows, activations)[2:]]

    def backward(self, number: int, activations: Sequence[torch.Tensor], slopes: Sequence[torch.Tensor]) -> list[Call]:
        calls, (pixels, _, slope, gradient) = super().backward(number, activations, slopes), self.held(len(slopes[0]))
        at = len(calls) - (2 if len(self.rare) else 1)
        step = partial(self.matrices[0].add_, gradient, alpha=-self.learning_rate / len(slope) / 255**2)
        calls[at : at + 1] = [partial(slope.copy_, slopes[0]), partial(torch.mm, pixels.t(), slope, out=gradient), step]
        return calls
