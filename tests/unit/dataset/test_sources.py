"""Tests that a source of other images than those of the plan is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from imagemint.dataset.errors import SourceChanged
from imagemint.dataset.local import describe_bundle, find_bundle
from imagemint.dataset.making import read_plan
from imagemint.dataset.places import open_folder
from imagemint.dataset.sources import _check_batch


@pytest.fixture
def plan(make, tmp_path):
    """The plan of a data set of `tiny`."""
    assert make(tmp_path / "set") == 0
    return read_plan(open_folder(str(tmp_path / "set")))


@pytest.mark.parametrize(
    "name", ["model", "version", "bundle_sha256", "variant", "execution_provider"]
)
def test_other_offer_is_refused(plan, models, name):
    """Each of these properties gives other pixels, such as the GPU of another server."""
    _, offer = describe_bundle(find_bundle(str(models), "tiny", "", "cpu"), "")
    offer.check(plan, "server")
    with pytest.raises(SourceChanged, match=f"server has {name} other of "):
        replace(offer, **{name: "other"}).check(plan, "server")


@pytest.mark.parametrize("name", ["version", "bundle_sha256", "variant"])
def test_batch_of_another_model_is_refused(plan, name):
    """A server may load another model between its description and a batch."""
    names = ("version", "bundle_sha256", "variant")
    sent = {each: getattr(plan, each) for each in names}
    _check_batch(SimpleNamespace(**sent), plan, "server")
    with pytest.raises(SourceChanged, match="server changed"):
        _check_batch(SimpleNamespace(**sent | {name: "other"}), plan, "server")
