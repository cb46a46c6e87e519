"""The documentation as a site (`make docs`): the pages of `docs/`, and one of every method, from its docstring."""
