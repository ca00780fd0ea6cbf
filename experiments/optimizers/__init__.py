"""What an optimiser, its momentum and its noise do."""
