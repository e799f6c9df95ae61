"""Analyses of a Relax module: which values can be cut, and which regions the model has."""
