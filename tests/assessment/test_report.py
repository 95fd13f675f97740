"""The report of small run folders, made through the real records, read back with independent parsers."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import scipy.stats
import SimpleITK as sitk
from hypothesis import given
from hypothesis.extra import numpy as arrays
from scipy.ndimage import label as components
from skimage.draw import polygon2mask

from voxfit.assessment.report import write_report
from voxfit.assessment.report.charts import Axis, Curve, curves
from voxfit.assessment.report.markup import element
from voxfit.assessment.report.overlays import choose_slice, outline, png, shrink
from voxfit.assessment.scores import score_case, summarize
from voxfit.assessment.selection import Candidate, choose
from voxfit.core.errors import WorkspaceError
from voxfit.core.layout import Layout
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.writing import write_image, write_label
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.folds import split
from voxfit.planning.grid import Normalization
from voxfit.planning.intensities import Intensities
from voxfit.planning.plan import Plan
from voxfit.planning.planners import plan_by
from voxfit.planning.planners.paper import make_plan
from voxfit.planning.recipes import PolynomialDecay, Recipe, recipe_named
from voxfit.planning.settings import Settings

LABELS = Labels(classes=(Label(name="liver", value=1), Label(name="tumour <b>&\"'", value=4)))
VALUES = np.array([0, 1, 4], np.uint8)
SHAPE, SPACING = (8, 24, 20), (4.0, 1.0, 1.5)
VOID = {"meta", "link", "img", "br", "hr", "input"}


# -- a run folder and what reads its report ---------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements, the attributes and the text of a page; unbalanced tags fail."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts, self.strong = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
            if "strong" in self.open:
                self.strong.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


def blob(centre, radius, shape=SHAPE):
    grid = np.indices(shape)
    return sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2


def maps(number, shape=SHAPE):
    """Class indices of a reference and of a prediction that is worse for higher numbers."""
    middle = [size // 2 for size in shape]
    reference, predicted = np.zeros((2, *shape), np.int16)
    reference[blob(middle, 7, shape)] = 1
    reference[blob(middle, 2, shape)] = 2
    predicted[blob((middle[0], middle[1] + number, middle[2]), 7, shape)] = 1
    predicted[blob((middle[0], middle[1] + number, middle[2]), 2, shape)] = 2
    return reference, predicted


def build(folder, names, *, geometry=None, candidates=("3d",), recipe=None, folds=(0, 1), empty=()):
    """A finished run and its references: every file through the record that the method writes it with."""
    geometry = geometry or Geometry(SHAPE, SPACING)
    run, references, scored = folder / "run", {}, {name: [] for name in candidates}
    size = CaseFingerprint(shape=geometry.shape, uncropped_shape=geometry.shape, spacing_mm=geometry.spacing_mm)
    fingerprint = Fingerprint(
        dataset="Liver <script>alert(1)</script>",
        dimension=geometry.dimension,
        channel_names=("MRI & more",),
        labels=LABELS,
        cases=(size,) * len(names),
        intensities=(None,),
        single_component_labels=(1,),
    )
    fingerprint.save(run / "fingerprint.json")
    plan, folds_of_cases = make_plan(fingerprint), split([Case(name=name, images=()) for name in names], 2, 0)
    plan.save(run / "plan.json")
    Settings(plan=plan, recipe=recipe or Recipe(folds=2)).save(run / "training.json")
    fold_of = {name: fold for fold, part in enumerate(folds_of_cases.validation) for name in part}
    split([Case(name=name, images=()) for name in names], 2, 0).save(run / "folds.json")
    ending = ".png" if geometry.dimension == 2 else ".nii.gz"
    for number, name in enumerate(names):
        reference, predicted = maps(number, geometry.shape)
        if name in empty:
            reference, predicted = np.zeros((2, *geometry.shape), np.int16)
        files = (folder / "images" / f"image{number}{ending}", folder / "labels" / f"label{number}{ending}")
        grey = np.random.default_rng(number).integers(0, 50, geometry.shape).astype(np.uint8)
        write_image(files[0], grey + (reference * 90).astype(np.uint8), geometry)
        write_label(files[1], VALUES[reference], geometry)
        references[name] = files
        for candidate in candidates:
            layout = Layout(run)
            place = layout.ensemble([candidate]) if "+" in candidate else layout.validation(candidate, fold_of[name])
            write_label(place.label(name), VALUES[predicted], geometry)
            scored[candidate].append(score_case(name, reference, predicted, geometry.spacing_mm, LABELS))
    chosen = []
    for candidate, cases in scored.items():
        scores = summarize(cases, LABELS)
        place = run / "ensembles" / candidate if "+" in candidate else run / candidate / "cross_validation"
        scores.save(place / "scores.json")
        means = {label: mean.dice for label, mean in scores.mean.labels.items()}
        parts = tuple(candidate.split("+"))
        chosen.append(
            Candidate(
                name=candidate,
                configurations=parts,
                foreground_dice=scores.mean.foreground_dice,
                label_dice=means,
                cases=len(cases),
            )
        )
        if len(parts) == 1:
            for fold in folds:
                train(run / candidate / f"fold_{fold}")
    choose(chosen, "test").save(run / "selection.json")
    return run, references


def train(folder, epochs=3):
    folder.mkdir(parents=True)
    line = {"validation_dice": [0.5, None], "learning_rate": 1e-3, "steps": 10, "seconds": 61.0, "wait_share": 0.0}
    (folder / "history.jsonl").write_text(
        "".join(
            json.dumps({"epoch": epoch + 1, "training_loss": 1 - epoch / 4, "validation_loss": 1.0} | line) + "\n"
            for epoch in range(epochs)
        )
    )
    (folder / "manifest.json").write_text(json.dumps({"schema": "voxfit.fold/2", "epochs": epochs, "seconds": 1.0}))


def report(run, references):
    path = run / "report.html"
    write_report(run, path, references)
    return path.read_text(encoding="utf-8")


NAMES = ["case_000", 'a<b>&"quoted"', "case_002", "Ünïcode ß 漢", *(f"case_{number:03d}" for number in range(4, 12))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return build(tmp_path_factory.mktemp("finished"), NAMES, candidates=("2d", "3d", "2d+3d"))


@pytest.fixture(scope="module")
def html(finished):
    return report(*finished)


@pytest.fixture
def copied(finished, tmp_path):
    """The same run, to break."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", finished[1]


