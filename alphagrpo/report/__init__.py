"""What a run leaves for people: the ledger, the report, the versions it was made with."""
