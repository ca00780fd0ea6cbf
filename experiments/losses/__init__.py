"""What a loss function does, its numerics, and missing labels."""
