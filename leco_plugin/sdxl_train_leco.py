"""``accelerate launch -m leco_plugin.sdxl_train_leco FLAGS``: sd-scripts' flags, for SDXL."""

from leco_plugin.commands.main import train_from_flags

if __name__ == "__main__":
    raise SystemExit(train_from_flags(sdxl=True))
