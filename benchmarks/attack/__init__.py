"""Attacks on the real service: hostile clients, damaged bundles, crashes, full disks, and what they found."""
