"""Step-reducing samplers, sigma schedules and adaptive guidance."""
