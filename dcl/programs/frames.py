"""Solutions as tables of pandas and data sets of xarray."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dcl.errors import UnsupportedError
from dcl.programs.values import Axes
from dcl.status import Status

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from dcl.programs.names import Entry
    from dcl.programs.results import Sweep
    from dcl.programs.solution import ProgramSolution


def frame(solution: ProgramSolution) -> pd.DataFrame:
    """Columns: one for each batch dimension, then name, entry (labels joined by commas), value."""
    import pandas as pd

    model, parts = solution.model, []
    entries = [*model.variables, *model.duals]
    lead = [f"instance {k}" if len(solution.batch) > 1 else "instance" for k in range(len(solution.batch))]
    for index in np.ndindex(*solution.batch):
        for entry, t in zip(entries, solution.known.outputs, strict=False):
            places = solution.axes.places(entry)
            part: dict[str, Any] = {name: _label(solution, index, k) for k, name in enumerate(lead)}
            part |= {"name": entry.name, "entry": places, "value": t[index].numpy().ravel()}
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*lead, "name", "entry", "value"])


def _label(solution: ProgramSolution, index: tuple[int, ...], k: int) -> Any:
    labels = solution.axes.batch
    return labels[index[k]] if labels is not None and len(solution.batch) == 1 else index[k]


def dataset(solution: ProgramSolution) -> xr.Dataset:
    """A data variable for each variable and multiplier of the program, for the value and the status; dimensions carry labels."""
    found: dict[str, Any] = {}
    lead = [f"instance_{k}" if len(solution.batch) > 1 else "instance" for k in range(len(solution.batch))]
    coordinates: dict[str, Any] = {}
    if solution.axes.batch is not None and len(lead) == 1:
        coordinates["instance"] = list(solution.axes.batch)
    for entry, t in zip((*solution.model.variables, *solution.model.duals), solution.known.outputs, strict=False):
        dims = [f"{entry.name}_{k}" for k in range(len(entry.shape))]
        found[entry.name] = ([*lead, *dims], t.numpy())
        coordinates |= {dim: list(axis) for dim, axis in zip(dims, solution.axes.of(entry), strict=True)}
    found["value"] = (lead, np.asarray(solution.value))
    found["status"] = (lead, np.asarray(solution.known.status))
    return xarray().Dataset(found, coords=coordinates)


def xarray() -> Any:
    """The package. Raises UnsupportedError that names the extra."""
    try:
        import xarray
    except ImportError:
        raise UnsupportedError('xarray is not installed: pip install "dcl-layers[programs]"') from None
    return xarray


def columns_of(entry: Entry, array: Any, axes: Axes) -> dict[str, Any]:
    """A column for each entry of (rows, *shape), as "w[0]", or "w" for a number."""
    flat = np.asarray(array).reshape(len(array), math.prod(entry.shape))
    return dict(zip(axes.names(entry), flat.T + 0.0, strict=True))  # + 0.0: no -0


def sweep_columns(sweep: Sweep) -> dict[str, Any]:
    """Swept entries, status, value, residual, every entry of every variable and multiplier, gradients: an array each."""
    columns: dict[str, Any] = {}
    entries = {entry.name: entry for entry in sweep.model.parameters}
    for name in sweep.swept:
        columns |= columns_of(entries[name], sweep.parameters[name], sweep.axes)
    columns["status"] = [Status(code).name for code in sweep.status.tolist()]
    columns |= {"value": sweep.value, "residual": sweep.residual}
    for entry, array in zip((*sweep.model.variables, *sweep.model.duals), sweep.found.outputs, strict=False):
        columns |= columns_of(entry, array, sweep.axes)
    for name, array in sweep.gradient.items():
        found = columns_of(entries[name], array, sweep.axes)
        columns |= {f"gradient of {one}": column for one, column in found.items()}
    return columns


def sweep_frame(sweep: Sweep) -> pd.DataFrame:
    """A row for each row of the sweep, `sweep_columns` as columns."""
    import pandas as pd

    return pd.DataFrame(sweep_columns(sweep), index=None if sweep.axes.batch is None else list(sweep.axes.batch))


def sweep_dataset(sweep: Sweep) -> xr.Dataset:
    """The rows along the dimension "row"; swept numbers are coordinates of it."""
    found: dict[str, Any] = {"value": ("row", sweep.value), "status": ("row", sweep.status)}
    found["residual"] = ("row", sweep.residual)
    coordinates: dict[str, Any] = {} if sweep.axes.batch is None else {"row": list(sweep.axes.batch)}

    def add(entry: Entry, array: Any, name: str) -> None:
        dims = [f"{name}_{k}" for k in range(array.ndim - 1)]
        coordinates.update({d: list(axis) for d, axis in zip(dims, sweep.axes.of(entry), strict=True)})
        found[name] = (["row", *dims], array)

    entries = {entry.name: entry for entry in sweep.model.parameters}
    for name in sweep.swept:
        array = sweep.parameters[name]
        if array.ndim == 1:
            coordinates[name] = ("row", array)
        else:
            add(entries[name], array, name)
    for entry, array in zip((*sweep.model.variables, *sweep.model.duals), sweep.found.outputs, strict=False):
        add(entry, array, entry.name)
    for name, array in sweep.gradient.items():
        add(entries[name], array, f"gradient of {name}")
    return xarray().Dataset(found, coords=coordinates)