# -- the page ---------------------------------------------------------------------------------------------------------


def test_page_is_balanced_and_names_every_case(html):
    page = Page(html)
    table = html[html.index("All cases: ") :]
    for name in NAMES:
        assert name in page.texts
        assert name in Page(table[: table.index("</table>")].partition("<tbody>")[2].removesuffix("</tbody>")).texts
    for part in ("Spread over the cases", "Volumes", "Training", "Plan", "What these numbers do not show"):
        assert part in page.texts


def test_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "style", "srcset")]
    links = [value for _, name, value in page.attributes if name in ("href", "xlink:href")]
    assert links
    assert all(value.startswith(("#section-", "data:image/png;base64,")) for value in links)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in re.sub(r"base64,[^\"]*", "", html)


def test_escapes_what_data_says(html):
    assert "<script" not in html
    assert "a<b>" not in html
    assert "tumour <b>" not in html
    page = Page(html)
    assert "b" not in page.tags
    assert "Liver <script>alert(1)</script>: segmentation report" in page.texts


def test_marks_the_chosen_and_says_by_how_much(html, finished):
    page = Page(html)
    # All candidates are equal here: the tie goes to the first of the single networks.
    assert "2d (chosen)" in page.strong
    assert not {"3d", "2d+3d"} & set(page.strong)
    assert "It leads the next, 3d, by 0.000." in page.text
    assert "2d+3d" in page.text


def test_the_chosen_leads_the_next_best(copied):
    run, references = copied
    dice = {"2d": 0.7, "3d": 0.9, "3d_lowres": 0.89, "2d+3d": 0.85}
    items = [
        Candidate(name=name, configurations=tuple(name.split("+")), foreground_dice=mean, label_dice={}, cases=12)
        for name, mean in dice.items()
    ]
    choose(items, "test").save(run / "selection.json")
    page = Page(report(run, references))
    assert "3d (chosen)" in page.strong
    assert "It leads the next, 2d+3d, by 0.050." in page.text


