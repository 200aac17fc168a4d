"""Machine code for CPUs: C sources, how they are compiled and loaded, and what they compute."""
