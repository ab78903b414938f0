"""DSpark Playground: see, measure and teach speculative decoding on your own machine."""

__version__ = "0.1.0"