def test_volumes_are_compared_as_bland_and_altman_do(copied):
    """Of a prediction that is too large by different volumes; half a unit of the last digit is rounded away."""
    run, references = copied
    cases, pairs = [], []
    for number, name in enumerate(NAMES):
        label = np.zeros((2, *SHAPE), np.int16)
        label[0, :, : 4 + number % 5] = label[1, :, : 6 + number] = 1
        cases.append(score_case(name, label[0], label[1], SPACING, LABELS))
        pairs.append((label == 1).sum(axis=(1, 2, 3)) * np.prod(SPACING) / 1000)
    summarize(cases, LABELS).save(run / "2d" / "cross_validation" / "scores.json")
    page = Page(report(run, references))
    rows = page.texts[page.texts.index("Agreement of volumes") :]
    median, mean, limits, correlation, ratio = rows[rows.index("liver") + 1 :][:5]
    reference, predicted = np.array(pairs).T
    differences = predicted - reference
    ends = scipy.stats.norm.interval(0.95, differences.mean(), differences.std(ddof=1))
    for text, expected in (
        (median, np.median(reference)),
        (mean, differences.mean()),
        *zip(limits.split(" to "), ends, strict=True),
        (correlation, scipy.stats.pearsonr(reference, predicted).statistic),
        (ratio, predicted.sum() / reference.sum()),
    ):
        assert float(text) == pytest.approx(expected, abs=0.51 * 10.0 ** -len(text.partition(".")[2]))


def test_shows_the_worst_five_and_the_median(html):
    page = Page(html)
    titles = [data for data in page.texts if re.match(r" \((worst \d|median)\): Dice 0\.\d+", data)]
    assert [re.search(r"worst \d|median", title)[0] for title in titles] == [
        "worst 1", "worst 2", "worst 3", "worst 4", "worst 5", "median",
    ]  # fmt: skip
    assert len(pictures(html)) == 12
    assert page.texts[page.texts.index(titles[0]) - 1] == "case_011"


