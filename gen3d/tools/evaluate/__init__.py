"""``gen3d evaluate``: one file for each kind of evaluation, and what they share."""
