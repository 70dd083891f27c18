"""Sources of the accuracy that a search goes by: tables, supernets, predictors."""
