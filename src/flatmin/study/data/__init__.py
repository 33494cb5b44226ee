"""Data sets: sources, the decoded-image cache, splits and label noise; text."""
