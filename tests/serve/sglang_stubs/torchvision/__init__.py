"""Stands in for torchvision, which sglang and transformers import by name and a text model never calls.

PyPI's torchvision belongs to the CUDA build of torch. Only on the path of tests/serve/sglang_server.py's child.
"""


def absent(module: str):
    """A module's __getattr__: any public name exists and raises when it is called."""

    def attribute(name: str):
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*_, **__):
            raise RuntimeError(f"{module}.{name} was called, and {module} is a stub of the tests")

        return call

    return attribute
