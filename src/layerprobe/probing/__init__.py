"""The mission: record every layer of a frozen network, and fit linear heads to each."""
