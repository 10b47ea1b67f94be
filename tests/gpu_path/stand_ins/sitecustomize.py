"""On PYTHONPATH of a run under test: AReaL takes its path for NVIDIA GPUs on a machine that has none.

Its CPU platform counts one GPU, chosen by CUDA_VISIBLE_DEVICES, and its command for SGLang starts sglang_stand_in.py.
The launcher, the server's wrapper, torchrun and the trainer are AReaL's and ours. With TRAINER_FAILS the first update
ends as one that does not fit the GPU's memory.
"""

import importlib.machinery
import os
import sys


def one_gpu(platform) -> None:
    platform.CpuPlatform.device_control_env_var = "CUDA_VISIBLE_DEVICES"
    platform.CpuPlatform.device_count = classmethod(lambda cls: 1)


def our_server(cli_args) -> None:
    command = cli_args.get_py_cmd
    cli_args.SGLangConfig.build_cmd_from_args = staticmethod(lambda args: command("sglang_stand_in", args))


def no_memory(engine) -> None:
    def train_batch(self, *args, **kwargs):
        import torch

        raise torch.OutOfMemoryError(os.environ["TRAINER_FAILS"])

    if "TRAINER_FAILS" in os.environ:
        engine.PackedActor.train_batch = train_batch


CHANGES = {
    "areal.infra.platforms.cpu": one_gpu,
    "areal.api.cli_args": our_server,
    "areal_gsm8k.training.actor": no_memory,
}


class Changing:
    """Finds the modules of CHANGES as Python would, and changes each once it is executed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = execute_and_change
        return spec


sys.meta_path.insert(0, Changing)
