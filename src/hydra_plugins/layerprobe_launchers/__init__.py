"""Launchers for Hydra's multirun: `hydra/launcher=gpu_box`, `slurm_gpu` and `slurm_cpu`."""
