"""Reads prompt files: one entry at a time, each with its line number, in constant memory."""
