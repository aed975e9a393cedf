"""How fast pictures are made, part by part, beside diffusers' own pipeline and the device's own rate."""
