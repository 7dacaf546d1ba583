"""``accelerate launch -m leco_plugin.train_leco FLAGS``: sd-scripts' flags, for Stable Diffusion 1.x and 2.x."""

from leco_plugin.commands.main import train_from_flags

if __name__ == "__main__":
    raise SystemExit(train_from_flags(sdxl=False))
