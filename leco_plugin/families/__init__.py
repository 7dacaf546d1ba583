"""Models behind the Denoiser contract; the only importers of diffusers' and transformers' model classes."""
