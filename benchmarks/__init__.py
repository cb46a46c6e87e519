"""What proves the library and is not part of it: run from the repository, absent from the wheel."""
