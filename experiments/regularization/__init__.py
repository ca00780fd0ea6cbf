"""What holds a model back from fitting too much, and what that costs."""
