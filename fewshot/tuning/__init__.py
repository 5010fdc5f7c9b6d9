"""Choice of a method's options on validation classes: search, grids, files."""
