"""Trains the small refiners that the sampler FlowTurbo takes: `python -m benchmarks.refiner MODEL --out FOLDER`."""
