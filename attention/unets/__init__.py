"""Techniques for the resolutions of U-Nets: HiDiffusion, RAU-Net and token merging."""
