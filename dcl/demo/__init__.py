"""`python -m dcl demo`: a model that reads digits and learns a rule for decisions, beside models without a layer."""
