"""The instruments of the laboratory; nothing here knows of a particular experiment."""
