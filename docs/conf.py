"""The site of the documentation: `uv run sphinx-build -W docs build/docs`. Nothing is fetched from the network."""

from __future__ import annotations

import layerprobe

project = "layerprobe"
author = "the authors of layerprobe"
release = version = layerprobe.__version__
html_title = "layerprobe"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
exclude_patterns = ["**.ipynb_checkpoints", "example_project"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook is executed by its test

default_role = "literal"  # docstrings mark code by single backticks, as Markdown does
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "both"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
