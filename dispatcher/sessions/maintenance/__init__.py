"""Background work: leader election, the reaper, probes, the orphan scan, retention."""
