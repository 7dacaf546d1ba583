"""What a LoRA file that the host writes says about LECO and about its network; the host knows neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leco_plugin.hosts.ai_toolkit.settings import HostJob
from leco_plugin.network.metadata import leco_metadata, model_name

_LYCORIS = ("lokr", "loha")


def file_metadata(job: HostJob, process: Any, steps: int) -> dict[str, str]:
    """Metadata of a file after ``steps`` steps, in sd-scripts' terms, strings only, for the host to add to its own.

    ``process`` is the host's process. Alpha is that of the network as it was made, which for the formats that keep no
    alpha is the rank, whatever the job says. Holds no path, user or host name.
    """
    train, model, network = process.train_config, process.model_config, process.network
    return {
        **leco_metadata(job.section.pairs, job.section.leco, job.sampler),
        **_network(network, process.network_config),
        "ss_v2": str(model.arch == "sd2"),
        "ss_v_parameterization": str(bool(model.is_v_pred)),
        "ss_sd_model_name": model_name(str(model.name_or_path_original)),
        "ss_seed": str(process.training_seed),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(train.steps),
        "ss_learning_rate": f"{float(train.lr):g}",
        "ss_lr_scheduler": str(train.lr_scheduler),
        "ss_optimizer": str(train.optimizer),
        "ss_gradient_accumulation_steps": str(train.gradient_accumulation),
        "ss_gradient_checkpointing": str(bool(train.gradient_checkpointing)),
        "ss_max_grad_norm": f"{float(train.max_grad_norm):g}",
        "ss_min_snr_gamma": str(train.min_snr_gamma),
        "ss_noise_offset": f"{float(train.noise_offset):g}",
        "ss_mixed_precision": str(train.dtype),
    }


def _network(network: Any, config: Any) -> Mapping[str, str]:
    kind = str(config.type).lower()
    if kind in _LYCORIS:
        # their ranks differ from layer to layer
        return {"ss_network_module": "lycoris.kohya", "ss_network_args": f'{{"algo": "{kind}"}}'}
    args = "{}"
    if config.conv:
        alpha = config.conv if getattr(network, "peft_format", False) else config.conv_alpha
        args = f'{{"conv_dim": "{config.conv}", "conv_alpha": "{float(alpha):g}"}}'
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(network.lora_dim),
        "ss_network_alpha": f"{float(network.alpha):g}",
        "ss_network_args": args,
    }
