"""Files that survive a crash, and files that anyone may have written."""
