"""Reward programs, and the one way to judge a picture by one: free of torch and ray."""
