"""Constants of caches for one model: recorded once, saved, simulated, and those that were published."""
