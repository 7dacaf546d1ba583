"""OneTrainer as a host: LECO through its model loaders, LoRA modules, optimizers, samplers, backups and savers.

Nothing of OneTrainer is in here. What this package calls and overrides there is named in ``contract.py``; imports it
only once a run has begun, from the checkout that the user names.
"""
