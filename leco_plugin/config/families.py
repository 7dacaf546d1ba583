"""What each family of flow models is called: here, in diffusers, in ai-toolkit's jobs and in a LoRA file's metadata.

Names and what the models' own config files tell; without torch, for whoever reads files only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
_BLOCKS = r"(single_)?transformer_blocks\.\d+\.(attn|attn2|ff|ff_context|proj_mlp|proj_out|img_mlp|txt_mlp)\b.*"


@dataclass(frozen=True)
class Distilled:
    """How a distilled model is sampled: what its walks and pictures default to."""

    why: str
    """What was found, in words."""
    steps: int | None = None
    """Its own number of sampler steps; None where it takes as many as others."""
    guidance: float = 1.0
    """Classifier-free guidance: 1 is none."""


@dataclass(frozen=True)
class FlowFamily:
    """One family of flow models by all its names."""

    name: str
    title: str
    stem: str
    """`_class_name` in model_index.json, before `Pipeline`."""
    transformer: str
    """`_class_name` in transformer/config.json."""
    archs: tuple[str, ...]
    """`model.arch` in ai-toolkit."""
    architecture: str
    """`modelspec.architecture` of a LoRA, before `/lora`."""
    since: str
    """The first version of diffusers that the family was seen to work with."""
    steps: int = 0
    """Sampler steps of its step-distilled models; 0 where there are none."""
    embedding: float | None = None
    """Guidance that its guidance-distilled models are usually given as a number; None where there are none."""

    layers: str = _BLOCKS
    """Regular expression of the linears that a LoRA goes on: attention and feed-forward of the blocks."""
    idle: str = ""
    """Regular expression of those among them that change nothing: the text side of the block LAST is read no more."""

    @property
    def pipeline(self) -> str:
        """`_class_name` in model_index.json."""
        return f"{self.stem}Pipeline"


_ROWS = (
    ("z_image", "Z-Image", "ZImage", "ZImageTransformer2DModel", ("zimage",), "z-image", "0.36", 8,
     None, r"layers\.\d+\.(attention|feed_forward)\..*"),
    ("flux", "FLUX.1", "Flux", "FluxTransformer2DModel", ("flux",), "flux-1-dev", "0.31", 4, 3.5),
    ("flux2", "FLUX.2", "Flux2", "Flux2Transformer2DModel", ("flux2",), "flux.2-dev", "0.37", 0, 4.0),
    ("flux2_klein", "FLUX.2 klein", "Flux2Klein", "Flux2Transformer2DModel", ("flux2_klein_4b", "flux2_klein_9b"),
     "flux.2-klein", "0.37", 4),
    ("qwen_image", "Qwen-Image", "QwenImage", "QwenImageTransformer2DModel", ("qwen_image",), "qwen-image", "0.37",
     0, None, _BLOCKS, r"transformer_blocks\.LAST\.(attn\.(add_q_proj|to_add_out)|txt_mlp)\b.*"),
    ("krea2", "Krea 2", "Krea2", "Krea2Transformer2DModel", ("krea2",), "krea-2", "0.39", 8),
    ("chroma", "Chroma", "Chroma", "ChromaTransformer2DModel", ("chroma",), "chroma", "0.34"),
    ("sd3", "Stable Diffusion 3", "StableDiffusion3", "SD3Transformer2DModel", ("sd3",), "stable-diffusion-3",
     "0.31", 4, None, _BLOCKS, r"transformer_blocks\.LAST\.attn\.add_q_proj"),
    ("lumina2", "Lumina 2", "Lumina2", "Lumina2Transformer2DModel", ("lumina2",), "lumina-2", "0.33",
     0, None, r"layers\.\d+\.(attn|feed_forward)\..*"),
    ("auraflow", "AuraFlow", "AuraFlow", "AuraFlowTransformer2DModel", ("auraflow",), "auraflow-v1", "0.34",
     0, None, r"(joint|single)_transformer_blocks\.\d+\.(attn|ff|ff_context)\b.*"),
)  # fmt: skip
FLOW_FAMILIES: Mapping[str, FlowFamily] = {row[0]: FlowFamily(*row) for row in _ROWS}
"""By our own names. sd-scripts' `modelspec.architecture` where it has one, else the name that the models go by."""


def family_of_pipeline(class_name: object) -> FlowFamily | None:
    """The family whose model_index.json names this class."""
    return next((family for family in FLOW_FAMILIES.values() if family.pipeline == class_name), None)


def family_of_transformer(class_name: str) -> FlowFamily | None:
    """A family with a transformer of this class; of two that share it, the first."""
    return next((family for family in FLOW_FAMILIES.values() if family.transformer == class_name), None)


def family_of_arch(arch: str) -> FlowFamily | None:
    """The family that an ai-toolkit job means; what follows a colon (`zimage:turbo`) is its UI's own."""
    return next((family for family in FLOW_FAMILIES.values() if arch.partition(":")[0] in family.archs), None)


def architecture(family: str, *, distilled: bool = False) -> str:
    """`modelspec.architecture` of a LoRA for a model of ``family``, before `/lora`; an unknown one as it is."""
    known = FLOW_FAMILIES.get(family)
    if known is None:
        return family
    # the two whose distilled models have a name of their own in other trainers' files
    own = {"z_image": "z-image-turbo", "flux": "flux-1-schnell"} if distilled else {}
    return own.get(family, known.architecture)


def distilled(
    family: FlowFamily, index: Config, transformer: Config, scheduler: Config, name: str, said: bool | None = None
) -> Distilled | None:
    """How the model with these config files is distilled; None where it is not, or they do not tell.

    ``name`` is what the model is called: some families' turbo models differ in their weights alone. What is ``said``
    of it goes before all that.
    """
    if said is not None:
        return Distilled("the job says so", family.steps or None) if said else None
    if takes_guidance(family, transformer):
        return Distilled("its transformer takes its guidance as a number (guidance_embeds)")
    if not family.steps:
        return None
    if index.get("is_distilled"):
        return Distilled("model_index.json has is_distilled", family.steps)
    if family.name == "flux" and not scheduler.get("use_dynamic_shifting"):
        return Distilled("neither guidance_embeds nor a shift that depends on the size: a schnell", family.steps)
    if family.name == "z_image" and scheduler.get("shift") == _TURBO_SHIFT:
        return Distilled(f"scheduler_config.json has shift {_TURBO_SHIFT:g}: a turbo", family.steps)
    return Distilled("it is called a turbo", family.steps) if "turbo" in name.lower() else None


def takes_guidance(family: FlowFamily, transformer: Config) -> bool:
    """Whether the transformer with this config takes its guidance as a number; FLUX.2-dev's file may not say so."""
    return family.embedding is not None and bool(transformer.get("guidance_embeds", family.name == "flux2"))


_TURBO_SHIFT = 3.0
"""Of Z-Image-Turbo; Z-Image has 6."""
