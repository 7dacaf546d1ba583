"""The keys that the schemas of other trainers have, taken from their sources."""


def keys(text: str) -> list[str]:
    return text.split()


NETWORK = keys("""
type rank linear conv alpha linear_alpha conv_alpha dropout network_kwargs lorm transformer_only lokr_full_rank
lokr_factor old_lokr_format split_multistage_loras layer_offloading pretrained_lora_path all_layers
""")
TRAIN = keys("""
noise_scheduler content_or_style steps lr unet_lr text_encoder_lr refiner_lr embedding_lr adapter_lr optimizer
optimizer_params lr_scheduler lr_scheduler_params min_denoising_steps max_denoising_steps batch_size dtype xformers
sdp attention_backend train_unet train_text_encoder train_refiner train_turbo show_turbo_outputs min_snr_gamma
snr_gamma learnable_snr_gos noise_offset skip_first_sample force_first_sample gradient_checkpointing weight_jitter
merge_network_on_save merge_network_on_save_strength max_grad_norm start_step free_u adapter_assist_name_or_path
adapter_assist_type noise_multiplier target_noise_multiplier random_noise_multiplier do_signal_correction_noise
do_batch_noise_correction batch_noise_correction_scale do_signal_amplification signal_amplification_strength
signal_correction_noise_scale random_noise_shift img_multiplier noisy_latent_multiplier latent_multiplier
negative_prompt max_negative_prompts reg_weight num_train_timesteps adaptive_scaling_factor prompt_dropout_prob
match_noise_norm gradient_accumulation_steps gradient_accumulation short_and_long_captions
short_and_long_captions_encoder_split single_item_batching match_adapter_assist match_adapter_chance loss_target
inverted_mask_prior inverted_mask_prior_multiplier diff_output_preservation diff_output_preservation_multiplier
diff_output_preservation_class blank_prompt_preservation blank_prompt_preservation_multiplier standardize_images
standardize_latents dynamic_noise_offset do_cfg do_random_cfg cfg_scale max_cfg_scale cfg_rescale correct_pred_norm
correct_pred_norm_multiplier loss_type t0_loss_target t0_velocity_equiv_weight do_fft_loss
do_fft_velocity_equiv_weight pred_scaler prompt_saturation_chance do_prior_divergence ema_config target_norm_std
target_norm_std_value timestep_type next_sample_timesteps linear_timesteps linear_timesteps2 disable_sampling
unload_text_encoder cache_text_embeddings do_paramiter_swapping paramiter_swapping_factor bypass_guidance_embedding
latent_feature_extractor_path latent_feature_loss_weight diffusion_feature_extractor_path
diffusion_feature_extractor_weight optimal_noise_pairing_samples force_consistent_noise blended_blur_noise
do_guidance_loss guidance_loss_target do_guidance_loss_cfg_zero guidance_loss_schedule unconditional_prompt
do_differential_guidance differential_guidance_scale switch_boundary_every do_blank_stabilization
audio_loss_multiplier max_loss_debug max_loss validation_config
""")
MODEL = keys("""
name_or_path is_v2 is_xl is_pixart is_pixart_sigma is_auraflow is_v3 is_flux is_lumina2 use_flux_cfg is_ssd is_vega
is_v_pred dtype vae_path refiner_name_or_path refiner_start_at lora_path assistant_lora_path inference_lora_path
unconditional_lora_path latent_space_version use_text_encoder_1 use_text_encoder_2 experimental_xl text_encoder_bits
unet_path unet_sample_size vae_device vae_dtype te_device te_dtype quantize quantize_te qtype qtype_te low_vram
attn_masking ignore_if_contains only_if_contains quantize_kwargs split_model_over_gpus
split_model_other_module_param_count_scale te_name_or_path arch auto_memory layer_offloading
layer_offloading_transformer_percent layer_offloading_text_encoder_percent extras_name_or_path
accuracy_recovery_adapter compile block_compile compile_mode compile_fullgraph compile_dynamic cache_size_limit
model_kwargs model_paths in_context
""")
SAVE = keys("""
save_every dtype max_step_saves_to_keep save_format push_to_hub hf_repo_id hf_private
""")
LOGGING = keys("""
log_every verbose use_wandb use_ui_logger project_name run_name
""")
SAMPLE = keys("""
sampler sample_every sample_start_step width height neg seed walk_seed guidance_scale sample_steps
network_multiplier guidance_rescale format adapter_conditioning_scale refiner_start_at extra_values num_frames fps
prompts samples do_cfg_norm
""")
SLIDER = keys("""
targets anchors resolutions prompt_file prompt_tensors batch_full_slide use_adapter adapter_img_dir low_ram
""")
CONCEPT = keys("""
guidance_strength anchor_strength positive_prompt negative_prompt target_class anchor_class
""")
PROCESS = keys("""
network train model save sample first_sample logging trigger_word guidance datasets embedding decorator adapter
do_lorm lorm_extract_mode lorm_extract_mode_param torch_profiler training_seed training_folder log_dir name
performance_log_every is_v2 device type sqlite_db_path slider
""")
LECO = {
    "pretrained_model": ["name_or_path", "v2", "v_pred", "clip_skip"],
    "network": ["type", "rank", "alpha", "training_method"],
    "train": keys("precision noise_scheduler iterations lr optimizer optimizer_args lr_scheduler max_denoising_steps"),
    "save": ["name", "path", "per_steps", "precision"],
    "logging": ["use_wandb", "verbose"],
    "other": ["use_xformers"],
}
