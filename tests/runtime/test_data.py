"""Data sets: what is read, resized and cropped, and what is refused."""

import io
import zipfile

import numpy as np
import pytest
from npu_isa.errors import DataError
from npu_runtime.data.dataset import Geometry, PreprocessOptions, load_dataset, preprocess_options
from PIL import Image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1])


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def write_files(folder, labels="file,label\na.png,2\nb/b.png,0\nc.png,1\n"):
    (folder / "b").mkdir()
    for name, pixels in zip(("a.png", "b/b.png", "c.png"), PIXELS, strict=True):
        (folder / name).write_bytes(png(pixels))
    (folder / "labels.csv").write_text(labels)
    return folder


def write_zip(path, folder):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_npz_folder_and_zip_hold_the_same(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    (tmp_path / "files").mkdir()
    folder = write_files(tmp_path / "files")
    for source in (tmp_path / "a.npz", folder, write_zip(tmp_path / "a.zip", folder)):
        found = load_dataset(source)
        assert np.array_equal(found.images, PIXELS), source
        assert found.labels.tolist() == LABELS.tolist()
        assert len(load_dataset(source, limit=2)) == 2


def test_npz_without_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS)
    assert load_dataset(tmp_path / "a.npz").labels is None


def test_files_become_gray_for_a_gray_model(tmp_path):
    found = load_dataset(write_files(tmp_path), channels=1)
    assert np.array_equal(found.images[0, ..., 0], np.asarray(Image.fromarray(PIXELS[0]).convert("L")))


def test_crop_is_central_and_drops_the_odd_pixel_at_the_end(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    # 6 rows -> 3: one is dropped above, two below; 8 columns -> 4: two on each side
    found = load_dataset(tmp_path / "a.npz", Geometry((), (3, 4)))
    assert np.array_equal(found.images, PIXELS[:, 1:4, 2:6])


def test_resize_to_the_shorter_side_is_pillows(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    found = load_dataset(tmp_path / "a.npz", Geometry((12,), ()))
    expected = np.asarray(Image.fromarray(PIXELS[1]).resize((16, 12), Image.Resampling.BILINEAR))
    assert found.images.shape == (3, 12, 16, 3)
    assert np.array_equal(found.images[1], expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS}, "has no array `images`"),
        ({"images": PIXELS.astype(np.float32)}, "must be uint8"),
        ({"images": PIXELS[0]}, "must be uint8"),
        ({"images": PIXELS[:0]}, "must be uint8"),
        ({"images": PIXELS, "labels": LABELS[:2]}, "must be whole numbers"),
        ({"images": PIXELS, "labels": LABELS / 2}, "must be whole numbers"),
        ({"images": np.array([{}], dtype=object)}, "not a readable"),
    ],
)
def test_wrong_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("file,label\na.png,cat\n", "line 2: needs `file` and a whole number"),
        ("file,label\na.png,1\n../x.png,1\n", "line 3: .* leads out"),
        ("file,label\n/etc/passwd,1\n", "line 2: .* leads out"),
        ("name,class\na.png,1\n", "line 2: needs"),
        ("file,label\n", "names no image"),
        ("file,label\nlabels.csv,1\n", "not a readable image"),
        ("file,label\nnope.png,1\n", "nope.png"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_wrong_labels(tmp_path, labels, message, packed):
    (tmp_path / "files").mkdir()
    source = write_files(tmp_path / "files", labels)
    with pytest.raises(DataError, match=message):
        load_dataset(write_zip(tmp_path / "a.zip", source) if packed else source)


def test_images_of_two_sizes_name_both(tmp_path):
    folder = write_files(tmp_path)
    (folder / "c.png").write_bytes(png(PIXELS[0, :4]))
    with pytest.raises(DataError, match=r"c\.png is 8x4 pixels, a\.png is 8x6") as error:
        load_dataset(folder)
    assert "--resize" in error.value.hint


@pytest.mark.parametrize("name", ["nope.npz", "nope"])
def test_missing(tmp_path, name):
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npz", "a.zip"])
def test_not_an_archive(tmp_path, name):
    (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(DataError, match="not a readable"):
        load_dataset(tmp_path / name)


def test_crop_larger_than_the_image(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS)
    with pytest.raises(DataError, match="has 8x6 pixels, the crop wants 4x7"):
        load_dataset(tmp_path / "a.npz", Geometry((), (7, 4)))


def test_preprocessing_from_a_file_and_the_command_line(tmp_path):
    path = tmp_path / "pre.toml"
    path.write_text("mean = [0.1, 0.2, 0.3]\nstd = 2\nresize = 96\ncrop = [64, 32]\n")
    found = preprocess_options(str(path), {"std": (4.0,), "mean": None})
    assert found == PreprocessOptions(mean=(0.1, 0.2, 0.3), std=(4.0,), resize=(96,), crop=(64, 32))
    assert found.per_channel(3) == ((0.1, 0.2, 0.3), (4.0, 4.0, 4.0))
    assert PreprocessOptions(crop=(5,)).geometry == Geometry((), (5, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meen = 1", "unknown key"),
        ("mean = 'x'", "preprocessing: could not convert"),
        ("std = 0", "std and pixel scale not 0"),
        ("mean = [nan]", "must be finite"),
        ("resize = [1, 2, 3]", "resize"),
        ("resize = 1.5", "whole pixels"),
        ("resize = 0", "resize"),
        ("mean = ", "not valid TOML"),
    ],
)
def test_wrong_preprocessing(tmp_path, text, message):
    path = tmp_path / "pre.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        preprocess_options(str(path), {})


def test_channels_that_do_not_fit():
    with pytest.raises(DataError, match="mean has 2 values, the model has 3 channels"):
        PreprocessOptions(mean=(1.0, 2.0)).per_channel(3)
