"""DSpark Playground: `python app.py` opens the page on this machine."""

from dspark_core.playground.program import main

if __name__ == "__main__":
    main()
