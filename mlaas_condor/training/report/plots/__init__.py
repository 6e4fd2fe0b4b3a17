"""Pictures of a training, one module a kind.

All go to PNG files without any display; nothing is kept in matplotlib's global state.
"""

from mlaas_condor.training.report.plots.confusion import confusion
from mlaas_condor.training.report.plots.efficiency import folds, precision_recall, roc
from mlaas_condor.training.report.plots.features import each_branch, overview
from mlaas_condor.training.report.plots.importance import importance
from mlaas_condor.training.report.plots.learning import has_curves, learning_curves
from mlaas_condor.training.report.plots.residuals import residuals
from mlaas_condor.training.report.plots.scan import scan
from mlaas_condor.training.report.plots.scores import scores
from mlaas_condor.training.report.plots.style import COLOURS, file_name

__all__ = [
    "COLOURS",
    "confusion",
    "each_branch",
    "file_name",
    "folds",
    "has_curves",
    "importance",
    "learning_curves",
    "overview",
    "precision_recall",
    "residuals",
    "roc",
    "scan",
    "scores",
]
