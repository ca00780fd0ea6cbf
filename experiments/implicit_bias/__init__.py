"""Which of all zero-loss solutions training picks."""
