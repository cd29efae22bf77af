"""The evaluator: how wrong is a surrogate, how long can it be rolled out, does it know anything beyond its training
grid, against which baselines.

protocol      what is measured, on which data
rollout       far beyond the training trajectories
jacobian      what a step does to small perturbations; measured beside the solver in perturbation
speed         time against that of solvers of the same error
shift         problems outside the training distribution
statistics    means with confidence intervals, times to an event, comparisons
verdicts      what the figures allow one to say
records       figures as report.json has them
figures       pictures of it, and those of rollouts in rollout_figures
report        report.json, its tables and report.html
gates         conditions a report must meet
leaderboard   several runs side by side
"""

from opkit.evaluation.gates import check_gate, parse_gate
from opkit.evaluation.protocol import fine_problems, fine_resolutions
from opkit.evaluation.report import evaluate_surrogate

__all__ = ["check_gate", "evaluate_surrogate", "fine_problems", "fine_resolutions", "parse_gate"]
