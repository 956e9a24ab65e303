"""What a run writes down of itself: its folder, ledger, metrics and summary. Free of torch."""