def test_pictures_are_what_the_file_holds(html, finished, tmp_path):
    """The first picture is a slice of the worst case: the pixels an independent reader finds, windowed."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(finished[1]["case_011"][0]))).astype(float)
    reference, predicted = maps(11)
    worst = np.argmax((reference != predicted).sum(axis=(1, 2)))
    low, high = np.percentile(image[worst], (1, 99))
    expected = np.clip(np.rint((image[worst] - low) / (high - low) * 255), 0, 255)
    np.testing.assert_allclose(pictures(html, tmp_path)[0], expected, atol=1)


def test_pictures_have_the_proportions_of_the_patient(html):
    widths = re.findall(r'<svg class="view" viewBox="0 0 ([\d.]+) ([\d.]+)"', html)
    assert float(widths[0][0]) / float(widths[0][1]) == pytest.approx(20 * 1.5 / (24 * 1.0), rel=0.01)


def test_every_picture_and_chart_is_described(html):
    graphics = re.findall(r"<svg [^>]*>", html)
    assert len(graphics) > 12
    assert all(re.search(r'aria-hidden="true"|role="img" aria-label="[^"]+"', graphic) for graphic in graphics)
    page = Page(html)
    assert page.tags.count("table") == page.tags.count("caption") == page.tags.count("thead")
    assert all(value in ("row", "col", "colgroup") for _, name, value in page.attributes if name == "scope")


def test_size_is_bounded(tmp_path):
    geometry = Geometry((3, 700, 900), (5.0, 0.7, 0.7))
    run, references = build(tmp_path, NAMES[:6], geometry=geometry)
    noise = np.random.default_rng(0).integers(0, 255, geometry.shape).astype(np.uint8)
    for files in references.values():
        write_image(files[0], noise, geometry)
    assert len(report(run, references)) < 3_000_000


def test_is_the_same_every_time(finished, html):
    assert report(*finished) == html


def test_says_how_channels_are_normalised_whatever_their_kind(copied):
    run, references = copied
    measured = Intensities(percentile_00_5=-9, percentile_99_5=99, mean=5, standard_deviation=7, voxels=10)
    words = {
        "T1": "z-score of each case",
        "CT": "clipped to -9 to 99, minus 5, divided by 7: of the training set's foreground",
        "CT late": "CT, not measured",
        "noNorm": "left as it is",
        "rescale_to_0_1": "from each case's own minimum and maximum to 0 and 1",
        "rgb_to_0_1": "divided by 255",
    }
    known = Fingerprint.load(run / "fingerprint.json")
    intensities = tuple(measured if name == "CT" else None for name in words)
    fingerprint = known.model_copy(update={"channel_names": tuple(words), "intensities": intensities})
    plan = plan_by("nnunet-v2", fingerprint)
    assert {type(rule) for rule in plan.normalization} == set(get_args(get_args(Normalization)[0]))
    fingerprint.save(run / "fingerprint.json")
    Settings(plan=plan, recipe=recipe_named("nnunet-v2")).save(run / "training.json")
    page = Page(report(run, references))
    assert ", ".join(f"{name} ({how})" for name, how in words.items()) in page.texts


# -- honesty ----------------------------------------------------------------------------------------------------------


def test_all_folds_and_the_papers_settings(tmp_path):
    run, references = build(tmp_path, NAMES[:5], recipe=Recipe())
    for fold in range(2, 5):
        train(run / "3d" / f"fold_{fold}")
    (run / "folds.json").unlink()
    text = Page(report(run, references)).text
    assert "All 5 folds were trained" in text
    assert "unchanged" in text
    assert "folds.json: there is no such file." in text


def test_names_folds_that_were_not_trained(tmp_path):
    run, references = build(tmp_path, NAMES[:4], folds=(1,))
    page = Page(report(run, references))
    assert "Only 1 of 2 folds was trained" in page.strong
    assert "(fold 1)." in page.text


def test_folds_that_were_interrupted_do_not_count_as_trained(tmp_path):
    """Whose history is there, but which was interrupted."""
    run, references = build(tmp_path, NAMES[:4])
    assert "Only 1 of 2 folds was trained" not in Page(report(run, references)).strong
    (run / "3d" / "fold_0" / "manifest.json").unlink()
    page = Page(report(run, references))
    assert "Only 1 of 2 folds was trained" in page.strong
    assert "(fold 1)." in page.text


def test_names_every_departure_from_the_paper(copied):
    run, references = copied
    recipe = Recipe(schedule=PolynomialDecay(learning_rate=0.003, seconds=90.0), steps_per_epoch=10, folds=2)
    plan = json.loads((run / "plan.json").read_text())
    plan["changes"] = ["3d: batch size smaller <so>"]
    plan["configurations"]["3d"]["base_features"] = 8
    plan["limits"]["min_edge"] = 4
    Settings(plan=Plan.from_json(json.dumps(plan)), recipe=recipe).save(run / "training.json")
    page = Page(report(run, references))
    assert "3d: batch size smaller <so>" in page.texts
    assert "steps_per_epoch 10 (paper: 250)" in page.texts
    assert "limits.min_edge 4 (paper: 8)" in page.texts
    assert "3d: base_features 8 (rules: 30)" in page.texts
    assert any("polynomial decay to 0 within 1 min 30 s (paper:" in text for text in page.texts)


def test_counts_what_is_absent(tmp_path):
    run, references = build(tmp_path, NAMES[:4], empty=(NAMES[2],))
    page = Page(report(run, references))
    assert "here 2 times. Absent in one of them" in page.text
    assert page.texts.count("\N{EN DASH}") >= 5


def test_names_what_postprocessing_did(html):
    assert "of liver only the largest connected component is kept" in html


# -- what may be missing ----------------------------------------------------------------------------------------------


def test_says_where_steps_were_few(html, copied):
    assert "Trained for fewer than 300 steps: 2d fold 0 (30), 2d fold 1 (30)" in html
    run, references = copied
    for history in run.glob("*/fold_*/history.jsonl"):
        history.write_text(history.read_text().replace('"steps": 10', '"steps": 100'))
    assert "Trained for fewer" not in report(run, references)


def test_needs_a_run_folder(tmp_path):
    with pytest.raises(WorkspaceError, match=r"is no run folder.*voxfit fit"):
        write_report(tmp_path, tmp_path / "report.html", {})
    assert not (tmp_path / "report.html").exists()


def test_one_case(tmp_path):
    run, references = one_case(tmp_path)
    html = report(run, references)
    assert "(worst 1, and the median): Dice" in html
    assert len(pictures(html)) == 2


def one_case(tmp_path):
    """A run of two cases of which one has a score."""
    run, references = build(tmp_path, NAMES[:2], folds=(0,))
    reference, predicted = maps(1)
    scores = summarize([score_case(NAMES[1], reference, predicted, SPACING, LABELS)], LABELS)
    scores.save(run / "3d" / "cross_validation" / "scores.json")
    return run, references


def test_no_score_at_all(tmp_path):
    run, references = build(tmp_path, NAMES[:2], empty=NAMES[:2])
    page = Page(report(run, references))
    assert "nan" not in page.text
    assert not [value for _, name, value in page.attributes if name != "href" and "nan" in (value or "")]
    assert page.texts.count("\N{EN DASH}") > 4


@pytest.mark.parametrize(
    "lost",
    [
        "training.json",
        "fingerprint.json",
        "folds.json",
        "selection.json",
        "2d/cross_validation/scores.json",
        "2d",
        "3d",
        "ensembles",
    ],
)
@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_a_missing_piece_is_named(copied, lost, how):
    run, references = copied
    place = run / lost
    if place.is_dir():
        shutil.rmtree(place)
    elif how == "absent":
        place.unlink()
    else:
        place.write_text('{"schema": "other", <')
    page = Page(report(run, references))
    assert "Plan" in page.texts
    if place.suffix == ".json" and (how == "damaged" or place.parent == run):
        assert lost in page.text
        assert "Missing or unreadable" in page.text


@pytest.mark.parametrize(
    "history", ["", "{", "[]\n3\nnull\n", '{"epoch": 1}\n', '{"training_loss": NaN, "validation_dice": 7}\n', "\x00"]
)
def test_damaged_history(copied, history):
    run, references = copied
    (run / "2d" / "fold_0" / "history.jsonl").write_text(history)
    (run / "2d" / "fold_1" / "history.jsonl").unlink()
    Page(report(run, references))


def test_foreign_folders(copied):
    run, references = copied
    train(run / "mine <i>" / "fold_all")
    (run / "mine <i>" / "cross_validation").mkdir()
    shutil.copy(run / "2d" / "cross_validation" / "scores.json", run / "mine <i>" / "cross_validation")
    shutil.copytree(run / "2d", run / "superseded" / "2d")
    page = Page(report(run, references))
    assert "fold all" not in page.text
    assert "superseded" not in page.text


def test_files_of_cases_that_are_missing_or_do_not_fit(copied, tmp_path):
    run, references = copied
    write_label(tmp_path / "small.nii.gz", np.zeros((2, 2, 2), np.uint8), Geometry((2, 2, 2), SPACING))
    changed = dict(references) | {"case_010": (references["case_010"][0], tmp_path / "small.nii.gz")}
    del changed["case_011"]
    Layout(run).segmentations("2d")["case_009"].unlink()
    page = Page(report(run, changed))
    assert "No image and reference were given." in page.texts
    assert "the prediction has the shape 2 x 2 x 2" in page.text
    assert "case_009.nii.gz: there is no such file." in page.text


def test_images_of_two_dimensions(tmp_path):
    geometry = Geometry((1, 40, 30), (1.0, 1.0, 1.0), dimension=2)
    run, references = build(tmp_path, NAMES[:3], geometry=geometry, candidates=("2d",))
    html = report(run, references)
    assert len(pictures(html)) == 6
    assert " px</text>" in html
    assert "each axis (y, x)" in html


# -- drawing ----------------------------------------------------------------------------------------------------------


def pictures(html, folder=None):
    """The PNG images of a page: decoded with SimpleITK where a folder is given."""
    found = [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    return [decode(data, folder) for data in found] if folder else found


def decode(data, folder):
    path = Path(folder) / "picture.png"
    path.write_bytes(data)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (33, 57)])
def test_png_decodes_to_the_same_pixels(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(decode(png(pixels), tmp_path), pixels)


def test_shrink_takes_means():
    image = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(shrink(image, 2), [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]])
    np.testing.assert_array_equal(shrink(image[:3, :3], 2)[1], [12.5, 14.0])
    np.testing.assert_array_equal(shrink(image, 1), image)


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_outline_encloses_exactly_the_mask(mask):
    """Filled by an independent polygon filler with the even-odd rule, the outline gives the mask back."""
    filled = np.zeros(mask.shape, bool)
    for loop in loops(outline(mask)):
        filled ^= polygon2mask(mask.shape, np.array(loop)[:, ::-1] - 0.5)
    np.testing.assert_array_equal(filled, mask)


def loops(path):
    """Corners (x, y) of the closed lines of path data, each closed by itself."""
    for part in re.findall(r"M(\d+) (\d+)([^z]*)z", path):
        x, y = int(part[0]), int(part[1])
        corners = [(x, y)]
        for direction, length in re.findall(r"([hv])(-?\d+)", part[2]):
            x, y = (x + int(length), y) if direction == "h" else (x, y + int(length))
            corners.append((x, y))
        assert corners[0] == corners[-1]
        yield corners


def test_outline_of_a_block_is_short():
    mask = np.zeros((9, 9), bool)
    mask[2:6, 3:8] = True
    assert outline(mask) == "M3 2h5v4h-5v-4z"
    assert components(mask)[1] == outline(mask).count("M")
    assert outline(np.zeros((3, 3), bool)) == ""


@pytest.mark.parametrize("axes", ["RPI", "LPS", "RAS", "ASL", "SRP", "PIR"])
def test_slices_are_turned_as_radiologists_look_at_them(axes):
    """A volume stored along any axes shows the same picture, with the patient's right and front where they belong."""
    upright = np.arange(3 * 4 * 5).reshape(3, 4, 5)  # LPS: axes z up, y to the back, x to the left
    image = sitk.GetImageFromArray(upright.astype(np.float32))
    image.SetSpacing((1.0, 1.0, 2.0))
    stored = sitk.DICOMOrient(image, axes)
    array = sitk.GetArrayFromImage(stored)
    geometry = Geometry(array.shape, stored.GetSpacing()[::-1], stored.GetOrigin(), stored.GetDirection())
    reference = np.zeros(array.shape, np.int16)
    found = choose_slice(reference, np.where(array == upright[2, 1, 1], 1, 0), geometry, oriented=True)
    np.testing.assert_array_equal(found.of(array), upright[2])
    assert (found.edges, found.plane) == ("RLAP", "axial")
    assert found.pixel(geometry.spacing_mm) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("spacing", "edges", "plane"), [((1.0, 1.0, 3.0), "APSI", "sagittal"), ((1.0, 3.0, 1.0), "RLSI", "coronal")]
)
def test_other_planes_stand_upright(spacing, edges, plane):
    volume = np.arange(60).reshape(3, 4, 5)
    empty = np.zeros(volume.shape, np.int16)
    found = choose_slice(empty, empty, Geometry(volume.shape, spacing), oriented=True)
    assert (found.edges, found.plane) == (edges, plane)
    expected = volume[::-1, :, 0] if plane == "sagittal" else volume[::-1, 0, :]
    np.testing.assert_array_equal(found.of(volume), expected)


