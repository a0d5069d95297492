"""A mock challenge: the template's bytes but for the class, every row answered, missing videos named."""

import numpy as np
import pytest

from twofold.cache.feature_writer import write_feature_file
from twofold.data.labels import builtin_taxonomy
from twofold.data.readers.cexpr import HEADER
from twofold.data.utils.errors import InputError
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run
from twofold.fuse.settings import resolve
from twofold.fuse.video import parse_window, submission_output, submission_scores, template_keys, write_submission

VIDEOS = {"01": 6, "02": 3, "03": 5}  #: frames of the template; 03 asks for one more than was decoded
FACES = {"01": (2, 5), "02": (), "03": (1, 2, 4)}  #: frames with a face


@pytest.fixture
def template(tmp_path):
    """Windows line ends, and none after the last line."""
    lines = [",".join(HEADER), *(f"{video}/{frame:05d}.jpg,0" for video, frames in VIDEOS.items()
                                 for frame in range(1, frames + 1))]
    path = tmp_path / "template.csv"
    path.write_bytes("\r\n".join(lines).encode())
    return path


@pytest.fixture
def challenge(make_store, tmp_path):
    """A trained run, and a store with the faces of the challenge, cut from the run's own kind of features."""
    store = make_store()
    settings = resolve(changes={"epochs": 8, "lr": 3e-3, "warmup": 1, "hidden": 16, "seeds": 1})
    fuse([store], settings, out=tmp_path / "run")
    run = read_run(tmp_path / "run")
    keys = [f"{video}/{frame:05d}.jpg" for video, frames in FACES.items() for frame in frames]
    place = tmp_path / "challenge"
    place.mkdir()
    (place / "manifest.csv").write_text("key\n" + "\n".join(keys) + "\n")
    features = {}
    for name, dim in (("a", 12), ("b", 8)):
        features[name] = np.random.default_rng(dim).normal(0, 2, (len(keys), dim)).astype(np.float16)
        recipe = next(recipe for backbone, _, recipe in run.streams if backbone == f"timm:{name}")
        write_feature_file(place / f"{name}.h5", recipe=recipe, dim=dim, keys=keys,
                          sha256=[f"{row:064x}" for row in range(len(keys))], features=features[name], failures={})
    return run, place, keys, run.probabilities(np.hstack([features["a"], features["b"]]).astype(np.float32))


def by_hand(found: dict[str, np.ndarray], *, box: bool = False) -> list[int]:
    """The classes of the template's rows: interpolation, edges, and a window of three frames, written out."""
    p, q = found["01/00002.jpg"], found["01/00005.jpg"]
    one = [p, p, p * 2 / 3 + q / 3, p / 3 + q * 2 / 3, q, q]
    a, b, d = (found[f"03/{frame:05d}.jpg"] for frame in (1, 2, 4))
    three = [a, b, (b + d) / 2, d, d]
    if box:
        one = [(one[0] + one[0] + one[1]) / 3, *(sum(one[k - 1:k + 2]) / 3 for k in range(1, 5)),
               (one[4] + one[5] + one[5]) / 3]
        three = [(a + a + three[1]) / 3, *(sum(three[k - 1:k + 2]) / 3 for k in range(1, 4)),
                 (three[3] + three[4] + three[4]) / 3]
    two = [np.mean(list(found.values()), axis=0)] * 3
    return [int(row.argmax()) for row in [*one, *two, *three]]


@pytest.mark.parametrize("smooth", ["", "box:3"])
def test_a_mock_challenge(challenge, template, tmp_path, smooth):
    run, place, keys, scores = challenge
    expected = by_hand(dict(zip(keys, scores, strict=True)), box=bool(smooth))
    assert len(set(expected)) > 1  # else the rows would prove nothing
    wish = PredictOptions(template=template, fill=True, smooth=smooth)
    done = predict(run, place, wish, out=tmp_path / "out.csv")
    assert (done.written.rows, done.written.interpolated, done.exit_code) == (14, 9, 0)
    lines = template.read_bytes().split(b"\r\n")
    wanted = [lines[0], *(line[:-1] + b"%d" % call for line, call in zip(lines[1:], expected, strict=True))]
    assert (tmp_path / "out.csv").read_bytes() == b"\r\n".join(wanted)


def test_whole_videos_without_a_face_stop_it_with_a_list(challenge, template, tmp_path, cli):
    done = cli("predict", tmp_path / "run", tmp_path / "challenge", "--submission", template, "-o", tmp_path / "o.csv")
    assert done.returncode == 2 and not (tmp_path / "o.csv").exists()
    assert "1 whole videos" in done.stderr and " 02;" in done.stderr and "--fill-videos" in done.stderr


@pytest.mark.parametrize("start, ends", [("\ufeff", "\n"), ("", "\r\n"), ("\n", "\n\n")])
def test_all_other_bytes_stay(tmp_path, start, ends):
    text = start + ends.join([",".join(HEADER), "01/00001.jpg,0", "01/00002.jpg,", "02/00001.jpg", ""])
    path, out = tmp_path / "t.csv", tmp_path / "out.csv"
    path.write_bytes(text.encode())
    assert template_keys(path, builtin_taxonomy("cexpr7")) == ("01/00001.jpg", "01/00002.jpg", "02/00001.jpg")
    write_submission(path, submission_output(out, path, overwrite=False, inputs=()), [6, 3, 1])
    expected = start + ends.join([",".join(HEADER), "01/00001.jpg,6", "01/00002.jpg,3", "02/00001.jpg,1", ""])
    assert out.read_bytes() == expected.encode()


def test_the_classes_stand_in_the_header_in_the_order_of_their_numbers():
    classes = builtin_taxonomy("cexpr7")
    assert [name.lower() for name in HEADER[1:]] == list(classes.classes) and classes.numbers == tuple(range(7))


def test_other_classes_are_refused(template):
    with pytest.raises(InputError, match="cexpr7"):
        template_keys(template, builtin_taxonomy("rafdb11"))


def test_where_no_face_is_found_at_all_there_is_nothing_to_fill_with():
    with pytest.raises(InputError, match="01, 02"):
        submission_scores(np.full((2, 7), np.nan), ["01/1.jpg", "02/1.jpg"], parse_window("none"), fill=True)
