"""Model batches: which prompt, at which LoRA strength, on the latents of which walk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leco_plugin.contracts import Denoiser, Network, Sampler, TextTable
from leco_plugin.core.walk import Walk


@dataclass(frozen=True)
class Row:
    """One prompt at one LoRA strength on the latents of one walk; B rows of the model's batch."""

    walk: int
    prompt: int
    multiplier: float

    @property
    def base(self) -> Row:
        """The same without the LoRA."""
        return Row(self.walk, self.prompt, 0.0)


class Samplers:
    """The samplers of a run's walks, ``steps`` steps each; one is made for every size that walks have."""

    def __init__(self, denoiser: Denoiser, name: str, steps: int) -> None:
        self._denoiser, self._name, self._steps = denoiser, name, steps
        self._made: dict[tuple[int, int, int], Sampler] = {}

    def fresh(self, shape: tuple[int, int, int]) -> Sampler:
        """A sampler without history for latents of this shape (C, h, w)."""
        if shape not in self._made:
            self._made[shape] = self._denoiser.sampler(self._name, self._steps, shape)
        return self._made[shape].fresh()


@dataclass(frozen=True)
class Model:
    """The denoiser, the LoRA on it, and the prompts that it can be asked with."""

    denoiser: Denoiser
    network: Network
    table: TextTable

    def predict(self, walks: Sequence[Walk], rows: Sequence[Row]) -> Tensor:
        """Predictions (R, C, h, w) of ``rows`` one after the other, in ONE call, with the multiplier as it is set."""
        samples = [walks[row.walk].samples for row in rows]
        prompts = [row.prompt for row, count in zip(rows, samples, strict=True) for _ in range(count)]
        inputs = {index: walks[index].model_input for index in {row.walk for row in rows}}
        timesteps = [walks[row.walk].timestep.expand(count) for row, count in zip(rows, samples, strict=True)]
        sizes = [walks[row.walk].sizes.expand(count, -1) for row, count in zip(rows, samples, strict=True)]
        latents = torch.cat([inputs[row.walk] for row in rows])
        text = self.table.rows(prompts)
        return self.denoiser.predict(latents, torch.cat(timesteps), text, torch.cat(sizes))

    def multipliers(self, walks: Sequence[Walk], rows: Sequence[Row]) -> float | list[float]:
        """What to set the network to for ``rows``: one number per row of the batch, or one for all where it must."""
        if not self.network.takes_rows:
            return rows[0].multiplier
        return [row.multiplier for row in rows for _ in range(walks[row.walk].samples)]

    @torch.no_grad()
    def predict_distinct(self, walks: Sequence[Walk], rows: Iterable[Row]) -> dict[Row, Tensor]:
        """Prediction (B, C, h, w) of every distinct row, without gradient; equal rows are computed once."""
        answers: dict[Row, Tensor] = {}
        for batch in self.batches(walks, rows):
            with self.network.multiplier(self.multipliers(walks, batch)):
                predictions = self.predict(walks, batch)
            answers.update(zip(batch, split_rows(predictions, walks, batch), strict=True))
        return answers

    def batches(self, walks: Sequence[Walk], rows: Iterable[Row]) -> list[list[Row]]:
        """Distinct rows by the call they fit in: of one latent shape, and of one multiplier where the network needs it.

        Usually that is one call for all. Rows without the LoRA come first: what acts on the others alone takes them in
        one piece.
        """
        calls: dict[tuple[torch.Size, float | None], list[Row]] = {}
        for row in sorted(dict.fromkeys(rows), key=lambda row: row.multiplier != 0.0):
            multiplier = None if self.network.takes_rows else row.multiplier
            calls.setdefault((walks[row.walk].latents.shape[1:], multiplier), []).append(row)
        return list(calls.values())


def split_rows(predictions: Tensor, walks: Sequence[Walk], rows: Sequence[Row]) -> tuple[Tensor, ...]:
    """Predictions (R, C, h, w) of a batch -> one (B, C, h, w) for each of ``rows``."""
    return torch.split(predictions, [walks[row.walk].samples for row in rows])
