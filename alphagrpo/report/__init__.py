"""A run for people to read: renders what its folder records, and records nothing itself."""
