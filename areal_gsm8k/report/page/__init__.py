"""The report: one HTML file of one or several runs that needs nothing else, neither network nor other files.

write([Path("runs/tiny-grpo/20261121_101500")], Path("report.html"))

page.py puts it together, from run_facts.py (a run in words), chart_list.py and figures.py (the curves), evaluations.py
(cards of its checkpoints) and embedded_samples.py (samples, compressed into the room that is left); page.html,
style.css and the scripts beside them go to the browser.
"""

from areal_gsm8k.report.page.page import write

__all__ = ["write"]
