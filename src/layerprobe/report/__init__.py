"""Results made visible: figures, pictures of small networks, tables for the terminal."""

from layerprobe.report.depth_curve import depth_curve
from layerprobe.report.depth_view import DepthView
from layerprobe.report.figures import write_figures, write_run_figures
from layerprobe.report.frames import group_mean, monotonicity, prepare
from layerprobe.report.heat_map import heat_map
from layerprobe.report.hidden_plane import hidden_plane
from layerprobe.report.path_curve import path_curve
from layerprobe.report.reference import Reference, reference_table
from layerprobe.report.save import save
from layerprobe.report.separating_line import separating_line, separating_lines
from layerprobe.report.surface import output_surface
from layerprobe.report.sweep_curves import sweep_curves
from layerprobe.report.sweep_table import sweep_table
from layerprobe.report.terminal import results_table

__all__ = [
    "DepthView",
    "Reference",
    "depth_curve",
    "group_mean",
    "heat_map",
    "hidden_plane",
    "monotonicity",
    "output_surface",
    "path_curve",
    "prepare",
    "reference_table",
    "results_table",
    "save",
    "separating_line",
    "separating_lines",
    "sweep_curves",
    "sweep_table",
    "write_figures",
    "write_run_figures",
]
