"""`gsm8k doctor`: what would go wrong here, said before anything is started, each with its fix.

    ./run doctor
    ./run doctor --json --config configs/cpu.yaml actor.path=Qwen/Qwen2.5-1.5B-Instruct

A check is a small function of the machine's facts (areal_gsm8k/machine) and of what the configuration asks for
(requested.py); it returns a finding, or None where it does not apply. The groups are host.py, gpu.py, packages.py,
disk.py and network.py; examination.py runs them, advice.py ends with a command that runs here.
"""
