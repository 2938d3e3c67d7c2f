"""Typed configuration: one section a class, which is also the options object that the library uses."""
