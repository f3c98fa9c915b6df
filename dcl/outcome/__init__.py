"""What the caller gets: `Solution`, and messages in his own words."""
