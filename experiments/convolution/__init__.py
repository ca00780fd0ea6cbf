"""What convolution brings to vision, and what its features look like."""