def test_unknown_orientation_is_not_claimed():
    empty = np.zeros((3, 4, 5), np.int16)
    found = choose_slice(empty, empty, Geometry(empty.shape, (1.0, 1.0, 1.0)), oriented=False)
    assert (found.edges, found.plane, found.transposed, found.flipped) == ("", "", False, (False, False))


def test_axis_ticks_are_round_and_inside():
    assert Axis(0.0, 1.0, 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis(1e-6, 3e-4, 0, 1, log=True).ticks() == pytest.approx([1e-6, 1e-5, 1e-4])
    assert Axis(5e-4, 3e-3, 0, 1, log=True).ticks() == pytest.approx([5e-4, 1e-3, 2e-3])
    assert Axis(1, 1000, 0, 1).place(500.5) == pytest.approx(0.5)
    assert Axis(1e-4, 1e-2, 0, 10, log=True).place(1e-3) == pytest.approx(5)


@pytest.mark.parametrize("values", [[], [None], [0.0], [1.0, None, 2.0], [0.5] * 1000])
@pytest.mark.parametrize("log", [False, True])
def test_curves_of_anything(values, log):
    chart = curves([Curve("loss", values, 9)], "a chart", log=log)
    Page(chart)
    assert "nan" not in chart


def test_elements_escape():
    assert element("p", '<a href="x">', title='"&', class_="k", none=None) == (
        '<p title="&quot;&amp;" class="k">&lt;a href=&quot;x&quot;&gt;</p>'
    )
