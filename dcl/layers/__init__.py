"""The torch layers."""
