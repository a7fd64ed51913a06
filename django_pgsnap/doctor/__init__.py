"""The doctor: what is wrong or in the way on the servers, with its remedy, and what it mends."""
