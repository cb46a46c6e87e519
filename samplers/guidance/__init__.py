"""Techniques that leave out one half of classifier-free guidance, and the gate that they share."""
