"""Build the documentation: `make docs`, into build/docs."""

project = "flowertune"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["build"]
nitpicky = True
html_theme = "furo"
html_title = "flowertune"
html_show_sphinx = False
html_show_copyright = False
templates_path: list[str] = []
suppress_warnings: list[str] = []
