"""The families of flow models by all their names."""

from pathlib import Path

from leco_plugin.config.defaults import ROWS
from leco_plugin.config.families import FLOW_FAMILIES, architecture, distilled, family_of_arch, family_of_pipeline

FLUX, Z_IMAGE, KREA2, SD3 = (FLOW_FAMILIES[name] for name in ("flux", "z_image", "krea2", "sd3"))


def test_a_family_is_found_by_its_pipeline_and_by_its_name_in_ai_toolkit():
    """Names of ai-toolkit's UI after a colon belong to the same family."""
    assert family_of_pipeline("ZImagePipeline") is Z_IMAGE
    assert family_of_arch("zimage:turbo") is Z_IMAGE
    assert family_of_arch("flux2_klein_9b") is FLOW_FAMILIES["flux2_klein"]
    assert family_of_arch("sdxl") is None
    assert family_of_pipeline("StableDiffusionXLPipeline") is None


def test_no_two_families_share_a_name():
    """Every name leads to one family only; the transformer alone is shared by FLUX.2's two."""
    for names in ("pipeline", "architecture", "title"):
        assert len({getattr(family, names) for family in FLOW_FAMILIES.values()}) == len(FLOW_FAMILIES)
    archs = [arch for family in FLOW_FAMILIES.values() for arch in family.archs]
    assert len(archs) == len(set(archs))


def test_the_config_files_tell_what_is_distilled():
    """FLUX.1-dev by its embedding, schnell by having neither, turbos by their index, shift or name."""
    dynamic, static = {"use_dynamic_shifting": True}, {"shift": 1.0}
    assert distilled(FLUX, {}, {"guidance_embeds": True}, dynamic, "dev").steps is None
    assert distilled(FLUX, {}, {"guidance_embeds": False}, static, "schnell").steps == 4
    assert distilled(FLOW_FAMILIES["flux2"], {}, {}, dynamic, "dev") is not None, "its config need not say so"
    assert distilled(FLOW_FAMILIES["flux2_klein"], {}, {}, dynamic, "base") is None
    assert distilled(FLUX, {}, {"guidance_embeds": False}, dynamic, "de-distilled") is None
    assert distilled(Z_IMAGE, {}, {}, {"shift": 3.0}, "z").steps == 8
    assert distilled(Z_IMAGE, {}, {}, {"shift": 6.0}, "z") is None
    assert distilled(KREA2, {"is_distilled": True}, {}, dynamic, "k").steps == 8
    assert distilled(SD3, {}, {}, {"shift": 3.0}, "stable-diffusion-3.5-large-turbo").steps == 4
    assert distilled(SD3, {}, {}, {"shift": 3.0}, "stable-diffusion-3.5-large") is None


def test_a_lora_says_what_it_is_for():
    """A plugin's family is called what the plugin calls it."""
    assert architecture("flux") == "flux-1-dev"
    assert architecture("flux", distilled=True) == "flux-1-schnell"
    assert architecture("z_image", distilled=True) == "z-image-turbo"
    assert architecture("somebody's own") == "somebody's own"


def test_the_page_of_models_tells_what_a_job_gets():
    """docs/models.md: the first diffusers of each family, and its walks, of distilled models too."""
    lines = Path(__file__).parents[2].joinpath("docs", "models.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    start = next(number for number, row in enumerate(rows) if row[0] == "z_image")
    table = rows[start : start + len(FLOW_FAMILIES) + sum(family.steps > 0 for family in FLOW_FAMILIES.values())]
    wanted = []
    for name, family in FLOW_FAMILIES.items():
        numbered = distilled(family, {}, {"guidance_embeds": True}, {"use_dynamic_shifting": True}, "")
        guidance = f"no guidance, embedding {family.embedding:g}" if numbered else f"guidance {ROWS[name].guidance:g}"
        wanted.append([name, family.since, f"{ROWS[name].walk} steps, {guidance}"])
        wanted += [["", "", f"{family.steps} steps, no guidance"]] if family.steps else []
    assert [[row[0], row[2], row[3]] for row in table] == wanted
