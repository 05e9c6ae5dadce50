"""What the scripts do once their configuration is composed; the scripts themselves import nothing heavy."""
