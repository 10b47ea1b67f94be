"""How fast a run would be on other splits of the GPUs between rollout servers and trainers: `gsm8k plan --simulate`.

`rates` says how fast a server and a trainer are, `recorded` reads that out of a run, `workload` is what a step has to
do, `simulation` plays AReaL's rules with both, `splits` compares. What is assumed, and how well it was met by measured
runs: docs/scaling.md. Nothing here imports AReaL or torch.
"""
