"""2,000 random texts of each published vocabulary, in as a conversation and out as a stream, against the libraries.

python -m tests.scripts.texts_in_and_out [COUNT]
"""

import sys

from tests.models.build import VOCABULARY_NAMES as NAMES
from tests.models.test_tokenizer_files import in_and_out
from tests.models.test_vocabularies import streams_as_decoded

if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for name in NAMES:
        in_and_out(name, count)
        streams_as_decoded(name, count)
        print(f"{name}: {count} texts in, {count} out and {count} cut off or at random, all equal", flush=True)
