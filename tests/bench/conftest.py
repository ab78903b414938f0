import pytest

from .made_models import make_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    make_models(place)
    return place
