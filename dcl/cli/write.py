"""Results as JSON, CSV and NPZ, for machines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Numbers, lists and dicts that JSON has; NaN and infinities, which it has not, become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def text(found: Mapping[str, Any]) -> str:
    """As JSON."""
    return json.dumps(plain(found), indent=2)


def save(path: Path, found: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write `found` as .json or .npz, the table as .csv."""
    kind = path.suffix.lower()
    if kind == ".json":
        path.write_text(text(found) + "\n", encoding="utf-8")
    elif kind == ".npz":
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in _flat(found).items()}
        np.savez(path, **arrays)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)


def _flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[prefix + str(name)] = value
    return flat
