"""maxbench: several spatial controls at once on a text-to-image diffusion model, measured."""

__version__ = "0.1.0"
