"""What proves the library and is not part of it: run from the repository, absent from the wheel."""

import accel  # noqa: F401  in front of torch: `accel.spinning`
