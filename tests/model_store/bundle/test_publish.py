from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.bundle import publish as publish_module
from model_store.bundle import registry as registry_module
from model_store.bundle import storage as storage_module
from model_store.bundle.publish import Publication, Step, publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.storage import Folder
from model_store.errors import BundleRefused, ModelStoreError, VersionNotFound
from tests.support.bundles import NOON, bundle_files, description, empty_graph, publish_small

ROOT = Path(__file__).parents[3]

KILLED = """
import os, sys
from model_store.bundle.publish import Publication
from model_store.bundle.registry import ModelStore
from model_store.bundle.storage import Folder
from tests.support.bundles import NOON, bundle_files, description, empty_graph
store = ModelStore(sys.argv[1])
publication = Publication.plan(store, bundle_files(1), description(), NOON.replace(minute=1))
with store.lock():
    for number, step in enumerate(publication.steps()):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        step.run()
"""


def planned(store: ModelStore, seed: int = 1) -> Publication:
    return Publication.plan(store, bundle_files(seed), description(), NOON.replace(minute=seed))


def steps(store: ModelStore) -> list[Step]:
    return list(planned(store).steps())


LOCAL_STEPS = len(steps(ModelStore("/nowhere")))
REMOTE_STEPS = len(steps(ModelStore("memory://nowhere")))


def hidden(store: ModelStore) -> list[str]:
    return [entry.name for entry in store.root.entries() if entry.name.startswith(".staging")]


def check_after_kill(store: ModelStore, live: str, half: str, is_visible: bool) -> None:
    """The store works as before; the half-published version is there whole or not at all; publishing again succeeds."""
    assert store.live() == live
    store.bundle().verify()
    assert store.versions() == ([live, half] if is_visible else [live])
    if is_visible:
        store.bundle(half).verify()
        with pytest.raises(ModelStoreError, match="exists already"):
            publish_small(store, 1)
    else:
        with pytest.raises(VersionNotFound):
            store.bundle(half)
        with pytest.raises(VersionNotFound):
            store.promote(half)
        assert publish_small(store, 1) == half
    assert store.promote(half) == live
    store.bundle().verify()
    assert store.rollback() == live
    assert not hidden(store) or is_visible


@pytest.mark.parametrize("killed_before", range(LOCAL_STEPS))
def test_a_publisher_killed_between_any_two_steps_leaves_the_store_loadable(tmp_path: Path, killed_before: int) -> None:
    store = ModelStore(tmp_path / "models")
    live = publish_small(store, 0)
    store.promote(live)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "models"), str(killed_before)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    names = [step.name for step in steps(store)]
    check_after_kill(store, live, planned(store).manifest.version, is_visible="rename" in names[:killed_before])


@pytest.fixture
def bucket() -> Iterator[ModelStore]:
    """A store without folders or renames, as object storage is."""
    store = ModelStore(f"memory://bucket-{uuid.uuid4().hex}")
    yield store
    store.root.remove_all()


@pytest.mark.parametrize("stopped_before", range(REMOTE_STEPS + 1))
def test_a_publisher_stopped_between_any_two_steps_leaves_a_bucket_loadable(
    bucket: ModelStore, stopped_before: int
) -> None:
    live = publish_small(bucket, 0)
    bucket.promote(live)
    for step in steps(bucket)[:stopped_before]:
        step.run()
    check_after_kill(bucket, live, planned(bucket).manifest.version, is_visible=stopped_before == REMOTE_STEPS)


