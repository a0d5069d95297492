"""The embedding map: the scored faces where t-SNE puts their fused features, likes near likes."""

from dataclasses import dataclass
from html import escape

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from twofold.fuse.evaluate import Question
from twofold.fuse.report.content import RunContent
from twofold.fuse.report.markup import scrolled
from twofold.fuse.report.scatter import PALETTE, Point, scatter

MOST = 2000  #: faces on the map; of more, a sample
FEWEST = 10  #: below so many there is nothing to see
COMPONENTS = 50  #: of PCA, before t-SNE: the authors' own way with wide features (van der Maaten & Hinton, 2008, 4.2)


@dataclass(frozen=True, eq=False)
class Embedding:
    """places: (n, 2) from 0 to 1; rows: (n,) of the run's answers; scored: how many faces there are to draw from."""

    places: np.ndarray
    rows: np.ndarray
    scored: int


def embed(run: RunContent, question: Question, scorable: np.ndarray) -> Embedding | None:
    """Places of the faces (n,) bool of the question; None for fewer than `FEWEST`.

    Features are standardised as the head does it, and each stream is weighted so that all count alike, however wide.
    """
    faces = np.flatnonzero(scorable)
    if len(faces) < FEWEST:
        return None
    if len(faces) > MOST:
        faces = np.sort(np.random.default_rng(0).choice(faces, MOST, replace=False))
    head, streams = question.run.head, question.features.streams
    features = question.features.read(question.rows[faces])
    features = (features - head.mean[0].numpy()) / head.std[0].numpy()
    features /= np.concatenate([np.full(stream.dim, np.sqrt(stream.dim), np.float32) for stream in streams])
    components = min(COMPONENTS, *features.shape)
    reduced = PCA(components, random_state=0).fit_transform(features)
    places = TSNE(perplexity=min(30, (len(faces) - 1) / 3), init="pca", random_state=0).fit_transform(reduced)
    low, high = places.min(axis=0), places.max(axis=0)
    number = {key: row for row, key in enumerate(run.answers.keys)}
    rows = np.array([number[str(key)] for key in question.keys[faces]])
    return Embedding((places - low) / np.maximum(high - low, 1e-9), rows, int(scorable.sum()))


def embedding_drawing(run: RunContent, embedding: Embedding) -> str:
    """The map as an SVG that stands alone, coloured by truth."""
    answers = run.answers
    points = [Point(x, y, int(answers.truth[row]), int(answers.calls[row]),
                        f"{answers.keys[row]}: {run.classes[answers.truth[row]]}, called "
                        f"{run.classes[answers.calls[row]]} ({answers.confidence[row]:.2f})")
              for (x, y), row in zip(embedding.places.tolist(), embedding.rows, strict=True)]
    return scatter(f"Map of {len(points)} faces by their fused features{run.mark}", points, run.classes)


def embedding_section(run: RunContent, embedding: Embedding, *, number: int) -> list[str]:
    """The map with its switches, which need no script: what they do stands in the page's style."""
    colours = (("radio", "colour", "by-truth", "coloured by truth", " checked"),
               ("radio", "colour", "by-call", "coloured by call", ""))
    switches = (*(colours if len(run.classes) <= len(PALETTE) else ()),  # with more, the shapes are those of the truth
                ("checkbox", "errors", "errors", "errors only", ""))
    place = f"map{number}-"
    choices = "".join(f'<input type="{kind}" class="{name}" name="{place}{group}" id="{place}{name}"{checked}>'
                      f'<label for="{place}{name}">{words}</label> '
                      for kind, group, name, words, checked in switches)
    sample = f" (a sample of {embedding.scored})" if embedding.scored > len(embedding.rows) else ""
    return [f"<h3>Map of the faces{run.mark}</h3>",
            f'<div class="map">{choices}{scrolled(embedding_drawing(run, embedding))}</div>',
            f"<p>{len(embedding.rows)} scored faces{escape(sample)} by t-SNE of their fused features: near means "
            "alike, distances between clusters and their sizes mean nothing. A dot is called rightly, a cross wrongly; "
            "names show when the pointer rests on a face.</p>"]
