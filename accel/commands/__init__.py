"""The commands of `accel`, each with its options and what it does. Heavy imports wait until a command runs."""
