import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # replay.py, for this folder and tests/browser
