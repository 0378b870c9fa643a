"""Data sets that claim, or unpack to, more than they should, and damaged ones: errors of ours, and little memory."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from npu_isa.errors import DataError
from npu_runtime.data import files, limits
from npu_runtime.data.dataset import load_dataset
from npu_runtime.data.geometry import Geometry
from npu_runtime.data.preprocess import PreprocessOptions
from PIL import Image

MIB = 1 << 20
RNG = np.random.default_rng(0)


def npy(array, shape=None) -> bytes:
    """Return a .npy file; `shape`: what its header claims."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    )
    return out.getvalue() + array.tobytes()


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return path


def png_of(width, height) -> bytes:
    """Return a PNG file that declares a size and has no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def peak():
    """Return a function from a call to the most bytes that Python and NumPy held during it."""

    def measure(call):
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def refused(path, message, **given):
    with pytest.raises(DataError, match=message) as error:
        load_dataset(path, **given)
    assert error.value.where == path.name
    assert error.value.hint
    assert "BytesIO" not in str(error.value)


# -- .npz


def test_a_header_that_claims_more_than_the_file_holds(tmp_path, peak):
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    path = archive(tmp_path / "a.npz", {"images.npy": npy(pixels, (100_000, 224, 224, 3))})  # 14 GiB
    assert peak(lambda: refused(path, r"`images` is uint8 of shape \(100000, 224, 224, 3\), but 96 bytes long")) < MIB


def test_an_archive_that_claims_more_than_it_can_unpack_to(tmp_path, peak):
    path = archive(tmp_path / "a.npz", {"images.npy": npy(np.zeros((2, 4, 4, 3), np.uint8), (14 << 10, 1024, 1024, 1))})
    raw = bytearray(path.read_bytes())
    size = raw.index(b"PK\x01\x02") + 24  # of the member unpacked, in the directory of the archive
    raw[size : size + 4] = struct.pack("<I", 3 << 30)
    path.write_bytes(raw)
    assert peak(lambda: refused(path, "images.npy claims 3,221,225,472 bytes, packed into ")) < MIB


def test_shape_and_type_are_judged_before_data_are_unpacked(tmp_path, peak):
    path = archive(tmp_path / "a.npz", {"images.npy": npy(np.zeros((64 * MIB,), np.uint8))})
    assert path.stat().st_size < 100_000
    assert peak(lambda: refused(path, r"`images` is uint8 of shape \(67108864,\)")) < MIB
    path = archive(tmp_path / "b.npz", {"images.npy": npy(np.zeros((2, 4, 4, 3), np.uint8)), "labels.npy": b"0" * MIB})
    refused(path, "`labels` has no readable .npy header")


@pytest.mark.parametrize("geometry", [Geometry(), Geometry((32,), (16, 16))])
@pytest.mark.parametrize("fortran", [False, True])
def test_only_the_images_used_are_unpacked(tmp_path, peak, geometry, fortran):
    images = np.zeros((16_000, 32, 32, 3), np.uint8)  # 47 MiB
    np.savez_compressed(tmp_path / "a.npz", images=np.asfortranarray(images) if fortran else images)
    assert peak(lambda: load_dataset(tmp_path / "a.npz", geometry, limit=100)) < 4 * MIB


def test_a_limit_reads_what_the_whole_has(tmp_path):
    images = RNG.integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(50, dtype=">u2"))
    found = load_dataset(tmp_path / "a.npz", limit=20)
    assert np.array_equal(found.images, images[:20])
    assert found.labels.tolist() == list(range(20))


def test_more_than_the_limit_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_BYTES", 3 * MIB)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((4, 1024, 512, 3), np.uint8))
    refused(tmp_path / "a.npz", r"4 images of 512x1024 pixels and 3 channels take 0\.0 GiB, the limit is")
    assert len(load_dataset(tmp_path / "a.npz", limit=2)) == 2
    assert len(load_dataset(tmp_path / "a.npz", Geometry((512, 512)))) == 4
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path / "a.npz", Geometry((1024, 1024)))
    assert all(option in error.value.hint for option in ("--limit", "--max-images", "--resize", "--crop"))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(tmp_path, method):
    data = npy(np.zeros((2, 4, 4, 3), np.uint8))
    refused(archive(tmp_path / "a.npz", {"images.npy": data}, method), f"images.npy is packed by method {method}")


def test_cut_and_damaged_members(tmp_path):
    path = archive(
        tmp_path / "a.npz",
        {"images.npy": npy(RNG.integers(0, 256, (9, 64, 64, 3), dtype=np.uint8))},
        zipfile.ZIP_STORED,
    )
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    refused(path, "`images` cannot be read: Bad CRC-32")
    path.write_bytes(raw[:5000])
    refused(path, "not a readable .npz file")


@pytest.mark.parametrize(
    "head",
    [b"", b"\x93NUMPY\x03\x00", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", b"\x93NUMPY\x01\x00\x40\x00" + b"(" * 64],
    ids=["empty", "version", "length", "nested"],
)
def test_headers_that_cannot_be_read(tmp_path, head):
    refused(archive(tmp_path / "a.npz", {"images.npy": head}), "`images` has no readable .npy header")


# -- image files


def image_set(path, image, packed):
    members = {"labels.csv": "file,label\na.png,1\n", "a.png": image}
    if packed:
        return archive(path / "a.zip", members)
    for name, data in members.items():
        (path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("side", [9_000, 12_000, 100_000])  # taken by Pillow; with a warning; refused by it
@pytest.mark.filterwarnings("error")
def test_an_image_that_declares_too_many_pixels(tmp_path, peak, packed, side):
    path = image_set(tmp_path, png_of(side, side), packed)
    assert peak(lambda: refused(path, "a.png (has|declares).* pixels")) < 8 * MIB


@pytest.mark.parametrize("geometry", [Geometry((100_000,)), Geometry((100_000, 100_000), (8, 8))])
def test_a_resize_to_too_many_pixels(tmp_path, geometry):
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "png")
    message = "resized, has 100000x100000 = 10,000,000,000 pixels, the limit is 67,108,864"
    refused(image_set(tmp_path, out.getvalue(), True), message, geometry=geometry)
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    refused(tmp_path / "a.npz", message, geometry=geometry)


def test_a_side_beyond_every_image_is_refused_as_an_option():
    with pytest.raises(DataError, match=r"resize = .*, 1 to 67108864"):
        PreprocessOptions(resize=(10**12,))


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_unpack_to_too_much(tmp_path, monkeypatch, peak, packed):
    monkeypatch.setattr(files, "FILE_BYTES", MIB)
    path = image_set(tmp_path, bytes(64 * MIB), packed)
    assert peak(lambda: refused(path, "a.png has 67,108,864 bytes, the limit is 1,048,576")) < MIB
    monkeypatch.setattr(files, "LABELS_BYTES", 10)
    refused(path, "labels.csv has 19 bytes, the limit is 10")


def test_images_kept_together(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_BYTES", 100)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "png")
    refused(image_set(tmp_path, out.getvalue(), False), "1 images of 8x8 pixels and 3 channels take")


@pytest.mark.parametrize("data", [b"", b"hello", png_of(8, 8), png_of(8, 8)[:30]], ids=["no", "text", "empty", "cut"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_no_images(tmp_path, data, packed):
    refused(image_set(tmp_path, data, packed), "a.png is not a readable image")


PROGRAM = """
import resource, sys
from npu_isa.errors import DataError
from npu_runtime.data.dataset import load_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_dataset(sys.argv[1])
    sys.exit("read")
