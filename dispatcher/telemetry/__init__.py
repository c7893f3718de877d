"""What the dispatcher shows of itself: metrics, traces, and logs that carry the ids of what they tell of."""
