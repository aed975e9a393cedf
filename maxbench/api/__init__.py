"""The Python interface: the networks of a suite as a pipeline that is called like those of diffusers."""