def test_a_torn_file_in_staging_does_not_matter(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publication = planned(store)
    publication.staging.write("search.onnx", b"half")
    publication.staging.write("stranger", b"x")
    assert publish_small(store, 1) == publication.manifest.version
    store.bundle(publication.manifest.version).verify()
    assert not hidden(store)


@pytest.mark.parametrize("place", ["path", "memory"])
def test_what_a_killed_collector_left_does_not_get_into_the_version(tmp_path: Path, place: str) -> None:
    store = ModelStore(tmp_path if place == "path" else f"memory://left-{uuid.uuid4().hex}")
    version = publish_small(store, 1)
    folder = store.root.child(version)
    folder.remove("manifest.json")
    folder.write("stranger", b"x")
    folder.child("report").write("old.md", b"x")
    assert publish_small(store, 1) == version
    store.bundle(version).verify()
    assert {entry.name for entry in folder.files()} == {*bundle_files(1), "manifest.json"}
    assert store.promote(version) is None
    store.root.remove_all()


def test_the_manifest_comes_last_and_the_rename_after_it(tmp_path: Path) -> None:
    names = [step.name for step in steps(ModelStore(tmp_path))]
    assert names[0] == "claim the name"
    assert names[-4:] == ["sync folders", "write manifest.json", "rename", "sync model store"]
    assert [step.name for step in steps(ModelStore("memory://x"))][-1] == "write manifest.json"


def test_folders_are_made_durable_before_the_rename_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut right after the rename must find the names of all files in the version."""
    synced: list[tuple[str, bool]] = []
    root = tmp_path / "models"
    store = ModelStore(root)
    version = planned(store).manifest.version

    def sync(folder: Path) -> None:
        assert folder.is_dir()
        synced.append((str(folder.relative_to(tmp_path)), (root / version).exists()))

    for module in (publish_module, registry_module, storage_module):
        monkeypatch.setattr(module, "sync_folder", sync)
    publish_small(store, 1)
    staging = f"models/.staging-{version}"
    assert synced[0] == (".", False), "the model store itself was made"
    assert {(staging, False), (f"{staging}/report", False)} <= set(synced)
    assert synced[-1] == ("models", True)

    synced.clear()
    store.root.child(version).remove("manifest.json")
    assert synced == [(f"models/{version}", True)]
    store.root.child(version).remove("manifest.json")
    assert len(synced) == 1, "nothing was removed"


def test_a_version_is_never_published_twice(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    version = publish_small(store)
    before = (tmp_path / version / "manifest.json").stat()
    with pytest.raises(ModelStoreError, match="exists already"):
        publish_small(store)
    assert (tmp_path / version / "manifest.json").stat() == before
    assert not hidden(store)


def test_files_may_come_from_disk_and_carry_a_parent(tmp_path: Path) -> None:
    source = tmp_path / "run"
    paths: dict[str, bytes | Path] = {}
    for name, data in bundle_files().items():
        paths[name] = source / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    store = ModelStore(tmp_path / "deep" / "models")
    version = publish(store, paths, description(parent="v0"))
    bundle = store.bundle(version)
    assert {name: bundle.read(name) for name in paths} == bundle_files()
    assert bundle.manifest.parent == "v0"
    assert bundle.manifest.created_at.utcoffset() is not None


def test_nothing_is_written_when_the_bundle_is_wrong(tmp_path: Path) -> None:
    store, files = ModelStore(tmp_path / "models"), bundle_files()
    with pytest.raises(BundleRefused, match=r"^golden\.json"):
        publish(store, files | {"golden.json": b"[]"}, description())
    with pytest.raises(ModelStoreError, match=r"files lacks search\.onnx"):
        publish(store, {name: data for name, data in files.items() if name != "search.onnx"}, description())
    with pytest.raises(ModelStoreError, match=r"'model\.pkl', which is not a file of a bundle"):
        publish(store, files | {"model.pkl": b""}, description())
    with pytest.raises(ModelStoreError, match=r"cannot read search\.onnx from .*absent: No such file"):
        publish(store, files | {"search.onnx": tmp_path / "absent"}, description())
    endless = description().model_copy(update={"tokenizer": {"perplexity": float("inf")}})
    with pytest.raises(ModelStoreError, match=r"tokenizer\.perplexity.* finite number"):
        publish(store, files, endless)
    assert not (tmp_path / "models").exists()


def test_a_file_that_changes_meanwhile_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "search.onnx"
    path.write_bytes(empty_graph("first"))
    store = ModelStore(tmp_path / "models")
    publication = Publication.plan(store, bundle_files() | {"search.onnx": path}, description(), NOON)
    path.write_bytes(empty_graph("other"))
    write = next(step for step in publication.steps() if step.name == "write search.onnx")
    with pytest.raises(ModelStoreError, match=r"search\.onnx changed while it was being published"):
        write.run()


def test_a_publisher_that_fails_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Folder, target: Folder) -> None:
        raise ModelStoreError("disk full")

    monkeypatch.setattr(Folder, "rename", full)
    with pytest.raises(ModelStoreError, match="disk full"):
        publish_small(ModelStore(tmp_path))
    assert not hidden(ModelStore(tmp_path))
    assert ModelStore(tmp_path).versions() == []


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    version = planned(store).manifest.version
    (tmp_path / version).write_text("a file where the version should go")
    with pytest.raises(ModelStoreError, match="exists already"):
        publish_small(store, 1)
    assert (tmp_path / version).is_file()
