"""The embedded world and the recipes of the small models that live in it."""
