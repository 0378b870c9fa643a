"""Data sets: what is read, resized and cropped, and what is refused."""

import io
import os
import zipfile

import numpy as np
import pytest
from npu_isa.errors import DataError
from npu_runtime.data.dataset import load_dataset
from npu_runtime.data.geometry import Geometry
from npu_runtime.data.preprocess import PreprocessOptions, preprocess_options
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
        ({"images": np.array([{}], dtype=object)}, "`images` is object of shape"),
        ({"images": PIXELS, "labels": np.array(LABELS, object)}, "`labels` is object of shape"),
        ({"images": PIXELS, "labels": np.array([1, 2, 2**63], np.uint64)}, "go up to 9223372036854775808"),
        ({"images": PIXELS[..., :0]}, "none of them 0"),
        ({"x_train": PIXELS}, "has no array `images`; it holds x_train"),
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
        ("file,label\nnope.png,1\n", "nope.png cannot be read: [Tt]here is no"),
        ("file,label\na.png,--5\n", "line 2: needs"),
        ("file,label\na.png,\u00b2\n", "line 2: needs"),
        ("file,label\na.png," + "9" * 30 + "\n", "line 2: needs"),
        ("file,label\n" + "a" * 2000 + ",1\n", "line 2: a name of 2000 characters"),
        ("file,label\na\u202epng,1\n", "line 2: a name of 5 characters, or not printable"),
        ("file,label\n" + "a" * 200_000 + ",1\n", "labels.csv cannot be read: field larger"),
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


def test_a_file_of_another_kind_is_told_what_a_data_set_is(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(DataError, match=r"a\.npy: not a readable \.npz file: File is not a zip file") as error:
        load_dataset(tmp_path / "a.npy")
    assert "`images` (N, H, W, C uint8)" in error.value.hint
    assert "pickle" not in str(error.value)


def test_a_folder_without_labels(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv cannot be read: there is no such file in the folder"):
        load_dataset(tmp_path)


def test_neither_a_file_nor_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load_dataset(tmp_path / "pipe.npz")


def test_a_limit_that_leaves_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS)
    with pytest.raises(DataError, match="limit 0"):
        load_dataset(tmp_path / "a.npz", limit=0)


@pytest.mark.parametrize("geometry", [Geometry(), Geometry((12,), (10, 8))])
@pytest.mark.parametrize("limit", [None, 2])
def test_fortran_order_holds_the_same(tmp_path, geometry, limit):
    np.savez(tmp_path / "c.npz", images=PIXELS)
    np.savez(tmp_path / "f.npz", images=np.asfortranarray(PIXELS))
    ordered, other = (load_dataset(tmp_path / f"{k}.npz", geometry, limit).images for k in "cf")
    assert np.array_equal(ordered, other)
    assert other.flags.c_contiguous


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_resize_takes_no_channel_for_transparency(tmp_path, channels):
    pixels = RNG.integers(0, 256, (2, 6, 8, channels), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels)
    found = load_dataset(tmp_path / "a.npz", Geometry((9, 12))).images
    for c in range(channels):
        alone = Image.fromarray(pixels[1, ..., c]).resize((12, 9), Image.Resampling.BILINEAR)
        assert np.array_equal(found[1, ..., c], np.asarray(alone))


def test_gray_and_coloured_files_become_what_the_model_takes(tmp_path):
    folder = write_files(tmp_path)
    (folder / "c.png").write_bytes(png(PIXELS[2, ..., 0]))
    assert np.array_equal(load_dataset(folder).images[2], np.repeat(PIXELS[2, ..., :1], 3, axis=-1))
    assert load_dataset(folder, channels=1).images.shape == (3, 6, 8, 1)


def test_pixels_of_16_bits_are_not_cut_in_silence(tmp_path):
    folder = write_files(tmp_path)
    (folder / "c.png").write_bytes(png(np.full((6, 8), 40000, np.uint16)))
    with pytest.raises(DataError, match=r"c\.png has pixels of mode I;16") as error:
        load_dataset(folder)
    assert "8 bits" in error.value.hint


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
        ("resize = 100000000", "1 to 67108864"),
        ("resize = inf", "preprocessing: cannot convert float infinity"),
        ("crop = 1" + "0" * 400, "preprocessing"),
        ("mean = ", "not valid TOML"),
        ("mean = " + "[" * 3000, "not valid TOML"),
        ("pixel_scale = " + "1" * 5000, "not valid TOML"),
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
