"""`python -m dspark_core.bench`."""

from .speed import main

if __name__ == "__main__":
    main()
