"""DSpark Playground: `python app.py` opens the page on this machine."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # where Python is told to leave it out (PYTHONSAFEPATH)
    from dspark_core.models.group import take_place

    take_place()  # on another rank than the first nothing of the page is needed
    from dspark_core.playground.program import main

    main()
