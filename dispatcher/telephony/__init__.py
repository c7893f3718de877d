"""Phone carriers: their webhooks and answers, as values. One module per carrier; no I/O."""
