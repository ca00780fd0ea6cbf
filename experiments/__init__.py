"""The experiments: one family a package, one claim a module."""
