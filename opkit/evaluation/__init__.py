"""The evaluator: how wrong is a surrogate, does it know anything beyond its training grid, against which baselines.

protocol      what is measured, on which data
statistics    means with confidence intervals
verdicts      what the figures allow one to say
figures       pictures of it
report        report.json, metrics.csv and report.html
"""

from opkit.evaluation.protocol import fine_problems, fine_resolutions
from opkit.evaluation.report import check_gate, evaluate_surrogate, parse_gate

__all__ = ["check_gate", "evaluate_surrogate", "fine_problems", "fine_resolutions", "parse_gate"]
