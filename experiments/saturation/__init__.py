"""When neurons saturate."""