except DataError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("side", [9_000, 100_000])
def test_the_process_does_not_grow(tmp_path, side):
    """Pillow's memory is not Python's: measured from outside."""
    path = image_set(tmp_path, png_of(side, side), True)
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # KiB


# -- damage at random


def mutated(rng, data):
    """Return bytes with a few flipped, set, cut out or put in."""
    made = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, kind = int(rng.integers(len(made))), rng.integers(4)
        if kind == 0:
            made[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            made[at : at + int(rng.integers(1, 9))] = b"\xff" * int(rng.integers(1, 9))
        elif kind == 2:
            del made[at : at + min(int(rng.integers(1, 64)), len(made) - 1)]
        else:
            made[at:at] = rng.bytes(int(rng.integers(1, 16)))
    return bytes(made)


def parts(pixels):
    """Return the members of a .npz file, and of an archive with an image in each format."""
    images = {}
    for kind in files.FORMATS:
        out = io.BytesIO()
        Image.fromarray(pixels[0]).save(out, kind)
        images[f"a.{kind.lower()}"] = out.getvalue()
    labels = "file,label\n" + "".join(f"{name},{i}\n" for i, name in enumerate(images))
    return {"images.npy": npy(pixels), "labels.npy": npy(np.arange(3))}, {"labels.csv": labels.encode(), **images}


@pytest.mark.parametrize("kind", ["npz", "zip", "folder", "npz inside", "zip inside"])
def test_damage_ends_in_an_error_of_ours(tmp_path, kind, capfd):
    """`inside`: members are damaged before they are packed, so that the archive itself is whole."""
    rng = np.random.default_rng(len(kind))
    arrays, images = parts(rng.integers(0, 256, (3, 12, 10, 3), dtype=np.uint8))
    path = tmp_path / f"a.{kind[:3]}"
    whole = archive(path, arrays if kind.startswith("npz") else images).read_bytes()
    outcomes = []
    tracemalloc.start()
    for number in range(150):
        if kind in ("npz", "zip"):
            path.write_bytes(mutated(rng, whole))
        else:
            members = arrays if kind == "npz inside" else images
            hurt = str(rng.choice(list(members)))
            members = members | {hurt: mutated(rng, members[hurt])}
            if kind == "folder":
                path = tmp_path / "files"
                path.mkdir(exist_ok=True)
                for name, data in members.items():
                    (path / name).write_bytes(data)
            else:
                archive(path, members)
        try:
            load_dataset(path, Geometry((14,), (8, 8)), limit=None if number % 3 else 2)
            outcomes.append("read")
        except DataError as error:
            outcomes.append(str(error))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 * MIB
    assert len(set(outcomes)) > 5
    assert not any("BytesIO" in text or "pickle" in text for text in outcomes)
    capfd.readouterr()  # libtiff writes to stderr by itself
