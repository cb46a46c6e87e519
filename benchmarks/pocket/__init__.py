"""Training and measuring of the pocket models that ship with the library."""
