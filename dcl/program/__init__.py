"""The one program that every front end ends at, the patterns and maps of its data, its units and its rows."""

from dcl.program.structure import (
    ConeProgram,
    Structure,
    dense_structure,
    largest,
    magnitude,
    norm,
    symmetric,
)

__all__ = ["ConeProgram", "Structure", "dense_structure", "largest", "magnitude", "norm", "symmetric"]
