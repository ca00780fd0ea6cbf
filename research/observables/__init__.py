"""What is looked at: instruments that map a state, or what it computes, to numbers."""
