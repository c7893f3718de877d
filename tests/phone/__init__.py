"""Phone carriers, played from their published messages."""
