"""What experiments left behind, for people: one HTML page, a table in the terminal, two experiments side by side."""
