"""`python -m dspark_core.bench`."""

from .run import main

if __name__ == "__main__":
    main()
