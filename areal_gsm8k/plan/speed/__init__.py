"""How fast a run would be on other splits of the GPUs between rollout servers and trainers: `gsm8k plan --simulate`.

`rates` has the speeds of a server and a trainer, `recorded` reads them out of a run, `workload` describes the work of a
step, `simulation` plays AReaL's rules with both, `splits` compares. docs/scaling.md has the assumptions, and how well
measured runs met them. Nothing here imports AReaL or torch.
"""
