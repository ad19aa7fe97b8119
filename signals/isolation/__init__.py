"""Bots written by users run in a process of their own: what they do there can only end that process."""
