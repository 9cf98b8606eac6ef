"""Measure how fast things run here, and compare with alternatives. Nothing here is a test."""
