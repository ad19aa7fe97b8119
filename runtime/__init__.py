"""Composition: processes, buses, clocks, files, commands. The only package that touches the outside."""
