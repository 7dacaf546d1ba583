"""The table of sd-scripts' flags: what each sets in a job, or why it sets nothing, and at which values it is off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "int", "float", "switch", "texts", "steps"]
"""steps: a whole number, a fraction below 1 or a percentage; texts: any number of words."""


@dataclass(frozen=True)
class Flag:
    """One flag; exactly one of ``to``, ``refused`` and ``note`` says what becomes of it."""

    kind: Kind
    to: str = ""
    """Option of a job that it sets; ``*name`` where several flags have to be read together."""
    refused: str = ""
    """Why LECO cannot follow it."""
    note: str = ""
    """Why it changes nothing, and may stay."""
    off: tuple[str | float, ...] = ()
    """Values that ask for nothing, as sd-scripts reads them or as it has them anyway; for all: "", [] and false."""


def _sets(kind: Kind, *pairs: tuple[str, str]) -> dict[str, Flag]:
    return {name: Flag(kind, to=to) for name, to in pairs}


def _switches(*pairs: tuple[str, str]) -> dict[str, Flag]:
    return _sets("switch", *pairs)


def _refused(reason: str, kind: Kind, names: str) -> dict[str, Flag]:
    return {name: Flag(kind, refused=reason) for name in names.split()}


def _noted(reason: str, kind: Kind, names: str) -> dict[str, Flag]:
    return {name: Flag(kind, note=reason) for name in names.split()}


_LECO: Mapping[str, Flag] = {
    **_sets("text", ("prompts_file", "*prompts_file"), ("config_file", "*config_file")),
    **_sets("int", ("max_denoising_steps", "leco.max_denoising_steps")),
    **_sets("float", ("leco_denoise_guidance_scale", "leco.denoise_guidance_scale")),
}

_MODEL: Mapping[str, Flag] = {
    **_sets("text", ("pretrained_model_name_or_path", "model.name_or_path")),
    **_switches(("v2", "model.is_v2"), ("v_parameterization", "model.is_v_pred")),
    **_switches(("zero_terminal_snr", "model.zero_terminal_snr")),
    **_sets("int", ("clip_skip", "model.clip_skip"), ("max_token_length", "model.max_token_length")),
    **_noted("the tokenizer comes with the model or with this package", "text", "tokenizer_cache_dir"),
    **_noted("LECO trains on latents alone; pictures are drawn with the VAE of the model", "text", "vae"),
    **_noted("LECO trains on latents alone; pictures are drawn with the VAE of the model", "switch", "no_half_vae"),
    **_noted("LECO trains on latents alone; pictures are drawn with the VAE of the model", "int", "vae_batch_size"),
    **_noted(
        "every prompt is encoded once, before training, in any case",
        "switch",
        "cache_text_encoder_outputs cache_text_encoder_outputs_to_disk",
    ),
    **_noted("every prompt is encoded once, before training, in any case", "int", "text_encoder_batch_size"),
    **_noted("files are read into memory as this package does it", "switch", "disable_mmap_load_safetensors"),
}

_NETWORK: Mapping[str, Flag] = {
    **_sets("text", ("network_module", "*network"), ("network_weights", "network.network_weights")),
    **_sets("int", ("network_dim", "network.linear")),
    **_sets("float", ("network_alpha", "network.linear_alpha"), ("network_dropout", "network.dropout")),
    **_sets("texts", ("network_args", "*network")),
    **_switches(("dim_from_weights", "network.dim_from_weights")),
    **_noted("LECO never trains a text encoder", "switch", "network_train_unet_only"),
    **_refused("LECO trains the UNet only", "switch", "network_train_text_encoder_only"),
    **_refused("LECO trains the UNet only; unet_lr sets its learning rate", "texts", "text_encoder_lr"),
    **_refused("LoRAs cannot be merged into the base model before training here", "texts", "base_weights"),
    **_refused("LoRAs cannot be merged into the base model before training here", "texts", "base_weights_multiplier"),
    **_refused(
        "weights are not rescaled to a norm here; lower the learning rate instead", "float", "scale_weight_norms"
    ),
}

_NO_SCHEDULE = "only the schedules that lr_scheduler names are there"
_NO_NOISE = "of the noise options only noise_offset is there"
_NO_WEIGHTING = "of the loss weightings only min_snr_gamma is there"
_TRAINING: Mapping[str, Flag] = {
    **_sets("int", ("max_train_steps", "train.steps"), ("seed", "training_seed")),
    **_sets("int", ("gradient_accumulation_steps", "train.gradient_accumulation")),
    **_sets("int", ("lr_scheduler_num_cycles", "train.lr_scheduler_num_cycles")),
    **_sets("float", ("learning_rate", "train.lr"), ("unet_lr", "train.unet_lr")),
    **_sets("float", ("max_grad_norm", "train.max_grad_norm"), ("min_snr_gamma", "train.min_snr_gamma")),
    **_sets("float", ("noise_offset", "train.noise_offset"), ("huber_c", "train.huber_c")),
    **_sets("float", ("lr_scheduler_power", "train.lr_scheduler_power")),
    **_sets("float", ("lr_scheduler_min_lr_ratio", "train.lr_scheduler_min_lr_ratio")),
    **_sets("text", ("lr_scheduler", "train.lr_scheduler"), ("loss_type", "train.loss_type")),
    **_sets("text", ("huber_schedule", "train.huber_schedule"), ("optimizer_type", "*optimizer")),
    **_sets("steps", ("lr_warmup_steps", "train.lr_warmup_steps"), ("lr_decay_steps", "train.lr_decay_steps")),
    **_sets("texts", ("optimizer_args", "*optimizer")),
    **_switches(("use_8bit_adam", "*optimizer"), ("use_lion_optimizer", "*optimizer")),
    **_refused(_NO_SCHEDULE, "text", "lr_scheduler_type"),
    **_refused(_NO_SCHEDULE, "texts", "lr_scheduler_args"),
    **_refused("inverse_sqrt takes the warm-up steps, or 10000, as its time scale", "int", "lr_scheduler_timescale"),
    **_refused("the optimizer steps after the backward pass here, once the gradient is checked", "switch",
               "fused_backward_pass"),
    **_refused(_NO_NOISE, "switch", "noise_offset_random_strength ip_noise_gamma_random_strength"),
    **_refused(_NO_NOISE, "int", "multires_noise_iterations"),
    **_refused(_NO_NOISE, "float", "multires_noise_discount"),
    **_refused(_NO_NOISE, "float", "ip_noise_gamma adaptive_noise_scale"),
    **_refused(_NO_WEIGHTING, "switch", "scale_v_pred_loss_like_noise_pred debiased_estimation_loss"),
    **_refused(_NO_WEIGHTING, "float", "v_pred_like_loss"),
    **_refused("timesteps are where walks stop", "text", "weighting_scheme"),
    **_refused("timesteps are where walks stop", "float", "logit_mean logit_std mode_scale"),
    **_refused("the width of huber and smooth_l1 is set by huber_c alone", "float", "huber_scale"),
    **_refused("a walk is trained wherever it stops", "int", "min_timestep max_timestep"),
    **_refused("LECO counts steps, not epochs; use max_train_steps", "int", "max_train_epochs initial_epoch"),
    **_refused("resume goes on at the step of the state", "int", "initial_step"),
    **_refused("resume goes on at the step of the state", "switch", "skip_until_initial_step"),
    **_refused("batch_size stands in the prompt file, for each pair", "int", "train_batch_size"),
    **_refused("prompts are read as they are, without weights in brackets", "switch", "weighted_captions"),
}  # fmt: skip

_NO_EPOCHS = "LECO counts steps, not epochs; use save_every_n_steps and save_last_n_steps"
_NO_HUB = "nothing is sent to the hub from here; upload the file when it is done"
_OUTPUT: Mapping[str, Flag] = {
    **_sets("text", ("output_dir", "output_dir"), ("output_name", "name"), ("resume", "resume")),
    **_sets("text", ("save_model_as", "save.format"), ("save_precision", "save.dtype")),
    **_sets("text", ("training_comment", "save.training_comment")),
    **_sets("int", ("save_every_n_steps", "save.save_every"), ("save_last_n_steps", "save.save_last_n_steps")),
    **_sets("int", ("save_last_n_steps_state", "save.save_last_n_steps_state")),
    **_switches(("save_state", "save.save_state"), ("save_state_on_train_end", "save.save_state_on_train_end")),
    **_switches(("no_metadata", "save.no_metadata")),
    **_refused(_NO_EPOCHS, "int", "save_every_n_epochs save_n_epoch_ratio save_last_n_epochs save_last_n_epochs_state"),
    **_refused(_NO_HUB, "text", "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token"),
    **_refused(_NO_HUB, "text", "huggingface_repo_visibility"),
    **_refused(_NO_HUB, "switch", "save_state_to_huggingface resume_from_huggingface async_upload"),
    **_refused(
        "the title in the metadata is output_name, and training_comment is the place for the rest",
        "text",
        "metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_usage_hint "
        "metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor "
        "metadata_is_negative_embedding",
    ),
    **_refused("save_model_as says the format", "switch", "use_safetensors"),
    **_refused("settings are not written out; keep the command, or write a job file", "switch", "output_config"),
}

_ONE_PROCESS = "LECO trains in one process on one device"
_MEMORY: Mapping[str, Flag] = {
    **_sets("text", ("mixed_precision", "*precision"), ("dynamo_backend", "memory.dynamo_backend")),
    **_switches(("full_fp16", "*precision"), ("full_bf16", "*precision")),
    **_switches(("gradient_checkpointing", "train.gradient_checkpointing")),
    **_switches(("sdpa", "*attention"), ("xformers", "*attention"), ("mem_eff_attn", "*attention")),
    **_switches(("torch_compile", "memory.torch_compile"), ("fp8_base", "memory.fp8_base")),
    **_switches(("fp8_base_unet", "memory.fp8_base"), ("lowram", "memory.lowram")),
    **_noted("memory is not cleared between steps in any case", "switch", "highvram"),
    **_refused("gradient_checkpointing keeps what it needs on the device", "switch", "cpu_offload_checkpointing"),
    **_refused("blocks of the UNet are not moved between devices here", "int", "blocks_to_swap"),
    **_noted(_ONE_PROCESS, "int", "ddp_timeout"),
    **_noted(_ONE_PROCESS, "switch", "ddp_gradient_as_bucket_view ddp_static_graph"),
    **_refused(_ONE_PROCESS, "switch", "deepspeed zero3_init_flag zero3_save_16bit_model"),
    **_refused(_ONE_PROCESS, "switch", "fp16_master_weights_and_gradients"),
    **_refused(_ONE_PROCESS, "int", "zero_stage"),
    **_refused(_ONE_PROCESS, "text", "offload_optimizer_device offload_optimizer_nvme_path"),
    **_refused(_ONE_PROCESS, "text", "offload_param_device offload_param_nvme_path"),
}

_LOGGING: Mapping[str, Flag] = {
    **_sets("text", ("logging_dir", "logging.logging_dir"), ("log_with", "logging.log_with")),
    **_sets("text", ("log_prefix", "logging.log_prefix"), ("log_tracker_name", "logging.log_tracker_name")),
    **_sets("text", ("wandb_run_name", "logging.wandb_run_name")),
    **_refused("a key does not belong on a command line; set the environment variable WANDB_API_KEY", "text",
               "wandb_api_key"),
    **_refused("trackers take no configuration of their own here", "text", "log_tracker_config"),
    **_noted("trackers are given all settings in any case", "switch", "log_config"),
    **_noted("the console shows what there is to see", "text", "console_log_level"),
    **_noted("the console shows what there is to see", "switch", "console_log_simple"),
    **_refused("what the console shows is not written to a file; redirect it", "text", "console_log_file"),
}  # fmt: skip

_PICTURES: Mapping[str, Flag] = {
    **_sets("text", ("sample_prompts", "*sample_prompts"), ("sample_sampler", "sample.sampler")),
    **_sets("int", ("sample_every_n_steps", "*sample_prompts")),
    **_refused("LECO counts steps, not epochs; use sample_every_n_steps", "int", "sample_every_n_epochs"),
    **_noted("pictures are drawn before the first step in any case", "switch", "sample_at_first"),
}

_NO_DATA = "LECO trains from prompts alone and reads no images or captions"
_NO_VALIDATION = "there are no images to validate with"
_NOT_LECO: Mapping[str, Flag] = {
    **_noted("there is no dataset to load", "int", "max_data_loader_n_workers"),
    **_noted("there is no dataset to load", "switch", "persistent_data_loader_workers"),
    **_refused(
        _NO_DATA,
        "text",
        "train_data_dir reg_data_dir in_json dataset_config dataset_class conditioning_data_dir resolution "
        "caption_separator caption_extension caption_extention keep_tokens_separator secondary_separator "
        "caption_prefix caption_suffix face_crop_aug_range resize_interpolation",
    ),
    **_refused(
        _NO_DATA,
        "int",
        "keep_tokens min_bucket_reso max_bucket_reso bucket_reso_steps token_warmup_min dataset_repeats "
        "caption_dropout_every_n_epochs",
    ),
    **_refused(_NO_DATA, "float", "token_warmup_step caption_dropout_rate caption_tag_dropout_rate"),
    **_refused(_NO_DATA, "float", "prior_loss_weight"),
    **_refused(
        _NO_DATA,
        "switch",
        "cache_info shuffle_caption enable_wildcard color_aug flip_aug random_crop debug_dataset cache_latents "
        "cache_latents_to_disk skip_cache_check enable_bucket bucket_no_upscale alpha_mask masked_loss",
    ),
    **_refused(_NO_VALIDATION, "int", "validation_seed validate_every_n_steps validate_every_n_epochs"),
    **_refused(_NO_VALIDATION, "int", "max_validation_steps"),
    **_refused(_NO_VALIDATION, "float", "validation_split"),
}

_OFF: Mapping[str, tuple[str | float, ...]] = {
    # 0 is none
    **dict.fromkeys(("save_every_n_steps", "save_last_n_steps", "save_last_n_steps_state", "min_snr_gamma"), (0,)),
    **dict.fromkeys(("scale_weight_norms", "v_pred_like_loss", "ip_noise_gamma", "adaptive_noise_scale"), (0,)),
    **dict.fromkeys(("multires_noise_iterations", "blocks_to_swap", "lr_scheduler_timescale"), (0,)),
    **dict.fromkeys(("max_train_epochs", "initial_step", "save_every_n_epochs", "save_n_epoch_ratio"), (0,)),
    **dict.fromkeys(("save_last_n_epochs", "save_last_n_epochs_state", "sample_every_n_epochs"), (0,)),
    **dict.fromkeys(("validate_every_n_steps", "validate_every_n_epochs", "max_validation_steps"), (0,)),
    **dict.fromkeys(("validation_split", "caption_dropout_rate", "caption_tag_dropout_rate", "keep_tokens"), (0,)),
    **dict.fromkeys(("caption_dropout_every_n_epochs", "token_warmup_step"), (0,)),
    # the text encoder is not trained then
    "text_encoder_lr": ("0", "0.0"),
    # what is so where nothing is said
    "dynamo_backend": ("no", "NO"),
    "initial_epoch": (0, 1),
    "min_timestep": (0,),
    "max_timestep": (1000,),
    "train_batch_size": (0, 1),
    "zero_stage": (0, 2),
    "multires_noise_discount": (0, 0.3),
    "huber_scale": (1,),
    "prior_loss_weight": (1,),
    "weighting_scheme": ("uniform", "none"),
    "logit_mean": (0,),
    "logit_std": (1,),
    "mode_scale": (1.29,),
    "token_warmup_min": (1,),
    "dataset_repeats": (1,),
    "min_bucket_reso": (256,),
    "max_bucket_reso": (1024,),
    "bucket_reso_steps": (64,),
    "caption_separator": (",",),
    "caption_extension": (".caption",),
    "huggingface_repo_visibility": ("private",),
}
FLAGS: Mapping[str, Flag] = {
    name: replace(flag, off=_OFF.get(name, ()))
    for table in (_LECO, _MODEL, _NETWORK, _TRAINING, _OUTPUT, _MEMORY, _LOGGING, _PICTURES, _NOT_LECO)
    for name, flag in table.items()
}
REQUIRED = ("pretrained_model_name_or_path", "prompts_file", "output_dir", "output_name")
NETWORK_MODULES: Mapping[str, str] = {
    "networks.lora": "lora",
    "networks.loha": "loha",
    "networks.lokr": "lokr",
    "lycoris.kohya": "lora",
}
"""What sd-scripts calls a network, and which of ours it is; LyCORIS says more in network_args."""
ALGORITHMS: Mapping[str, str] = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
NETWORK_ARGS: Mapping[str, tuple[Kind, str]] = {
    "conv_dim": ("int", "network.conv"),
    "conv_alpha": ("float", "network.conv_alpha"),
    "dropout": ("float", "network.dropout"),
    "rank_dropout": ("float", "network.rank_dropout"),
    "module_dropout": ("float", "network.module_dropout"),
}

NETWORK_ARGS_OFF: Mapping[str, int] = {"conv_dim": 0, "factor": -1}
"""What asks for nothing besides None and empty text, and 0 and False of those that are not there."""


def options() -> Iterator[tuple[str, str]]:
    """(flag, option of a job) of every flag that sets one by itself."""
    return ((name, flag.to) for name, flag in FLAGS.items() if flag.to and not flag.to.startswith("*"))
