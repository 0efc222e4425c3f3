"""Measurements of the whole chain and of its parts, all of one run comparable with each other."""
