"""Fixtures of brokers that run."""

from tests.integration.brokers import any_broker, any_calm_broker, calm_broker, embedded_broker

__all__ = ["any_broker", "any_calm_broker", "calm_broker", "embedded_broker"]
