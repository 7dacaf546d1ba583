"""diffusers' UNet2DConditionModel, layer by layer, from its config. Source: diffusers, models/unets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leco_plugin.estimate.layers import Entry, Keep, Layer, Model, Norm, Unit

_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 1280,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "use_linear_projection": False,
    "addition_embed_type": None,
}
_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
_UNUSUAL = ("dual_cross_attention", "class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


def unet_model(config: Mapping[str, Any], height: int, width: int, tokens: int) -> Model | None:
    """The UNet of ``config`` on one row of ``height`` x ``width`` latents; None for one of an unusual make."""
    known = {**_DEFAULTS, **config}
    kinds = {*known["down_block_types"], *known["up_block_types"]}
    sizes = [known[name] for name in ("layers_per_block", "cross_attention_dim")]
    if kinds - _BLOCKS or any(known.get(name) for name in _UNUSUAL) or not all(isinstance(n, int) for n in sizes):
        return None
    if known["mid_block_type"] != "UNetMidBlock2DCrossAttn" or known["addition_embed_type"] not in (None, "text_time"):
        return None
    return Model(list(_Builder(known, tokens).units(height, width)))


class _Builder:
    """Walks the config as the UNet walks its blocks."""

    def __init__(self, config: Mapping[str, Any], tokens: int) -> None:
        self._config, self._tokens = config, tokens
        self._widths: Sequence[int] = config["block_out_channels"]
        self._depth, self._text = config["layers_per_block"], config["cross_attention_dim"]
        self._skips: list[tuple[int, int]] = []
        self._held = 0

    def units(self, height: int, width: int) -> Iterator[Unit]:
        """Every unit in the order it is computed."""
        pixels, first = height * width, self._widths[0]
        yield self._embeddings(pixels)
        self._leave(first, pixels)
        for level, kind in enumerate(self._config["down_block_types"]):
            last = level == len(self._widths) - 1
            smaller = -(-height // 2), -(-width // 2)
            yield from self._down(level, kind, height * width, 0 if last else smaller[0] * smaller[1])
            height, width = (height, width) if last else smaller
        yield from self._middle(height * width)
        for level, kind in enumerate(self._config["up_block_types"]):
            yield from self._up(level, kind)
        out = Layer("conv_out", first, self._config["out_channels"], (pixels, pixels), 3, convolution=True)
        norms = [Norm(first * pixels, first), Norm(first * pixels)]
        yield Unit([*norms, out], first * pixels, working=(first * pixels, 2 * first * pixels))

    def _embeddings(self, pixels: int) -> Unit:
        config, first = self._config, self._widths[0]
        time = 4 * first
        layers = [
            Layer("time_embedding.linear_1", first, time, (1, 1)),
            Layer("time_embedding.linear_2", time, time, (1, 1)),
        ]
        if config["addition_embed_type"] == "text_time":
            added = config["projection_class_embeddings_input_dim"]
            layers += [
                Layer("add_embedding.linear_1", added, time, (1, 1)),
                Layer("add_embedding.linear_2", time, time, (1, 1)),
            ]
        layers.append(Layer("conv_in", config["in_channels"], first, (pixels, pixels), 3))
        return Unit(layers, config["in_channels"] * pixels)

    def _leave(self, channels: int, pixels: int) -> None:
        """One output that the way up takes in again."""
        self._skips.append((channels, pixels))
        self._held += channels * pixels

    def _down(self, level: int, kind: str, pixels: int, smaller: int) -> Iterator[Unit]:
        name, width = f"down_blocks.{level}", self._widths[level]
        for number in range(self._depth):
            before = self._skips[-1][0]
            yield self._resnet(f"{name}.resnets.{number}", before, width, pixels)
            if kind.startswith("CrossAttn"):
                yield from self._transformer(f"{name}.attentions.{number}", level, number, pixels)
            self._leave(width, pixels)
        if smaller:
            yield self._resample(f"{name}.downsamplers.0.conv", width, pixels, smaller)
            self._leave(width, smaller)

    def _middle(self, pixels: int) -> Iterator[Unit]:
        width = self._widths[-1]
        yield self._resnet("mid_block.resnets.0", width, width, pixels)
        yield from self._transformer("mid_block.attentions.0", len(self._widths) - 1, 0, pixels)
        yield self._resnet("mid_block.resnets.1", width, width, pixels)

    def _up(self, number: int, kind: str) -> Iterator[Unit]:
        level = len(self._widths) - 1 - number
        name, width = f"up_blocks.{number}", self._widths[level]
        before = self._widths[min(level + 1, len(self._widths) - 1)]
        taken = [self._skips.pop() for _ in range(self._depth + 1)]
        coming = before * taken[0][1]
        self._held += coming
        for turn, (skip, pixels) in enumerate(taken):
            yield self._resnet(f"{name}.resnets.{turn}", before + skip, width, pixels)
            if kind.startswith("CrossAttn"):
                yield from self._transformer(f"{name}.attentions.{turn}", level, turn, pixels)
            before = width
        # the block's skips are let go of together
        self._held -= coming + sum(skip * pixels for skip, pixels in taken)
        if level:
            larger = self._skips[-1][1]
            yield self._resample(f"{name}.upsamplers.0.conv", width, larger, larger)

    def _resnet(self, name: str, before: int, width: int, pixels: int) -> Unit:
        same, time = (pixels, pixels), 4 * self._widths[0]
        entries: list[Entry] = [
            Norm(before * pixels, before),
            Norm(before * pixels),
            Layer(f"{name}.conv1", before, width, same, 3, adaptable="conv", convolution=True),
            Layer(f"{name}.time_emb_proj", time, width, (1, 1), adaptable="resnet"),
            Norm(width * pixels, width),
            Norm(width * pixels),
            Layer(f"{name}.conv2", width, width, same, 3, adaptable="conv", convolution=True),
        ]
        if before != width:
            entries.append(
                Layer(f"{name}.conv_shortcut", before, width, same, adaptable="resnet", shared=True, convolution=True)
            )
        widest = max((before, 2 * before), (before + width, 2 * width), key=sum)
        return Unit(entries, before * pixels, True, self._held, (widest[0] * pixels, widest[1] * pixels))

    def _resample(self, name: str, width: int, before: int, after: int) -> Unit:
        layer = Layer(name, width, width, (before, after), 3, adaptable="conv", convolution=True)
        return Unit([layer], width * before, held=self._held, working=(width * (before + after), 0))

    def _transformer(self, name: str, level: int, number: int, pixels: int) -> Iterator[Unit]:
        width, same = self._widths[level], (pixels, pixels)
        depth = self._config["transformer_layers_per_block"]
        depth = depth if isinstance(depth, int) else depth[level]
        # a model may have another depth for each of a block's transformers
        depth = depth if isinstance(depth, int) else depth[number]
        held, inside = self._held + width * pixels, width * pixels
        convolution = not self._config["use_linear_projection"]
        enter = Layer(f"{name}.proj_in", width, width, same, adaptable="linear", convolution=convolution)
        yield Unit([Norm(inside, width), enter], inside, held=self._held, working=(2 * inside, 2 * inside))
        for block in range(depth):
            yield self._block(f"{name}.transformer_blocks.{block}", width, pixels, held)
        leave = Layer(f"{name}.proj_out", width, width, same, adaptable="linear", convolution=convolution)
        yield Unit([leave], inside, held=held, working=(3 * inside, 0))

    def _block(self, name: str, width: int, pixels: int, held: int) -> Unit:
        inside, same = width * pixels, (pixels, pixels)
        entries = [
            Norm(inside, width),
            *self._attention(f"{name}.attn1", width, width, pixels, pixels),
            Norm(inside, width),
            *self._attention(f"{name}.attn2", width, self._text, pixels, self._tokens),
            Norm(inside, width),
            Layer(f"{name}.ff.net.0.proj", width, 8 * width, same, adaptable="linear"),
            Keep(12 * inside),
            Layer(f"{name}.ff.net.2", 4 * width, width, same, adaptable="linear"),
        ]
        # the wide layer's output three times: with the LoRA's, scaled, and added; and what the block's callers hold
        return Unit(entries, inside, True, held, (27 * inside, inside))

    def _attention(self, name: str, width: int, source: int, pixels: int, others: int) -> Iterator[Layer | Keep]:
        yield Layer(f"{name}.to_q", width, width, (pixels, pixels), bias=False, adaptable="linear")
        for part in ("to_k", "to_v"):
            yield Layer(f"{name}.{part}", source, width, (others, others), bias=False, adaptable="linear", shared=True)
        flops = 4 * pixels * others * width
        yield Keep(2 * width * (pixels + others), flops)
        yield Layer(f"{name}.to_out.0", width, width, (pixels, pixels), adaptable="linear", shared=True)
