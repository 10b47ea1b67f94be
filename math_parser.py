r"""Grade a GSM8K completion: 1 when its final answer is the reference's number, else 0. The reward of the training.

    python -c "import math_parser; print(math_parser.grade(r'So \boxed{1{,}080}', '#### 1,080'))"
    gsm8k grade 'So \boxed{1{,}080}' '#### 1,080'

The name that AReaL's GSM8K scripts import (`from math_parser import process_results`). The grader itself, with its
convention, is areal_gsm8k/grading/parser.py.
"""

from areal_gsm8k.grading.parser import ANSWER_FORMATS, GRADER_VERSION, Verdict, grade, process_results

__all__ = ["ANSWER_FORMATS", "GRADER_VERSION", "Verdict", "grade", "process_results"]
