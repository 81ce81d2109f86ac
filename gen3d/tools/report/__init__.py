"""``gen3d report``: one HTML page of what any tool wrote."""
