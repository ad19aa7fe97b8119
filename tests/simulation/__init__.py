"""Deterministic simulation of the production services: virtual time, a seeded scheduler, faults, invariants."""
