"""Programs with fewer variables and rows that have the same solutions: found once for all parameters, solved, mapped back."""
