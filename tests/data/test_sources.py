"""The bytes of a key and no others: from folders, through links, from archives, and no harm from a hostile one."""

import io
import multiprocessing
import os
import pickle
import random
import struct
import tarfile
import unicodedata
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from twofold.cache.store import Store
from twofold.data.images.archives import Archive
from twofold.data.images.decode import ImageError
from twofold.data.images.sources import check_roots, hash_images, open_images, parse_roots
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError

BACKBONE = "timm:test_resnet"
KINDS = (".zip", ".tar")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "faces/a").mkdir(parents=True)
    (tmp_path / "faces/a/1.png").write_bytes(b"one")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n0,1,Training\n")
    return tmp_path / "faces"


def test_roots_by_name_and_links_within_a_root(root, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/2.png").write_bytes(b"two")
    (root / "b.png").symlink_to(root / "a/1.png")
    assert open_images(root).read("a/1.png") == open_images(root).read("b.png") == b"one"
    faces = open_images({"x": root, "y": tmp_path / "more"})
    assert faces.read("x/a/1.png") == b"one" and faces.read("y/2.png") == b"two"
    with pytest.raises(ImageError, match="no root for 'z'"):
        faces.read("z/2.png")


@pytest.mark.parametrize(("key", "reason"), [
    ("a/2.png", "missing file"), *((key, "unreadable file") for key in ("a", "a/1.png/x", "a\0b")),
    *((key, "outside its root") for key in ("../secret", "a/../../secret", "link", "linked/secret", "{root}/../secret",
                                            "in.csv/0000000.png")),
    pytest.param("locked.png", "Permission denied", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may"))])
def test_what_cannot_be_read_has_a_reason_and_a_key_cannot_leave_its_root(root, key, reason):
    (root / "link").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    (root / "in.csv").symlink_to(root.parent / "fer2013.csv")
    (root / "locked.png").touch(mode=0)
    with pytest.raises(ImageError, match=reason):
        open_images(root).read(key.format(root=root))


def test_links_out_of_the_root_are_an_option(root):
    """As DVC, git-annex and storage folders of clusters have it; keys cannot leave the root all the same."""
    (root / "link.png").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    images = open_images(root, follow_links=True)
    assert images.read("link.png") == images.read("linked/secret") == b"secret"
    for key in ("../secret", "linked/../secret", str(root.parent / "secret")):
        with pytest.raises(ImageError, match=r"outside its root|missing file"):
            images.read(key)


@pytest.mark.parametrize(("folder", "file", "asked"), [
    ("NFD", "NFD", "NFC"), ("NFC", "NFC", "NFD"), ("NFD", "NFC", "NFC"), ("NFC", "NFD", "NFD")])
def test_names_in_another_unicode_form_are_the_same_file(root, folder, file, asked):
    """macOS decomposes letters with accents; a manifest made there names them so."""
    name = "Zoë/é.png"
    path = root / unicodedata.normalize(folder, "Zoë") / unicodedata.normalize(file, "é.png")
    with zipfile.ZipFile(root / "one.zip", "w") as file:
        file.writestr(path.relative_to(root).as_posix(), b"there")
    assert open_images(root / "one.zip").read(unicodedata.normalize(asked, name)) == b"there"
    path.parent.mkdir()
    path.write_bytes(b"there")
    images, key = open_images(root), unicodedata.normalize(asked, name)
    assert images.read(key) == b"there"
    check_roots(images, [key])
    with pytest.raises(ImageError, match="missing file"):
        images.read("Zoë/è.png")


def test_roots_that_cannot_be_meant_are_refused(root, tmp_path):
    for wrong in (tmp_path / "none", {"x": tmp_path, "y": tmp_path / "none"}):
        with pytest.raises(InputError, match="no such folder of images"):
            open_images(wrong)
    check_roots(open_images(root), ["a/2.png", "a/1.png"])
    check_roots(open_images(root), [])
    many = [f"a/{row + 2}.png" for row in range(5000)]
    for roots, keys, says in (
            (root, ["x/a/1.png", "x/a/2.png"], r"none of 2 images tried is below .*the first is x/a/1.png"),
            ({"x": root}, ["x/a/1.png", "y/1.png"], "no root for the samples of y: give --root y=DIR too"),
            (root, many, "none of 100 images tried")):
        with pytest.raises(InputError, match=says):
            check_roots(open_images(roots), keys)
    assert parse_roots([str(root)]) == root
    assert list(parse_roots(["x=/a", "y=/b=c"]).values())[1].as_posix() == "/b=c"
    for words in (["/a", "/b"], ["x=/a", "x=/b"], ["x=", "y=/b"]):
        with pytest.raises(InputError, match="NAME=DIR"):
            parse_roots(words)


def packed(folder: Path, archive: Path, *, top: str = "") -> Path:
    """Everything in a folder as an archive of the kind that its name says, in no order."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    random.Random(0).shuffle(files)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for number, path in enumerate(files):
                kind = zipfile.ZIP_STORED if number % 3 == 0 else zipfile.ZIP_DEFLATED
                file.write(path, f"{top}{path.relative_to(folder).as_posix()}", kind)
    else:
        with tarfile.open(archive, "w") as file:
            for path in files:
                file.add(path, f"{top or './'}{path.relative_to(folder).as_posix()}")
    return archive


@pytest.fixture
def faces(tmp_path, put) -> Path:
    for number in range(12):
        put(tmp_path / "faces" / ("anger", "fear")[number % 2] / f"{number}.jpg", number)
    return tmp_path / "faces"


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_the_bytes_hashes_and_features_of_its_files(kind, faces, tmp_path, cli):
    archive = packed(faces, tmp_path / f"faces{kind}")
    for name, root in (("a", faces), ("b", archive)):
        done = cli("manifest", "folder", root, "-o", tmp_path / f"{name}.csv")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    keys = read_manifest(tmp_path / "a.csv").keys
    assert hash_images(open_images(archive), keys) == hash_images(open_images(faces), keys)
    checked = cli("manifest", "check", tmp_path / "a.csv", "--root", archive)
    assert checked.returncode == 0 and "every image can be read" in checked.stdout
    if kind == ".zip":
        stores = []
        for name, root in (("a", faces), ("b", archive)):
            cli("extract", tmp_path / "a.csv", "--root", root, "--store", tmp_path / name, "--backbones", BACKBONE,
                "--weights", f"{BACKBONE}=random:0", "--device", "cpu", "--precision", "fp32", "--batch-size", "4")
            stores.append(Store(tmp_path / name).find(BACKBONE))
        assert (stores[0].read() == stores[1].read()).all() and (stores[0].sha256 == stores[1].sha256).all()
        verified = cli("cache", "verify", tmp_path / "b", "--root", archive)
        assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_are_read_from_their_archives(kind, rafdb, rafce, affectnet, tmp_path_factory, cli):
    """All three lie in one folder here; in the archive below one more, as archives mostly are."""
    out = tmp_path_factory.mktemp("out")
    archive = packed(rafdb, out / f"all{kind}", top="all/")
    for words in (["rafdb", "--part", "both"], ["rafce"], ["affectnet"]):
        reader, *options = words
        for name, root in (("a", rafdb), ("b", archive)):
            done = cli("manifest", reader, root, *options, "-o", out / f"{name}.csv", "--overwrite")
            assert done.returncode == 0, done.stderr
        a, b = read_manifest(out / "a.csv"), read_manifest(out / "b.csv")
        assert [f"all/{key}" for key in a.keys] == b.keys
        assert a.table.drop(columns="key").equals(b.table.drop(columns="key"))
        inside, folder = open_images(archive), open_images(rafdb)
        assert all(inside.read(key) == folder.read(key.removeprefix("all/")) for key in b.keys)


def test_archives_within_a_folder_are_read_too(faces, tmp_path):
    """As RAF-DB comes: a folder with basic/Image/aligned.zip in it."""
    (tmp_path / "RAF/Image").mkdir(parents=True)
    packed(faces, tmp_path / "RAF/Image/aligned.zip", top="aligned/")
    root = open_images(tmp_path / "RAF")
    assert root.read("Image/aligned.zip/aligned/fear/1.jpg") == (faces / "fear/1.jpg").read_bytes()
    for key in ("Image/aligned.zip/aligned/none.jpg", "Image/none.zip/a.jpg"):
        with pytest.raises(ImageError, match="missing file"):
            root.read(key)
    (tmp_path / "RAF/bad.zip").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="not an archive that can be read"):
        root.read("bad.zip/a.jpg")


def read_in_process(root, key: str, results) -> None:
    results.put(root.read(key))


@pytest.mark.parametrize(("kind", "method"), [(".zip", "fork"), (".tar", "fork"), (".zip", "spawn")])
def test_threads_and_processes_read_one_archive(kind, method, faces, tmp_path):
    root = open_images(packed(faces, tmp_path / f"faces{kind}"))
    keys = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.jpg")) * 20
    expected = [(faces / key).read_bytes() for key in keys]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(root.read, keys)) == expected
    assert pickle.loads(pickle.dumps(root)).read(keys[0]) == expected[0]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=read_in_process, args=(root, keys[3], results))
    process.start()
    assert results.get(timeout=60) == expected[3]
    process.join()


def test_unsafe_names_are_not_in_an_archive(tmp_path, jpeg):
    names = ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "C:/out.jpg", "a\rb.jpg", "good/1.jpg", "win\\2.jpg"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for name in names:
            zipped.writestr(name, jpeg())
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(jpeg())
            file.addfile(info, io.BytesIO(jpeg()))
        for name, kind, target in (("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), ("dev.jpg", tarfile.CHRTYPE, ""),
                                   ("pipe.jpg", tarfile.FIFOTYPE, ""), ("hard.jpg", tarfile.LNKTYPE, "good/1.jpg"),
                                   ("hard2.jpg", tarfile.LNKTYPE, "/etc/passwd")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    assert list(Archive(tmp_path / "x.zip").members) == ["good/1.jpg", "win/2.jpg"]
    assert list(Archive(tmp_path / "x.tar").members) == ["good/1.jpg", "win/2.jpg", "hard.jpg"]
    assert Archive(tmp_path / "x.tar").read("hard.jpg") == jpeg()
    for key in ("../out.jpg", "/etc/out.jpg", "link.jpg"):
        with pytest.raises(ImageError, match="missing file"):
            open_images(tmp_path / "x.tar").read(key)


def test_members_that_cannot_be_trusted_are_failures(tmp_path, jpeg):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("good.jpg", jpeg())
        file.writestr("bomb.jpg", b"\0" * (300 << 20))
        file.writestr("liar.jpg", b"\0" * (1 << 20))
        file.writestr("bz.jpg", jpeg(), zipfile.ZIP_BZIP2)
        file.writestr("locked.jpg", jpeg())
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("twice.jpg", jpeg(1))
            file.writestr("twice.jpg", jpeg(2))
    content = bytearray(path.read_bytes())
    directory = content.rfind(b"PK\1\2", 0, content.rfind(b"liar.jpg"))
    struct.pack_into("<I", content, directory + 24, 1000)  # a megabyte that says it is 1,000 bytes
    directory = content.rfind(b"PK\1\2", 0, content.rfind(b"locked.jpg"))
    struct.pack_into("<H", content, directory + 8, 1)
    path.write_bytes(content)
    source = open_images(path)
    assert source.read("good.jpg") == jpeg()
    for key, reason in (("bomb.jpg", "file larger than 256 MB"), ("liar.jpg", "damaged in its archive"),
                        ("bz.jpg", "compressed in an unsupported way"), ("locked.jpg", "encrypted in its archive"),
                        ("twice.jpg", "there twice in its archive"), ("none.jpg", "missing file")):
        with pytest.raises(ImageError, match=reason):
            source.read(key)


def test_a_changed_member_is_found_out(tmp_path, faces):
    path = packed(faces, tmp_path / "x.zip")
    member = Archive(path).members["anger/0.jpg"].info
    content = bytearray(path.read_bytes())
    content[member.header_offset + 30 + len("anger/0.jpg") + member.compress_size // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged in its archive"):
        open_images(path).read("anger/0.jpg")


def tar_header(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar file of one header that declares this size."""
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(10 * 512)


@pytest.mark.parametrize(("name", "content", "says"), [
    ("x.zip", b"PK nothing", "not an archive that can be read"), ("x.zip", b"PK\5\6" + bytes(18), "no files in it"),
    ("x.tar", b"a" * 2000, "not an archive that can be read"), ("x.tar", tar_header(-512), "negative size"),
    ("x.tar", tar_header(1 << 30, tarfile.XHDTYPE), "a header of more than 1024 KB"),
    ("x.tar.gz", b"x", "unpack it, or repack it as .zip"), ("x.rar", b"Rar!", "only .zip and .tar are read in place")])
def test_what_is_no_archive_is_one_sentence(name, content, says, tmp_path, cli):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        open_images(tmp_path / name)
    done = cli("manifest", "folder", tmp_path / name, "-o", tmp_path / "faces.csv")
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_keys_of_another_folder_level_are_explained(faces, tmp_path, cli):
    archive = packed(faces, tmp_path / "x.zip", top="deep/")
    (tmp_path / "faces.csv").write_text("key\nanger/0.jpg\n")
    done = cli("manifest", "check", tmp_path / "faces.csv", "--root", archive)
    assert done.returncode == 2 and "which begins with deep/" in done.stderr
