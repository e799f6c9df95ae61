"""Which training images a study's accuracies are of: others are refused, wherever the files are."""

import json

import pytest
from nas_data import fake_fashion

from syncnas_tvm import search
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.flags import task_of
from syncnas_tvm.nas.ownership import OWNER
from syncnas_tvm.nas.study import DIGEST, SETTINGS

OTHER = r"data digest [0-9a-f]{12}, not [0-9a-f]{12}: other training images; give --data the ones that it was made with, or another --"


@pytest.fixture
def folders(tmp_path):
    """Two folders of the same files, and one of others that differ in their pixels alone."""
    for name, seed in ("here", 0), ("there", 0), ("other", 1):
        fake_fashion(tmp_path / name, seed=seed)
    labels = "train-labels-idx1-ubyte.gz"
    (tmp_path / "other" / labels).write_bytes((tmp_path / "here" / labels).read_bytes())
    return tmp_path


def of(folders, name, output="output", *more):
    """The command's flags for the images in the folder ``name``, and its task."""
    flags = ["--data", f"fashion-mnist:{folders / name}", "--threads", "1"]
    flags += ["--output", str(folders / output), "--storage", str(folders / "study.db"), *more]
    options = search.make_parser().parse_args(flags)
    return options, task_of(options, options.output, "cpu")


def test_a_search_goes_on_over_its_own_images_alone(folders, capsys):
    study = search._open(*of(folders, "here"))
    assert len(study.user_attrs[SETTINGS][DIGEST]) == 12
    search._open(*of(folders, "there"))
    with pytest.raises(InputError, match=rf"results of a search \(study 'syncnas'\) with {OTHER}"):
        search._open(*of(folders, "other"))
    with pytest.raises(InputError, match=f"study 'syncnas' has {OTHER}study"):
        search._open(*of(folders, "other", "another"))
    assert not (folders / "another" / OWNER).exists()
    with pytest.raises(InputError, match=f"study 'syncnas' has {OTHER}study"):
        search._be_worker(*of(folders, "other"))  # on another machine, or since the files changed
    with pytest.raises(InputError, match="with data images None, not 64; give the same flags"):
        search._open(*of(folders, "here", "output", "--images", "64"))
    assert capsys.readouterr().err == ""


def test_a_study_that_does_not_know_its_images_goes_on_and_knows_them_from_then_on(folders, capsys):
    study, owner = search._open(*of(folders, "here")), folders / "output" / OWNER
    for found, keep in (
        (study.user_attrs[SETTINGS], lambda text: study.set_user_attr(SETTINGS, json.loads(text))),
        (json.loads(owner.read_text()), owner.write_text),
    ):
        del found[DIGEST]
        keep(json.dumps(found))
    for said in (1, 0):
        search._open(*of(folders, "here"))
        err = capsys.readouterr().err
        assert err.count("study 'syncnas' does not know its images: it takes these") == said
    assert DIGEST in json.loads(owner.read_text())
    for output in ("output", "another"):
        with pytest.raises(InputError, match=OTHER):
            search._open(*of(folders, "other", output))
