"""The C runtime, carried inside the wheel."""
