"""How much GPU memory each process of a run needs, before anything is started: `gsm8k plan`.

`plan_for(values, model_config, gpus)` is pure: the resolved configuration, a config.json's content and the cards in,
a MemoryPlan out. docs/memory.md has the formulae, their sources and the measurements.
"""

from areal_gsm8k.plan.memory.plan import CardMemory, MemoryPlan, plan_for

__all__ = ["CardMemory", "MemoryPlan", "plan_for"]
