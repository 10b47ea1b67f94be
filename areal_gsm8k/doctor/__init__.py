"""`gsm8k doctor`: finds what would go wrong on this machine before anything is started, and names each fix.

    ./run doctor
    ./run doctor --json --config configs/cpu.yaml actor.path=Qwen/Qwen2.5-1.5B-Instruct

A check is a small function of the machine's facts (areal_gsm8k/machine) and of the requested configuration
(requested.py); it returns a finding, or None where it does not apply. The groups are host.py, gpu.py, packages.py,
disk.py and network.py; examination.py runs them, advice.py ends with a command that runs here.
"""
