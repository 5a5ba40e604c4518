"""Canaries: a share of users and sessions is answered by the candidate, which is rolled back if it does worse."""
