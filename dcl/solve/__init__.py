"""From a program to a checked answer."""
