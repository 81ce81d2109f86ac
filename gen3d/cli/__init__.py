"""The command line.

Heavy libraries are imported inside its commands only, so that help comes at once.
"""

from gen3d.cli.program import app, commands, keep_freed_memory, main, run

__all__ = ["app", "commands", "keep_freed_memory", "main", "run"]
