"""The documentation site.

Build it in a clone, after `pip install -c constraints.txt -e ".[docs]"`, from the root:

    python -m sphinx -W -n -b html docs build/site                      everything; the gallery is executed
    python -m sphinx -W -n -b html -D plot_gallery=0 docs build/site    the gallery without its output, in a minute

The pages are Markdown that also reads well in the repository.  Extensions of our own are in `docs/_extensions`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

import dcl  # noqa: E402  from this checkout

project = "dcl"
author = "the authors of dcl"
version = release = dcl.__version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "mathml",
    "outside",
]
exclude_patterns = ["_*", "examples", "gallery_source"]
templates_path: list[str] = []

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
toc_object_entries_show_parents = "hide"

# Types of other packages and of dcl's own inside, which have no page here.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|cvxpy|cp|np|numpy|pandas|pd|xarray|xr|collections|typing|enum|threading|pathlib)\b.*"),
    (
        r"py:.*",
        r"(Tensor|Array|NDArray|Any|Path|Module|Iterator|Callable|Mapping|Sequence|Iterable|Event|optional)\b.*",
    ),
    (
        r"py:.*",
        r"(Axes|Barrier|Block|ConeProgram|Degeneracy|Effect|Key|Layer|Loss|Model|Moving|Requested|Row|Values|Y)",
    ),
    (
        r"py:.*",
        r"(At|Chunk|TensorLike|dcl\.(programs|point|program|compare|cones|layers|outcome|frontends|solvers\.base)\..*)",
    ),
]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"dcl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7db4ea", "color-brand-content": "#7db4ea"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

GALLERY = HERE / "gallery_source"
sphinx_gallery_conf = {
    "examples_dirs": ["gallery_source"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"[\\/]plot_",
    "abort_on_example_error": True,
    "download_all_examples": True,
    "remove_config_comments": True,
    "min_reported_time": 1e9,
    "show_memory": False,
    "write_computation_times": False,
    "capture_repr": ("_repr_html_", "__str__"),
    "backreferences_dir": None,
    "plot_gallery": "True",
}
if not any(GALLERY.glob("plot_*.py")):
    extensions.remove("sphinx_gallery.gen_gallery")
    suppress_warnings = ["toc.not_readable"]  # the gallery in the index

    def setup(app):  # type: ignore[no-untyped-def]
        """`-D plot_gallery=0` has no effect, and is no error, where there are no examples."""
        app.add_config_value("plot_gallery", True, "html")


# sphinx-gallery builds every example in this process: one that warns is one to mend
warnings.filterwarnings("error", category=DeprecationWarning, module=r"gallery_source\..*")
